"""When most of a partition's events are bad: one line at the onset and one at the end, with the commonest reason and source."""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from schemas.events import DeadLetter, Reason
from worker.stream.bad_events import WINDOW, BadEvents

ONSET, END = "most events are unusable", "most events are usable again"


class Read(NamedTuple):
    """What is looked at of a record."""

    offset: int
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Stream:
    """A partition's events, good or bad, with offsets that may have gaps."""

    def __init__(self) -> None:
        self.bad_events = BadEvents(3)
        self._offset = 0

    def add(self, *are_bad: bool, source: str = "/kiosk", reason: Reason = Reason.INVALID_FIELD, step: int = 1) -> None:
        records, letters = list[Any](), list[tuple[Any, DeadLetter, int]]()
        for is_bad in are_bad:
            self._offset += step
            records.append(Read(self._offset, json.dumps({"source": source}).encode(), []))
            if is_bad:
                letters.append((records[-1], DeadLetter(reason, "x: y"), 0))
        self.bad_events.add(records, letters)


def test_one_line_at_the_onset_and_one_at_the_end() -> None:
    stream = Stream()
    with capture_logs() as lines:
        stream.add(*[False] * 2_000)
        stream.add(*[True] * 100, source="/gate", reason=Reason.INVALID_JSON)
        stream.add(*[True] * 400)
        assert (lines, stream.bad_events.fields()["events.badReason"]) == ([], "")
        stream.add(True)
        assert stream.bad_events.fields() == {
            "events.bad": 501,
            "events.badReason": "invalid-field",
            "events.badSource": "/kiosk",
        }
        for _ in range(20):
            stream.add(*[True] * 300)
        stream.add(*[False] * 599)
        assert stream.bad_events.fields()["events.badReason"] == "invalid-field"
        stream.add(False)
        assert stream.bad_events.fields() == {"events.bad": 400, "events.badReason": "", "events.badSource": ""}
        stream.add(*[False] * 5_000)
    assert [line["event"] for line in lines] == [ONSET, END]
    assert lines[0] == {
        "event": ONSET,
        "log_level": "error",
        "partition": 3,
        "bad": 501,
        "of": 1_000,
        "reason": "invalid-field",
        "source": "/kiosk",
    }


def test_few_events_that_are_all_bad_are_no_onset() -> None:
    stream = Stream()
    with capture_logs() as lines:
        stream.add(*[True] * 500)
    assert lines == []


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_last_events_are_counted(seed: int) -> None:
    chance, stream, last = random.Random(seed), Stream(), deque[bool](maxlen=WINDOW)
    with capture_logs():
        for _ in range(60):
            share, size = chance.random(), chance.choice([1, 7, 300, 999, 1_000, 1_001, 3_000])
            batch = [chance.random() < share for _ in range(size)]
            last.extend(batch)
            stream.add(*batch, step=chance.choice([1, 3]))
            assert stream.bad_events.fields()["events.bad"] == sum(last)


def test_a_source_cannot_break_a_line_or_grow() -> None:
    stream = Stream()
    with capture_logs() as lines:
        stream.add(*[True] * 501, source="a\nb\x1b" + "x" * 5_000)
    assert lines[0]["source"] == "a?b?" + "x" * 252
