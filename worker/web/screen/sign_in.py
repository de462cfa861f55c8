"""Signing in with a token, which the browser then keeps in a cookie that scripts cannot read; and signing out."""

from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from worker.web.auth import Scope, Token, TokensError
from worker.web.errors import Refused
from worker.web.screen.csrf import check_origin
from worker.web.screen.forms import read_form
from worker.web.screen.paths import COOKIE, SIGN_IN, SIGN_OUT, page_at
from worker.web.screen.templates import render
from worker.web.services import services_of

#: Sign-ins that are read at once, whoever sends them: each costs a small body and one digest, and ends within seconds.
_AT_ONCE = 256
_MAX_TOKEN = 512
_KEPT_SECONDS = 30 * 24 * 3600
_UNKNOWN = "This token is unknown or has expired. Check that you copied all of it."
_NO_READ = "This token may not read: the screen needs one with the scope read."
_UNREADABLE = "The server cannot check tokens now: try again in a moment."


class _Turns:
    """Bounds the sign-ins in flight."""

    def __init__(self) -> None:
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= _AT_ONCE:
            raise Refused(429, "TOO_MANY_REQUESTS", "too many sign-ins at once: try again", headers={"retry-after": "1"})
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


def add_sign_in(router: APIRouter) -> None:
    """Declares the routes of this module."""
    turns = _Turns()

    async def sign_in(request: Request) -> Response:
        with turns:
            return await _sign_in(request)

    router.add_api_route(SIGN_IN, show_sign_in, methods=["GET"], include_in_schema=False, response_model=None)
    router.add_api_route(SIGN_IN, sign_in, methods=["POST"], include_in_schema=False, response_model=None)
    router.add_api_route(SIGN_OUT, sign_out, methods=["POST"], include_in_schema=False, response_model=None)


async def show_sign_in(request: Request) -> Response:
    """The page with the field for the token; without a token file there is nothing to sign in to."""
    after = page_at(request.query_params.get("next", ""))
    if services_of(request).tokens is None:
        return RedirectResponse(after, 303)
    return _page(after)


async def _sign_in(request: Request) -> Response:
    check_origin(request)
    form = await read_form(request)
    after, text = page_at(form.get("next", "")), form.get("token", "").strip()
    tokens = services_of(request).tokens
    if tokens is None:
        return RedirectResponse(after, 303)
    if len(text) > _MAX_TOKEN:
        return _page(after, _UNKNOWN, 403)
    try:
        token: Token | None = tokens.holder(text.encode())
    except TokensError:
        return _page(after, _UNREADABLE, 503)
    if token is None:
        return _page(after, _UNKNOWN, 403)
    if Scope.READ not in token.scopes:
        return _page(after, _NO_READ, 403)
    response = RedirectResponse(after, 303)
    kept = _KEPT_SECONDS if form.get("keep") else None
    response.set_cookie(COOKIE, quote(text, safe=""), max_age=kept, **_attributes(request))  # type: ignore[arg-type]
    return response


async def sign_out(request: Request) -> Response:
    """Makes the browser forget the token."""
    check_origin(request)
    response = RedirectResponse(SIGN_IN, 303)
    response.delete_cookie(COOKIE, **_attributes(request))  # type: ignore[arg-type]
    return response


def _attributes(request: Request) -> dict[str, object]:
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    is_secure = (forwarded or request.url.scheme) == "https"
    return {"path": "/", "secure": is_secure, "httponly": True, "samesite": "strict"}


def _page(after: str, problem: str | None = None, status: int = 200) -> Response:
    return HTMLResponse(render("sign_in.html", after=after, problem=problem), status)
