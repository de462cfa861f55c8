"""What the views have in common: each is a source of the live feed, whose value is its rendered fragments."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import ClassVar, NamedTuple

from markupsafe import Markup

from schemas.query.violations import QueryError
from worker.web.live.source import Changes
from worker.web.screen import paths
from worker.web.screen.templates import render
from worker.web.services import Services


class Rendered(NamedTuple):
    """The value of a view."""

    fragments: Mapping[str, Markup]
    """HTML by the id of the element that holds it."""
    is_found: bool = True
    """Whether what the view is about exists; it may begin to exist later."""


class View(ABC):
    """A view with its parameters; equal views are loaded and rendered once for all their viewers.

    Args:
        query: the parameters of the page, of which the view takes those that it knows.
        can_manage: whether the viewers may change attendances.
    """

    name: ClassVar[str]
    #: The elements of the page that the view fills.
    elements: ClassVar[tuple[str, ...]]
    #: The parameters that it takes.
    parameters: ClassVar[tuple[str, ...]] = ()
    interval = 0.5

    def __init__(self, services: Services, query: Mapping[str, str], *, can_manage: bool = False) -> None:
        self.services = services
        self.can_manage = can_manage
        self.query = {name: query[name] for name in self.parameters if query.get(name)}

    @property
    def key(self) -> Hashable:
        return ("screen", self.name, self.can_manage, *sorted(self.query.items()))

    @property
    @abstractmethod
    def title(self) -> str:
        """The page's title and heading."""

    @abstractmethod
    def is_affected(self, changes: Changes) -> bool:
        """Whether what it shows may have changed."""

    async def load(self) -> Rendered:
        """What it shows now, for the live feed: a cursor that has become invalid since the page was made is shown as that.

        Raises:
            ReaderError, redis.RedisError, OSError: it cannot be read now.
        """
        try:
            return await self.read()
        except QueryError:
            first = paths.link(paths.VIEW_PATHS[self.name], **{**self.query, "cursor": ""})
            return Rendered({self.elements[0]: render("fragments/page_gone.html", first=first)})

    @abstractmethod
    async def read(self) -> Rendered:
        """What it shows now.

        Raises:
            ReaderError, redis.RedisError, OSError: it cannot be read now.
            QueryError: a parameter is wrong, as a cursor of another list.
        """
