"""Which events of a batch are counted as without an effect."""

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event
from worker.domain.alert_rules import Rules
from worker.domain.booking_state import BookingState, apply_records

RULES = Rules(300_000_000, 600_000_000, 30 * 86_400_000_000)
START = 1_795_000_000_000_000
KINDS = ("check_in", "no_show", "set", "participant_scanned", "cleared", "deleted")


def event(kind: str, second: int, who: str = "p1", source: str = "/gate") -> Event:
    time = START + second * 1_000_000
    if kind == "erased":
        return Event("booking.erased", "b", "", time, source, f"{kind}{second}", "", None, "", time)
    status = "ATTENDED" if kind == "set" else ""
    participant = who if kind == "participant_scanned" else ""
    return Event(f"attendance.{kind}", "b", "s", time, source, f"{kind}{second}", status, None, participant, time)


events = st.builds(event, st.sampled_from((*KINDS, "erased")), st.integers(0, 6), st.sampled_from(["p1", "p2"]))


@given(st.lists(events, max_size=12))
def test_an_event_is_unchanged_if_the_state_is(sent: list[Event]) -> None:
    state = BookingState("b")
    for each in sent:
        before, unchanged = deepcopy((state.rows, state.scans, state.erasure_horizon)), list[str]()
        apply_records([(state, [each], ())], RULES, unchanged=unchanged)
        is_same = (state.rows, state.scans, state.erasure_horizon) == before
        assert unchanged == ([each.type] if is_same else [])


@pytest.mark.parametrize("kind", KINDS)
def test_copies_in_one_batch_have_one_effect(kind: str) -> None:
    unchanged: list[str] = []
    apply_records([(BookingState("b"), [event(kind, 1)] * 3, ())], RULES, unchanged=unchanged)
    assert unchanged == [f"attendance.{kind}"] * 2
