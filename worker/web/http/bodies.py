"""Request bodies: bounded in size, time and number of parts, then JSON that means one thing only."""

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

from worker.settings import Settings
from worker.web.errors import ApiError, refused
from worker.web.http.rsgi import BodyBroken
from worker.web.shares import Shares

#: Where the ASGI scope keeps the name of the token, empty without tokens, and how many bytes of `Shares` its body holds.
HOLDER = "attendance.holder"
BODY_BYTES = "attendance.body-bytes"
#: Parts of a body, as the network or chunked framing cuts it, each costs a wake-up: so many, and one more per KiB.
_PARTS = 1024
_BYTES_PER_PART = 1024
#: Work on a larger body is done in a thread, so that other requests go on beside it.
_LARGE_BYTES = 32 * 1024
_CLOSE = {"connection": "close"}
_GZIP_WINDOW = zlib.MAX_WBITS | 16
T = TypeVar("T")

#: In one body: so many are decoded in some hundredths of a second, in which the process does nothing else.
MAX_JSON_VALUES = 100_000


class Bodies:
    """Reads bodies within the limits of the settings.

    Args:
        shared: what the bodies of all requests under way may hold together; the gate gives it back.
    """

    def __init__(self, settings: Settings, shared: Shares) -> None:
        self._most = settings.api_max_body
        self._seconds = settings.api_body_timeout.total_seconds()
        self._shared = shared
        self._one_at_a_time = asyncio.Semaphore(1)

    async def read(self, request: Request) -> bytearray:
        """The body, its content coding undone.

        Raises:
            ApiError: it is too large (413), coded in an unknown way (415), badly framed or too slow (400), or more than the
                token's share (429).
            starlette.requests.ClientDisconnect: the client has gone.
        """
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > self._most:
            raise self._too_large()
        body = _Gunzipped(self._most) if _is_gzip(request) else _Plain()
        arrived = parts = 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    arrived += len(part)
                    parts += 1
                    if parts > _PARTS + arrived // _BYTES_PER_PART:
                        raise refused(
                            400, "BODY_FRAGMENTED", "the body comes in too small parts: send larger ones", headers=_CLOSE
                        )
                    before = len(body.decoded)
                    if arrived > self._most or not body.feed(part) or len(body.decoded) > self._most:
                        raise self._too_large()
                    self._hold(request, len(body.decoded) - before)
            body.finish()
        except TimeoutError:
            description = f"the body was not there within {self._seconds:g} s: send it at once"
            raise refused(400, "BODY_TOO_SLOW", description, headers=_CLOSE) from None
        except BodyBroken:
            raise refused(
                400, "MALFORMED_BODY", "the body is cut short, badly framed, or has trailers", headers=_CLOSE
            ) from None
        except zlib.error:
            raise refused(400, "MALFORMED_BODY", "the body is not what Content-Encoding says: gzip", headers=_CLOSE) from None
        return body.decoded

    async def document(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body. Raises as `read`, and ApiError (400) for anything else than one."""
        kind = media_type(request)
        if kind and not is_json(kind):
            raise refused(400, "CONTENT_TYPE_NOT_SUPPORTED", "send the body as application/json", {"contentType": kind[:100]})
        body = await self.read(request)
        found = await self.apart(len(body), parse_json, body)
        if not isinstance(found, dict):
            raise _bad_json("JSON, but no object")
        return found

    async def apart(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """What the work on a body of this size comes to: a large one is worked on in a thread, one at a time."""
        if size <= _LARGE_BYTES:
            return work(*arguments)
        async with self._one_at_a_time:
            return await asyncio.to_thread(work, *arguments)

    def _hold(self, request: Request, size: int) -> None:
        if size and not self._shared.take(request.scope[HOLDER], size):
            description = "the bodies of this token's requests hold as much memory as they may: ask again"
            raise refused(429, "TOO_MANY_REQUESTS", description, headers={"retry-after": "1", **_CLOSE})
        request.scope[BODY_BYTES] = request.scope.get(BODY_BYTES, 0) + size

    def _too_large(self) -> ApiError:
        description = f"the body has more than {self._most} bytes"
        return refused(413, "BODY_TOO_LARGE", description, {"maxBytes": self._most}, _CLOSE)


class _Plain:
    """A body as it comes."""

    def __init__(self) -> None:
        self.decoded = bytearray()

    def feed(self, part: bytes) -> bool:
        self.decoded += part
        return True

    def finish(self) -> None:
        """Nothing is missing."""


class _Gunzipped:
    """A body in gzip, decoded as it comes, one member or several, and never beyond ``most`` bytes."""

    def __init__(self, most: int) -> None:
        self.decoded = bytearray()
        self._most = most
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = False

    def feed(self, part: bytes) -> bool:
        """Whether the body is still within its limit. Raises zlib.error."""
        while part:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            # one byte over the limit tells that it is over
            self.decoded += self._member.decompress(part, self._most + 1 - len(self.decoded))
            self._begun = True
            if len(self.decoded) > self._most:
                return False
            part = self._member.unconsumed_tail or self._member.unused_data
        return True

    def finish(self) -> None:
        """Raises zlib.error where the end is missing."""
        if not self._begun or not self._member.eof:
            raise zlib.error("incomplete")


def _is_gzip(request: Request) -> bool:
    """Whether the body is in gzip; raises ApiError (415) for any other coding."""
    said = ",".join(request.headers.getlist("content-encoding")).lower()
    codings = [each for each in map(str.strip, said.split(",")) if each not in ("", "identity")]
    if not codings:
        return False
    if codings not in (["gzip"], ["x-gzip"]):
        description = f"Content-Encoding: send gzip, or the body as it is; not {said[:100]}"
        raise refused(415, "CONTENT_ENCODING_NOT_SUPPORTED", description, headers={"accept-encoding": "gzip", **_CLOSE})
    return True


def media_type(request: Request) -> str:
    """The body's type in lower case, without parameters; empty where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or kind.endswith("+json")


def parse_json(body: bytes | bytearray) -> Any:
    """Decodes JSON by the letter of RFC 8259: UTF-8, no NaN, no lone surrogates, no name twice in an object.

    Raises:
        ApiError: it is none (400), means different things to different readers, or holds more than `MAX_JSON_VALUES`.
    """
    # every value but the first of a list or object is behind a comma; commas in texts count too, which are far fewer
    if body.count(b",") + body.count(b"[") + body.count(b"{") >= MAX_JSON_VALUES:
        raise _bad_json(f"it has more than {MAX_JSON_VALUES} values; send fewer in a call")
    try:
        orjson.loads(body)  # strict, and bounded in depth and in digits
        return json.loads(body, object_pairs_hook=_object)
    except _TwiceError as twice:
        raise _bad_json(f"the name {str(twice)[:60]!r} comes twice in one object") from None
    except RecursionError:
        raise _bad_json("it is nested too deeply") from None
    except ValueError as error:
        raise _bad_json(str(error)[:100]) from None


def write_json(document: Any) -> bytes:
    """JSON of what `parse_json` gave, integers of any length as they came.

    Raises:
        orjson.JSONEncodeError: it is nested too deeply.
    """
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class _TwiceError(ValueError):
    """A name that comes twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(name)
            seen.add(name)
    return found


def _bad_json(why: str) -> ApiError:
    return refused(400, "MALFORMED_JSON", f"the body must be a JSON object in UTF-8: {why}")
