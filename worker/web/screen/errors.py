"""Answers for people: errors of the screen's paths as pages and fragments, and the headers of all its responses."""

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from worker.web.errors import EXPECTED, ApiError, Refused, problem_of
from worker.web.screen import paths
from worker.web.screen.templates import render

#: Everything from this origin, nothing inline, nothing evaluated; and no other site may show a page in a frame.
CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    # not no-referrer: browsers then send `Origin: null` with the screen's own forms, by which foreign ones are recognised
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
}
_TITLES = {
    400: "That request cannot be read",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    405: "Not found",
    409: "Changed meanwhile",
    413: "Too large",
    429: "Too many requests at once",
    500: "Something is wrong here",
    503: "Not available now",
}


class ScreenMiddleware:
    """Passes requests of the screen's paths on with its own exception handlers and headers, all others to the API's.

    Args:
        app: what both share.
        api: ``app`` within the exception handlers of the API.
    """

    def __init__(self, app: ASGIApp, api: ASGIApp) -> None:
        self._api = api
        self._screen = ExceptionMiddleware(app, _HANDLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not paths.is_screen(scope["path"]):
            await self._api(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._screen(scope, receive, send_with_headers)


def response_to(scope: Scope, problem: ApiError) -> Response:
    """The answer to an error that no exception handler has answered."""
    if not paths.is_screen(scope["path"]):
        return problem.response()
    response = error_response(Request(scope), problem)
    response.headers.update(_HEADERS)
    return response


def is_fragment(request: Request) -> bool:
    """Whether a page asks for a part of itself, and not a browser for a page."""
    return "hx-request" in request.headers or request.url.path == paths.LIVE


async def _answer_expected(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    assert problem is not None, "an exception of EXPECTED has a response"
    return error_response(request, problem)


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist, and parameters that FastAPI refuses."""
    del error
    return error_response(request, Refused(404, "NOT_FOUND", "there is no such page"))


_HANDLERS: dict[int | type[Exception], ExceptionHandler] = {
    **dict.fromkeys(EXPECTED, _answer_expected),
    RequestValidationError: _answer_unrouted,
    HTTPException: _answer_unrouted,
}


def error_response(request: Request, problem: ApiError) -> Response:
    """An error as a page, or as a fragment for a page that asks for one; the sign-in page for those who have not signed in."""
    headers = {name: value for name, value in problem.headers.items() if name in ("retry-after", "connection", "allow")}
    if is_fragment(request):
        return HTMLResponse(render("error_fragment.html", message=str(problem), status=problem.status), problem.status, headers)
    if problem.status == 401 and request.method == "GET":
        asked = f"{request.url.path}?{request.url.query}"
        return RedirectResponse(paths.link(paths.SIGN_IN, next=paths.page_at(asked)), 303)
    title = _TITLES.get(problem.status, "That did not work")
    return HTMLResponse(render("error.html", title=title, message=str(problem), status=problem.status), problem.status, headers)
