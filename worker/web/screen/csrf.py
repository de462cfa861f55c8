"""Proofs that a form was sent by a page of this screen: its origin, and a token that only its pages hold."""

import hmac
from hashlib import sha256
from urllib.parse import urlsplit

from fastapi import Request

from worker.web.errors import Refused
from worker.web.security import presented

_PURPOSE = b"attendance screen: marks"
_OWN_SITES = frozenset({"same-origin", "none"})


def csrf_token(request: Request) -> str:
    """The token of the forms of one who has signed in: derived from the bearer token, so that nothing is stored.

    Without a token file it is no secret; then `check_origin` alone decides, and `AccessMiddleware` has checked the host.
    """
    return hmac.new(presented(request.scope) or b"", _PURPOSE, sha256).hexdigest()


def check_csrf(request: Request, sent: str) -> None:
    """Raises ApiError (403) if a form is not of this screen."""
    check_origin(request)
    if not hmac.compare_digest(csrf_token(request).encode(), sent.encode()):
        raise Refused(403, "FOREIGN_FORM", "this form is of another sign-in: load the page again")


def check_origin(request: Request) -> None:
    """Raises ApiError (403) if a page of another origin sends the request.

    Browsers say so with ``Sec-Fetch-Site`` where the screen is served by https or on this machine, else with ``Origin`` alone.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_own = site in _OWN_SITES
    else:
        hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
        is_own = origin is None or _authority(origin) in hosts
    if not is_own:
        raise Refused(403, "FOREIGN_FORM", "this form was sent by another site; a proxy before the screen must pass on Host")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
