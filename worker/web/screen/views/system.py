"""Partitions, problems, operations and dead letters."""

from collections import Counter
from math import inf
from typing import Any, ClassVar

from worker.read_model.freshness import TOPICS, Partition, find_problems, freshness_of
from worker.read_model.operations_page import operations_page
from worker.read_model.reader import ReaderError
from worker.web.live.source import Changes
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View

_OPERATIONS = 20


class SystemView(View):
    """The state of the whole system; of partitions also while they cannot be read."""

    name: ClassVar[str] = "system"
    elements: ClassVar[tuple[str, ...]] = ("system", "operations")
    interval = 1.0

    @property
    def title(self) -> str:
        return "System"

    def is_affected(self, changes: Changes) -> bool:
        return changes.is_tick or changes.is_everything

    async def read(self) -> Rendered:
        settings = self.services.settings
        try:
            partitions, problem = await self.services.reader.status(), None
        except ReaderError as error:
            # operations are shown also while nothing is served: a rebuild is one of them
            partitions, problem = [], str(error)
        operations = await operations_page(self.services.client, settings.redis_namespace, _OPERATIONS)
        state = render(
            "fragments/system.html",
            partitions=[_row(each) for each in partitions],
            problem=problem,
            problems=find_problems(partitions),
            freshness=freshness_of(partitions) if partitions else None,
            bad=_bad_events(partitions),
        )
        shown = [each.document() for each in operations.items]
        return Rendered({"system": state, "operations": render("fragments/operations.html", operations=shown)})


def _row(partition: Partition) -> dict[str, Any]:
    fresh = partition.fresh_age
    return {
        "number": partition.number,
        "state": partition.state,
        "has_worker": partition.has_owner,
        "lag": partition.lag,
        "fresh_seconds": None if fresh == inf else round(fresh),
        "event_time": partition.event_time,
        "held": sum(map(partition.held, TOPICS)),
        "unreadable": [topic for topic in TOPICS if partition.unreadable(topic) is not None],
        "bad": partition.bad_events,
    }


def _bad_events(partitions: list[Partition]) -> list[tuple[str, str, int]]:
    """Reason, source and number of partitions where most of the last 1,000 events are dead letters for it."""
    commonest = Counter(each.commonest_bad for each in partitions if each.commonest_bad is not None)
    return [(reason, source, count) for (reason, source), count in commonest.most_common()]
