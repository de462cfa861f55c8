"""A reader that asks one API all the time while something else goes on."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.serving import Api

_PAUSE_SECONDS = 0.005
#: A list is read after so many single attendances.
_LIST_EVERY = 5


class Reader:
    """Asks in a thread, from entering to leaving; `errors` has what was wrong.

    A list that lacks one of the attendances that are there all along is an error, and so is every refusal, but for those with
    status 503 before the first answer, where they are expected.

    Args:
        stable: attendances that are there all along and do not change.
        waits: whether the API has nothing to serve at first.
    """

    def __init__(self, api: Api, stable: Sequence[dict[str, Any]], *, waits: bool = False) -> None:
        self.errors: list[str] = []
        self.answers = 0
        """How many answers were right or wrong, refusals aside."""
        self._api = httpx.Client(base_url=api.url, headers=api.client.headers, timeout=10)
        self._stable = {each["id"]: each for each in stable}
        self._waits = waits
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self._api.close()

    def _ask(self) -> None:
        ids, turn = sorted(self._stable), 0
        while not self._stopping.is_set():
            turn += 1
            try:
                self._get(ids[turn % len(ids)])
                if turn % _LIST_EVERY == 0:
                    self._list()
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self._wrong(repr(error))
            self._stopping.wait(_PAUSE_SECONDS)

    def _get(self, identity: str) -> None:
        answer = self._api.get(f"/bookings/v2/attendance/{identity}")
        if self._is_right(answer) and answer.json()["attendance"] != self._stable[identity]:
            self._wrong(f"{identity} is {answer.text}")

    def _list(self) -> None:
        """Every attendance, page by page."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            answer = self._api.post("/bookings/v2/attendance/query", json={"query": {"cursorPaging": {"limit": 50, **cursor}}})
            if not self._is_right(answer):
                return
            page = answer.json()
            found += page["attendances"]
            if not page["pagingMetadata"]["hasNext"]:
                break
            cursor = {"cursor": page["pagingMetadata"]["cursors"]["next"]}
        shown = [each["id"] for each in found]
        if shown != sorted(set(shown)):
            self._wrong("a list is not in order, or shows an attendance twice")
        if changed := [identity for identity, each in self._stable.items() if each not in found]:
            self._wrong(f"a list of {len(shown)} lacks {len(changed)} attendances")

    def _is_right(self, answer: httpx.Response) -> bool:
        if answer.status_code == 503 and self._waits and not self.answers:
            return False
        self.answers += 1
        if answer.status_code != 200:
            self._wrong(f"{answer.status_code} {answer.text}")
        return answer.status_code == 200

    def _wrong(self, what: str) -> None:
        self.errors.append(f"{time.strftime('%X')} {what}")
