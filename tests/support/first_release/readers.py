"""Readers that ask all the time, as through a load balancer in front of the APIs of both releases."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.serving import Api


class Readers:
    """Asks in a thread, from entering to leaving; `errors` has what was wrong.

    An API that answers 503 is left for the other one, as a balancer does. Both at once is an error, and so is a list that
    lacks one of the attendances that are there all along.

    Args:
        apis: the one that serves now, then the one that will.
        stable: attendances that are there all along and do not change.
    """

    def __init__(self, apis: Sequence[Api], stable: Sequence[dict[str, Any]]) -> None:
        self.errors: list[str] = []
        self.answers = [0] * len(apis)
        """How many answers each API gave."""
        self._apis = [httpx.Client(base_url=api.url, headers=api.client.headers, timeout=10) for api in apis]
        self._current = 0
        self._stable = {each["id"]: each for each in stable}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        for api in self._apis:
            api.close()

    @property
    def current(self) -> int:
        """The API that serves."""
        return self._current

    def _ask(self) -> None:
        ids = sorted(self._stable)
        turn = 0
        while not self._stopping.is_set():
            turn += 1
            try:
                self._get(ids[turn % len(ids)])
                if turn % 5 == 0:
                    self._list()
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.errors.append(f"{time.strftime('%X')} {error!r}")
            time.sleep(0.005)

    def _get(self, identity: str) -> None:
        answer = self._answer(lambda api: api.get(f"/bookings/v2/attendance/{identity}"))
        if answer is not None and (answer.status_code, answer.json().get("attendance")) != (200, self._stable[identity]):
            self.errors.append(f"{time.strftime('%X')} {identity}: {answer.status_code} {answer.text}")

    def _list(self) -> None:
        """Every attendance, page by page, from one API: a cursor is valid where it was made."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        api = self._current
        while True:
            query = {"query": {"cursorPaging": {"limit": 50, **cursor}}}
            answer = self._answer(lambda api: api.post("/bookings/v2/attendance/query", json=query))  # noqa: B023
            if answer is None:
                return
            if api != self._current:
                found, cursor, api = [], {}, self._current
                if "cursor" in query["query"]["cursorPaging"]:
                    continue
            if answer.status_code != 200:
                self.errors.append(f"{time.strftime('%X')} {answer.status_code} {answer.text}")
                return
            page = answer.json()
            found += page["attendances"]
            if not page["pagingMetadata"]["hasNext"]:
                break
            cursor = {"cursor": page["pagingMetadata"]["cursors"]["next"]}
        shown = [each["id"] for each in found]
        if shown != sorted(set(shown)):
            self.errors.append(f"{time.strftime('%X')} a list is not in order, or shows an attendance twice")
        if missing := self._stable.keys() - set(shown):
            self.errors.append(f"{time.strftime('%X')} a list of {len(shown)} lacks {len(missing)} attendances")

    def _answer(self, ask: Callable[[httpx.Client], httpx.Response]) -> httpx.Response | None:
        """The answer of the current API, or of the next where that refuses with 503; None if all do."""
        answer: httpx.Response | None = None
        for _ in self._apis:
            answer = ask(self._apis[self._current])
            if answer.status_code != 503:
                self.answers[self._current] += 1
                return answer
            self._current = (self._current + 1) % len(self._apis)
        assert answer is not None
        self.errors.append(f"{time.strftime('%X')} every API refuses: {answer.text}")
        return None
