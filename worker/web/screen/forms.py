"""Reads the forms of the screen: few, short fields."""

import asyncio
from urllib.parse import parse_qsl

from fastapi import Request

from worker.web.errors import Refused

_MAX_BYTES, _MAX_FIELDS = 16 * 1024, 20
_SECONDS = 5.0
_CLOSE = {"connection": "close"}


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form in a body of at most 16 KiB; also for strangers, so it is bounded in time.

    Raises:
        ApiError: the body is no such form, too large or too slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > _MAX_BYTES:
                    raise Refused(413, "BODY_TOO_LARGE", f"the form has more than {_MAX_BYTES} bytes", headers=_CLOSE)
    except TimeoutError:
        raise Refused(400, "BODY_TOO_SLOW", f"the form was not complete within {_SECONDS:g} s", headers=_CLOSE) from None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict"))
    except ValueError:
        raise Refused(400, "MALFORMED_BODY", "send the form's fields as a browser does", headers=_CLOSE) from None
