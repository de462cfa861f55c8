"""Reads request bodies within limits of size, time and number of parts, and parses unambiguous JSON."""

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

from worker.settings import Settings
from worker.web.errors import ApiError, Refused
from worker.web.http.rsgi import BodyBroken
from worker.web.shares import Shares

#: Keys of the ASGI scope: the name of the token, empty without tokens; and the bytes of `Shares` that the body holds.
HOLDER = "attendance.holder"
BODY_BYTES = "attendance.body-bytes"
#: Each part of a body, as network or chunked framing splits it, costs a wake-up. A body may have this many, and one per KiB.
_PARTS = 1024
_BYTES_PER_PART = 1024
#: A larger body is parsed in a thread, so that other requests continue meanwhile.
_LARGE_BYTES = 32 * 1024
_CLOSE = {"connection": "close"}
_GZIP_WINDOW = zlib.MAX_WBITS | 16
T = TypeVar("T")

#: Of one body. Decoding this many takes some hundredths of a second, in which the process does nothing else.
MAX_JSON_VALUES = 100_000


class Bodies:
    """Reads bodies within the limits of the settings.

    Args:
        shared: the memory for the bodies of all requests in flight; `AccessMiddleware` gives it back.
    """

    def __init__(self, settings: Settings, shared: Shares) -> None:
        self._max_bytes = settings.api_max_body
        self._seconds = settings.api_body_timeout.total_seconds()
        self._shared = shared
        self._one_at_a_time = asyncio.Semaphore(1)

    async def read(self, request: Request) -> bytearray:
        """The body, decoded if it has a content coding.

        Raises:
            ApiError: the body is too large (413), has an unknown content coding (415), is malformed or too slow (400), or
                exceeds the token's share (429).
            starlette.requests.ClientDisconnect: the client has disconnected.
        """
        content_length = request.headers.get("content-length", "")
        if content_length.isdecimal() and int(content_length) > self._max_bytes:
            raise self._too_large()
        body = _Gunzipped(self._max_bytes) if _is_gzip(request) else _Plain()
        arrived = parts = 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    arrived += len(part)
                    parts += 1
                    if parts > _PARTS + arrived // _BYTES_PER_PART:
                        raise Refused(
                            400, "BODY_FRAGMENTED", "the body arrives in too many small parts: send larger ones", headers=_CLOSE
                        )
                    before = len(body.decoded)
                    if arrived > self._max_bytes or not body.feed(part) or len(body.decoded) > self._max_bytes:
                        raise self._too_large()
                    self._hold(request, len(body.decoded) - before)
            body.finish()
        except TimeoutError:
            description = f"the body was not complete within {self._seconds:g} s"
            raise Refused(400, "BODY_TOO_SLOW", description, headers=_CLOSE) from None
        except BodyBroken:
            raise Refused(
                400, "MALFORMED_BODY", "the body is truncated, wrongly framed, or has trailers", headers=_CLOSE
            ) from None
        except zlib.error:
            raise Refused(400, "MALFORMED_BODY", "Content-Encoding is gzip, but the body is not", headers=_CLOSE) from None
        return body.decoded

    async def document(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body. Raises as `read`, and ApiError (400) if the body is anything else."""
        kind = media_type(request)
        if kind and not is_json(kind):
            raise Refused(400, "CONTENT_TYPE_NOT_SUPPORTED", "send the body as application/json", {"contentType": kind[:100]})
        body = await self.read(request)
        document = await self.off_loop(len(body), parse_json, body)
        if not isinstance(document, dict):
            raise _bad_json("it is JSON but not an object")
        return document

    async def off_loop(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """The result of the work on a body of this size; the work on a large one runs in a thread, one at a time."""
        if size <= _LARGE_BYTES:
            return work(*arguments)
        async with self._one_at_a_time:
            return await asyncio.to_thread(work, *arguments)

    def _hold(self, request: Request, size: int) -> None:
        if size and not self._shared.take(request.scope[HOLDER], size):
            description = "the bodies of this token's requests have reached their limit of memory: retry"
            raise Refused(429, "TOO_MANY_REQUESTS", description, headers={"retry-after": "1", **_CLOSE})
        request.scope[BODY_BYTES] = request.scope.get(BODY_BYTES, 0) + size

    def _too_large(self) -> ApiError:
        description = f"the body has more than {self._max_bytes} bytes"
        return Refused(413, "BODY_TOO_LARGE", description, {"maxBytes": self._max_bytes}, _CLOSE)


class _Plain:
    """A body without content coding."""

    def __init__(self) -> None:
        self.decoded = bytearray()

    def feed(self, part: bytes) -> bool:
        self.decoded += part
        return True

    def finish(self) -> None:
        """Does nothing: such a body is never incomplete."""


class _Gunzipped:
    """A gzip body of one or more members, decoded as it arrives, up to one byte more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self.decoded = bytearray()
        self._max_bytes = max_bytes
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._begun = False

    def feed(self, part: bytes) -> bool:
        """Decodes a part; returns whether the body is within its limit. Raises zlib.error."""
        while part:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            # one byte more than the limit shows that the body exceeds it
            self.decoded += self._member.decompress(part, self._max_bytes + 1 - len(self.decoded))
            self._begun = True
            if len(self.decoded) > self._max_bytes:
                return False
            part = self._member.unconsumed_tail or self._member.unused_data
        return True

    def finish(self) -> None:
        """Raises zlib.error if the end is missing."""
        if not self._begun or not self._member.eof:
            raise zlib.error("incomplete")


def _is_gzip(request: Request) -> bool:
    """Whether the body is gzip. Raises ApiError (415) for any other content coding."""
    header = ",".join(request.headers.getlist("content-encoding")).lower()
    codings = [each for each in map(str.strip, header.split(",")) if each not in ("", "identity")]
    if not codings:
        return False
    if codings not in (["gzip"], ["x-gzip"]):
        description = f"Content-Encoding: only gzip and identity are supported, not {header[:100]}"
        raise Refused(415, "CONTENT_ENCODING_NOT_SUPPORTED", description, headers={"accept-encoding": "gzip", **_CLOSE})
    return True


def media_type(request: Request) -> str:
    """The media type of the body in lower case, without parameters; empty without a Content-Type."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or kind.endswith("+json")


def parse_json(body: bytes | bytearray) -> Any:
    """Parses strict JSON (RFC 8259): UTF-8, no NaN, no lone surrogates, no name twice in an object.

    Raises:
        ApiError: the body is not such JSON, or has more than `MAX_JSON_VALUES` values (400).
    """
    # an upper bound: every value but the first of a list or object follows a comma, and commas in texts are few
    if body.count(b",") + body.count(b"[") + body.count(b"{") >= MAX_JSON_VALUES:
        raise _bad_json(f"it has more than {MAX_JSON_VALUES} values; send fewer in a call")
    try:
        orjson.loads(body)  # strict, and bounded in depth and in digits
        return json.loads(body, object_pairs_hook=_object)
    except _DuplicateNameError as error:
        raise _bad_json(f"the name {str(error)[:60]!r} occurs twice in one object") from None
    except RecursionError:
        raise _bad_json("it is nested too deeply") from None
    except ValueError as error:
        raise _bad_json(str(error)[:100]) from None


def write_json(document: Any) -> bytes:
    """Writes a document of `parse_json` as JSON; integers of any length are unchanged.

    Raises:
        orjson.JSONEncodeError: the document is nested too deeply.
    """
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        if "64-bit" not in str(error):
            raise
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


class _DuplicateNameError(ValueError):
    """An object has a name twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateNameError(name)
            seen.add(name)
    return document


def _bad_json(why: str) -> ApiError:
    return Refused(400, "MALFORMED_JSON", f"the body must be a JSON object in UTF-8: {why}")
