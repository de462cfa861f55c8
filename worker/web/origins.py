"""CORS for web pages of configured origins, and the validation handshake of CloudEvents webhooks for configured senders.

The origin of a page is ``https://app.example.org``; a webhook sender identifies itself by a DNS name, ``eventgrid.example``.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import Scope

from worker.web.errors import Refused

#: The path that webhooks are delivered to.
WEBHOOK_PATH = "/v1/events"
_METHODS = "GET, HEAD, POST, DELETE"
_HEADERS = "authorization, content-type"
_EXPOSED = "retry-after, www-authenticate"
_MAX_AGE_SECONDS = "600"
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+( *, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*").fullmatch
_RATE = re.compile(r"[1-9][0-9]{0,9}").fullmatch


class Origins:
    """The origins of ``ATTENDANCE_API_CORS_ORIGINS``.

    Args:
        listed: origins and DNS names, joined by commas; ``*`` for all; empty for none.
    """

    def __init__(self, listed: str) -> None:
        entries = {each.strip().lower().rstrip("/") for each in listed.split(",")} - {""}
        self._any = "*" in entries
        self._pages = {each for each in entries if "://" in each}
        self._senders = entries - self._pages | {urlsplit(each).hostname or "" for each in self._pages}

    def lists(self, origin: str) -> bool:
        """Whether the origin of a page is listed by name; ``*`` does not count."""
        return origin.lower() in self._pages

    def answer_options(self, scope: Scope) -> Response | None:
        """The response to a preflight request or to a webhook handshake; None if the origin is not configured."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sender = headers.get("webhook-request-origin")
        if sender is not None and scope["path"] == WEBHOOK_PATH:
            return self._handshake(sender, headers) if self._any or sender.lower() in self._senders else None
        if "access-control-request-method" not in headers or not self._allows(headers.get("origin", "")):
            return None
        requested = headers.get("access-control-request-headers", "")
        granted = {
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": requested if _NAMES(requested) else _HEADERS,
            "access-control-max-age": _MAX_AGE_SECONDS,
        }
        return Response(status_code=204, headers=granted)

    def headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The CORS headers of a response."""
        if not self._pages and not self._any:
            return []
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        headers = [(b"vary", b"Origin")]
        if origin and self._allows(origin.decode("latin-1")):
            headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED.encode())]
        return headers

    def _allows(self, origin: str) -> bool:
        return bool(origin) and (self._any or self.lists(origin))

    def _handshake(self, sender: str, headers: Mapping[str, str]) -> Response:
        rate = headers.get("webhook-request-rate", "*")
        if rate != "*" and not _RATE(rate):
            raise Refused(400, "MALFORMED_HEADER", "WebHook-Request-Rate: write a whole number of requests per minute")
        return Response(headers={"allow": "POST", "webhook-allowed-origin": sender, "webhook-allowed-rate": rate})
