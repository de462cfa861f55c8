"""Dead letters in the worker's log: at most one line a minute and reason, and none lost at the end."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from schemas.events import DeadLetter, Reason
from worker.stream import dead_letters
from worker.stream.dead_letters import DeadLetterLog, count_by_reason

SOURCE = TopicPartition("t.events", 3)


class Read(NamedTuple):
    """What is logged of a record."""

    offset: int
    value: bytes = b"{}"
    headers: Sequence[tuple[str, bytes]] = ()


def dead_letter_records(reason: Reason, count: int, start: int = 0) -> list[tuple[Read, DeadLetter, int]]:
    return [(Read(start + n), DeadLetter(reason, f"value: {start + n}"), 0) for n in range(count)]


def test_one_line_a_minute_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(dead_letters, "monotonic", lambda: now)
    counted = DeadLetterLog()
    with capture_logs() as lines:
        for second in range(121):
            now = 1000.0 + second
            counted.add(count_by_reason(dead_letter_records(Reason.INVALID_JSON, 5, 5 * second), SOURCE))
            if second == 7:
                counted.add(count_by_reason(dead_letter_records(Reason.TOO_LARGE, 1), SOURCE))
            counted.report()
        mixed = dead_letter_records(Reason.INVALID_FIELD, 2) + dead_letter_records(Reason.INVALID_JSON, 1)
        counted.add(count_by_reason(mixed, SOURCE))
        counted.flush()
        counted.flush()
    found = [(line["reason"], line["count"], line["offset"]) for line in lines]
    assert found[:4] == [("invalid-json", 5, 0), ("too-large", 1, 0), ("invalid-json", 300, 5), ("invalid-json", 300, 305)]
    assert sorted(found[4:]) == [("invalid-field", 2, 0), ("invalid-json", 1, 0)]
    assert {line["event"] for line in lines} == {"dead letters"}
    assert {(line["topic"], line["partition"]) for line in lines} == {("t.events", 3)}
    assert lines[2]["detail"] == "value: 5"


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "headers", "found"),
    [
        (b"{}", [("Traceparent", TRACE.encode())], TRACE),
        (b"{}", [("ce_traceparent", TRACE.encode())], TRACE),
        (f'{{"traceparent": "{TRACE}"}}'.encode(), [], TRACE),
        (f'{{"traceparent": "{TRACE}"}}'.encode(), [("traceparent", b"00-bad")], TRACE),
        (f'{{"\\u0074raceparent": "{TRACE}"}}'.encode(), [], TRACE),
        (b'{"traceparent": 7}', [("traceparent", None)], None),
        (f'{{"traceparent": "{TRACE}"}}'.encode(), [("ce_specversion", b"1.0")], None),
        (b"no json", [("traceparent", TRACE.upper().encode())], None),
    ],
)
def test_the_line_has_the_traceparent_of_its_first(value: bytes, headers: Sequence[tuple[str, bytes]], found: str) -> None:
    counted = DeadLetterLog()
    with capture_logs() as lines:
        record = Read(1, value, headers)
        counted.add(count_by_reason([(record, DeadLetter(Reason.INVALID_JSON, "value"), 0)], SOURCE))
        counted.flush()
    assert [line.get("traceparent") for line in lines] == [found]
