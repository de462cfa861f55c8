"""Checks the request line and the framing headers more strictly than Granian does."""

from starlette.types import Scope

from worker.web.errors import ApiError, Refused
from worker.web.http.rsgi import AUTHORITY, UNREADABLE

MAX_HEAD_BYTES = 32 * 1024
_DEFAULT_PORT = ":80"


def check_target(scope: Scope) -> None:
    """Raises ApiError (400 or 431) if a request is not for this server, or a proxy could interpret it differently."""
    path, headers = scope["path"], scope["headers"]
    size = len(path) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    if size > MAX_HEAD_BYTES:
        raise Refused(431, "HEAD_TOO_LARGE", f"line and headers have more than {MAX_HEAD_BYTES} bytes")
    if UNREADABLE in scope:
        name = scope[UNREADABLE][0]
        raise Refused(400, "MALFORMED_HEADER", f"{name}: use ASCII, with other characters percent-encoded")
    if not path.startswith("/") and not (path == "*" and scope["method"] == "OPTIONS"):
        raise _malformed("the request target must be a path")
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if scope["http_version"] == "1.1" and (len(hosts) != 1 or not hosts[0]):
        raise _malformed("Host: send exactly one")
    if (authority := scope.get(AUTHORITY)) is not None and hosts and _without_port(authority) != _without_port(hosts[0]):
        raise _malformed(f"Host: the request target names another host, {authority[:100]}")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and [each.strip().lower() for each in codings] != [b"chunked"]:
        raise _malformed("Transfer-Encoding: only chunked is supported, once")


def _without_port(host: str) -> str:
    return host.lower().removesuffix(_DEFAULT_PORT)


def _malformed(description: str) -> ApiError:
    return Refused(400, "MALFORMED_REQUEST", description, headers={"connection": "close"})
