"""The bearer token as a security scheme of FastAPI: routes require a scope of it, and OpenAPI documents both.

A request is authenticated before it is routed (`AccessMiddleware`): a path that does not exist is not revealed to strangers,
and the requests in flight are shared between the holders of tokens. What is left to the dependency is the scope.
"""

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.types import Scope as ASGIScope

from worker.web.auth import Scope, TokenFile, TokensError, presented_token
from worker.web.errors import Refused, Unavailable
from worker.web.permissions import Holder
from worker.web.screen.paths import COOKIE, is_screen

#: Key of the ASGI scope: the `Holder` of the request.
CALLER = "attendance.caller"
#: The name of the scheme in the OpenAPI document.
SCHEME = "token"
_WITHOUT_TOKENS = Holder("", frozenset(Scope), None)
_CHALLENGE = {"www-authenticate": 'Bearer realm="attendance"'}
_INVALID_TOKEN = {"www-authenticate": 'Bearer realm="attendance", error="invalid_token"'}


class BearerToken(SecurityBase):
    """A token with one of the scopes of ``Security(bearer_token, scopes=[...])``: of several, one is enough."""

    def __init__(self) -> None:
        self.model = HTTPBearer()
        self.scheme_name = SCHEME

    async def __call__(self, request: Request, required: SecurityScopes) -> Holder:
        """The caller. Raises ApiError (403) if the token has none of the scopes."""
        holder: Holder = request.scope[CALLER]
        if holder.scopes.isdisjoint(required.scopes):
            description = f"the token lacks the scope {' or '.join(required.scopes)}"
            raise Refused(403, "MISSING_SCOPE", description, {"scope": required.scopes[0]})
        return holder


bearer_token = BearerToken()


async def caller(request: Request) -> Holder:
    """The holder of the token of a request, which the route's `bearer_token` has let in."""
    holder: Holder = request.scope[CALLER]
    return holder


Caller = Annotated[Holder, Depends(caller)]


def authenticate(scope: ASGIScope, tokens: TokenFile | None) -> Holder:
    """The holder of the request's token; without a token file, this machine with all scopes.

    Raises:
        ApiError: the token is missing or unknown (401), or the token file cannot be read (503).
    """
    if tokens is None:
        return _WITHOUT_TOKENS
    token_bytes = presented(scope)
    if token_bytes is None:
        raise Refused(401, "UNAUTHENTICATED", "send `Authorization: Bearer TOKEN`", headers=_CHALLENGE)
    try:
        token = tokens.holder(token_bytes)
    except TokensError:
        raise Unavailable("TOKENS_UNREADABLE", "the server cannot check tokens now") from None
    if token is None:
        raise Refused(401, "UNAUTHENTICATED", "this token is unknown or has expired", headers=_INVALID_TOKEN)
    return Holder(token.name, token.scopes, token.source)


def presented(scope: ASGIScope) -> bytes | None:
    """The token of a request: of its ``Authorization`` header; on paths of the screen, else that of its cookie."""
    authorizations = [value for name, value in scope["headers"] if name == b"authorization"]
    if authorizations or not is_screen(scope["path"]):
        return presented_token(authorizations)
    pairs = [
        pair.strip().partition(b"=") for name, value in scope["headers"] if name == b"cookie" for pair in value.split(b";")
    ]
    cookies = [value for name, _, value in pairs if name == COOKIE.encode()]
    return unquote_to_bytes(cookies[0]) if len(cookies) == 1 else None
