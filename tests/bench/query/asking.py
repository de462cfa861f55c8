"""Asks an `AttendanceReader` and takes the time: each class of filters in each order, first and deep pages, both ways."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from time import perf_counter, process_time
from typing import Any, NamedTuple

from schemas.query.request import Position, Query, QueryField, Sort, parse_filter
from tests.bench.process import BenchFailed
from tests.bench.query.classes import Asked, counted
from tests.bench.query.dataset import Dataset
from tests.bench.query.server import Server
from worker.read_model.reader import AttendanceReader

LIMIT = 50
PLACES = ("first", "deep", "back")
"""Of a page: the first, one after an attendance anywhere, the one before it."""
#: Samples; the fewest of what is far beyond its target.
_MOST, _LEAST, _FEWEST, _MOST_S = 100, 25, 10, 1.5
_WARM = 2


class Progress(NamedTuple):
    """How long one combination of filter, order and place may be asked."""

    seconds: float
    samples: int = _MOST


class Cell(NamedTuple):
    """One filter in one order, at one place. Milliseconds."""

    asked: Asked
    sort: tuple[str, ...]
    """As `-field` where it descends."""
    place: str
    samples: list[float]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(field.lstrip("-") for field in self.sort)


class Block(NamedTuple):
    """What a class of filters cost: per query, milliseconds of each one's processor; the longest command of the server."""

    server_ms: float
    client_ms: float
    longest_ms: float
    longest_command: str
    slowest_ms: list[float]
    """The ten longest."""


class Asking:
    """Asks one reader about one dataset."""

    def __init__(self, reader: AttendanceReader, data: Dataset, server: Server, seed: int) -> None:
        self._reader, self._data, self._server, self._rng = reader, data, server, random.Random(seed)

    async def sorts(self, asked: Asked, sorts: Sequence[tuple[str, ...]], effort: Progress) -> tuple[list[Cell], Block]:
        """One class in these orders, at every place.

        Raises:
            BenchFailed: an answer was wrong.
        """
        cells, queries = [], 0
        cpu, client = await self._server.cpu_seconds(), process_time()
        await self._server.forget_slow()
        for sort in sorts:
            for place in PLACES:
                samples = await self._samples(asked, sort, place, effort)
                queries += len(samples) + _WARM
                cells.append(Cell(asked, sort, place, samples))
        used, worked = await self._server.cpu_seconds() - cpu, process_time() - client
        each = 1e3 / max(queries, 1)
        return cells, Block(used * each, worked * each, *await self._server.slowest())

    async def _samples(self, asked: Asked, sort: tuple[str, ...], place: str, effort: Progress) -> list[float]:
        samples: list[float] = []
        asked_before = -_WARM
        for query, there in self._queries(asked, sort, place):
            start = perf_counter()
            page = await self._reader.query(query)
            took = perf_counter() - start
            _check(asked, query, page.attendances, there)
            asked_before += 1
            if asked_before > 0:
                samples.append(took * 1e3)
            spent_s = sum(samples) / 1e3
            enough = len(samples) >= (_LEAST if spent_s < _MOST_S else _FEWEST)
            if len(samples) >= effort.samples or (spent_s > effort.seconds and enough):
                break
        return samples

    def _queries(self, asked: Asked, sort: tuple[str, ...], place: str) -> Iterator[tuple[Query, bool]]:
        """Queries, and whether something must be found."""
        sorting = tuple(Sort(QueryField(field.lstrip("-")), field.startswith("-")) for field in sort)
        while True:
            document, attendance = asked.draw(self._data, self._rng)
            position = None
            if place != "first":
                if attendance is None:
                    return  # there is no such place
                values = tuple(self._data.value(attendance, str(each.field)) for each in sorting)
                position = Position(values, str(self._data.value(attendance, "id")))
            query = Query(parse_filter(document), sorting, LIMIT, position, place == "back")
            yield query, place == "first" and attendance is not None

    async def counts(self, asked: Asked, effort: Progress) -> list[float]:
        """Milliseconds of `count`. Raises BenchFailed where it counts wrong."""
        samples: list[float] = []
        while len(samples) < effort.samples and (sum(samples) < effort.seconds * 1e3 or len(samples) < _LEAST):
            document, _ = asked.draw(self._data, self._rng)
            given = parse_filter(document)
            start = perf_counter()
            found = await self._reader.count(given)
            samples.append((perf_counter() - start) * 1e3)
            right = counted(asked, self._data, document)
            if right is not None and found != right:
                raise BenchFailed(f"{asked.name}: count({document}) answered {found}, there are {right}")
        return samples

    async def gets(self, samples: int) -> list[float]:
        """Milliseconds of `get`. Raises BenchFailed where it finds none."""
        found = []
        for _ in range(samples):
            name = str(self._data.value(int(self._rng.random() * len(self._data)), "id"))
            start = perf_counter()
            attendance = await self._reader.get(name)
            found.append((perf_counter() - start) * 1e3)
            if attendance is None or attendance["id"] != name:
                raise BenchFailed(f"get({name}) answered {attendance}")
        return found


def _check(asked: Asked, query: Query, attendances: Sequence[dict[str, Any]], there: bool) -> None:
    wrong = [each for each in attendances if not query.filter.matches(each)]  # type: ignore[arg-type]
    if wrong or len(attendances) > query.limit or (there and not attendances):
        raise BenchFailed(f"{asked.name}: {query} answered {wrong or attendances}")
