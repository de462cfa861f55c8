"""Request bodies: bounded in size and time, then JSON that means one thing only."""

import asyncio
import json
from typing import Any

import orjson
from starlette.requests import Request

from worker.settings import Settings
from worker.web.problems import ApiError, refused

#: In one body: so many are decoded in some hundredths of a second, in which the process does nothing else.
MAX_JSON_VALUES = 100_000


class Bodies:
    """Reads bodies within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.api_max_body
        self._seconds = settings.api_body_timeout.total_seconds()

    async def read(self, request: Request) -> bytes:
        """The body as it came.

        Raises:
            ApiError: it is too large (413) or comes too slowly (400).
            starlette.requests.ClientDisconnect: the client has gone.
        """
        said = request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > self._most:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self._most:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            description = f"the body was not there within {self._seconds:g} s: send it at once"
            raise refused(400, "BODY_TOO_SLOW", description, headers={"connection": "close"}) from None
        return b"".join(parts)

    async def document(self, request: Request) -> dict[str, Any]:
        """The JSON object in the body. Raises as `read`, and ApiError (400) for anything else than one."""
        kind = media_type(request)
        if kind and not is_json(kind):
            raise refused(400, "CONTENT_TYPE_NOT_SUPPORTED", "send the body as application/json", {"contentType": kind[:100]})
        found = parse_json(await self.read(request))
        if not isinstance(found, dict):
            raise _bad_json("JSON, but no object")
        return found

    def _too_large(self) -> ApiError:
        return refused(413, "BODY_TOO_LARGE", f"the body has more than {self._most} bytes", {"maxBytes": self._most})


def media_type(request: Request) -> str:
    """The body's type in lower case, without parameters; empty where the request does not say."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON."""
    return kind == "application/json" or kind.endswith("+json")


def parse_json(body: bytes) -> Any:
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
