"""The paths of the screen, and which of them need no token."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

#: Carries the token of a browser; accepted for the screen's paths alone.
COOKIE = "attendance_screen"
SIGN_IN, SIGN_OUT, MARK, LIVE = "/screen/sign-in", "/screen/sign-out", "/screen/mark", "/screen/live"
STATIC = "/screen/static/"
HISTORY = "/screen/history"
#: The path of each view, by name.
VIEW_PATHS: Mapping[str, str] = {
    "now": "/",
    "session": "/screen/session",
    "booking": "/screen/booking",
    "alerts": "/screen/alerts",
    "devices": "/screen/devices",
    "system": "/screen/system",
}
#: What a browser may be sent back to after it has signed in.
PAGES = frozenset({*VIEW_PATHS.values(), HISTORY})


def is_screen(path: str) -> bool:
    """Whether a path is of the screen: its errors are pages, and its cookie is accepted."""
    return path == "/" or path.startswith("/screen/")


def is_public(path: str) -> bool:
    """Whether a path of the screen needs no token."""
    return path == SIGN_IN or path.startswith(STATIC)


def link(path: str, /, **query: str | None) -> str:
    """A path with a query, percent-encoded; parameters that are None or empty are left out."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given, quote_via=quote, safe='')}" if given else path


def page_at(text: str) -> str:
    """The page of the screen that a text names, with its query; the first page where it names anything else.

    So that a sign-in leads back to where it was asked for, and never to another site.
    """
    path, _, query = text.partition("?")
    if path not in PAGES:
        return VIEW_PATHS["now"]
    try:
        fields = parse_qsl(query, max_num_fields=20)
    except ValueError:
        return path
    return link(path, **dict(fields))
