"""Renders the templates of the screen. Every value is escaped, but for what a template itself made."""

from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from worker.web.screen import paths
from worker.web.screen.assets import BUILD, asset_url

_environment = Environment(
    loader=PackageLoader("worker.web.screen", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, **values: Any) -> Markup:
    """The HTML of a template, which other templates take unescaped."""
    return Markup(_environment.get_template(name).render(**values))  # noqa: S704 - the template has escaped all values


def _grouped(number: float) -> str:
    """10,000; a fraction has one digit."""
    return f"{number:,.1f}" if isinstance(number, float) and not number.is_integer() else f"{int(number):,}"


def _seconds(number: float) -> str:
    """A duration as people write it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if number >= 2 * size:
            return f"{number / size:.0f} {unit}"
    return f"{number:.0f} s" if number >= 10 else f"{number:.1f} s"


def _named(kind: str) -> str:
    """``STATUS_COUNT_MISMATCH`` as people write it."""
    return kind.replace("_", " ").capitalize()


def _anchor(*texts: str) -> str:
    """An element's id for any text, as morphing needs it: letters and digits."""
    return "x" + sha256("\n".join(texts).encode()).hexdigest()[:16]


def session_url(session_id: str) -> str:
    return paths.link(paths.VIEW_PATHS["session"], id=session_id)


def booking_url(booking_id: str) -> str:
    return paths.link(paths.VIEW_PATHS["booking"], id=booking_id)


def history_url(booking_id: str, session_id: str) -> str:
    return paths.link(paths.HISTORY, booking=booking_id, session=session_id)


_environment.filters.update(grouped=_grouped, named=_named, seconds=_seconds)
_environment.globals.update(
    asset_url=asset_url,
    build=BUILD,
    anchor=_anchor,
    link=paths.link,
    paths=paths,
    session_url=session_url,
    booking_url=booking_url,
    history_url=history_url,
)
