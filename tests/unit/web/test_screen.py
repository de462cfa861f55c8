"""The pure parts of the screen: charts, freshness in words, links, and which fragments a subscriber gets."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from schemas.times import format_time
from worker.read_model.freshness import Partition
from worker.read_model.reader import AttendanceReader
from worker.web.errors import ApiError
from worker.web.live.source import Changes, Delivery
from worker.web.screen.chart import HEIGHT, MINUTE, WIDTH, fill, minute_chart
from worker.web.screen.freshness import FreshnessSource, freshness_words
from worker.web.screen.marks import Mark
from worker.web.screen.paths import link, page_at
from worker.web.screen.stream import FragmentWriter
from worker.web.screen.views.day import DaySessions
from worker.web.screen.views.session import SessionView
from worker.web.screen.views.view import Rendered, View
from worker.web.services import Services

NOW = 1_800_000_000_000
NUMBERS = st.integers(0, 100_000)


@given(NUMBERS, NUMBERS)
def test_a_bar_is_never_longer_than_its_place(present: int, expected: int) -> None:
    bar = fill(present, expected)
    assert 0 <= bar.present <= 100
    assert 0 <= bar.excess <= 100
    assert bar.present + bar.excess <= 100.1
    assert (bar.excess > 0) <= (present > expected)


@given(st.dictionaries(st.integers(1000, 1200), NUMBERS, max_size=60), st.integers(1000, 1200), st.integers(1, 120))
def test_a_chart_has_the_minutes_of_its_window(numbers: dict[int, int], until: int, minutes: int) -> None:
    arrivals = [{"minute": format_time(minute * MINUTE), "attendees": number} for minute, number in numbers.items()]
    chart = minute_chart(arrivals, until, minutes)
    shown = [number for minute, number in numbers.items() if until - minutes <= minute < until and number]
    assert (chart.total, chart.most, len(chart.bars)) == (sum(shown), max(shown, default=0), len(shown))
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.01
        assert bar.y >= 0
        assert bar.height > 0
        assert bar.y + bar.height <= HEIGHT + 0.01


def partition(*, lag: int = 0, fresh: int = 0, written: int = 0, state: str = "live") -> Partition:
    """Ages in seconds."""
    mark = {"writtenAt": NOW - written * 1000, "freshAt": NOW - fresh * 1000, "state": state}
    for topic in ("events", "bookings"):
        mark |= {f"{topic}.offset": 10, f"{topic}.end": 10, f"{topic}.confirmedAt": NOW - written * 1000}
    mark["events.end"] = 10 + lag
    return Partition(0, state, {name: str(value) for name, value in mark.items()}, NOW)


@pytest.mark.parametrize(
    ("given_partitions", "level", "text", "detail"),
    [
        ([partition()], "live", "Live", "all that Kafka has is shown"),
        ([partition(lag=1, fresh=1)], "live", "Live", "all that Kafka has is shown"),
        ([partition(), partition(lag=340, fresh=12)], "behind", "12 s behind", "340 records to apply"),
        ([partition(lag=1, fresh=600)], "behind", "10 min behind", "1 record to apply"),
        ([partition(lag=5, fresh=30, written=30)], "stopped", "30 s behind", "no worker owns partition 0"),
        ([partition(state="filling", fresh=20_000)], "stopped", "6 h behind", "are being filled"),
    ],
)
def test_freshness_in_words(given_partitions: list[Partition], level: str, text: str, detail: str) -> None:
    words = freshness_words(given_partitions)
    assert (words.level, words.text) == (level, text)
    assert detail in words.detail


@given(st.text(max_size=300))
def test_a_link_brings_back_any_text(text: str) -> None:
    target = link("/screen/session", id=text)
    assert target.isascii()
    assert page_at(target) == target


@given(st.dictionaries(st.sampled_from(["path", "query", "self", "id", "x"]), st.text(min_size=1), max_size=4))
def test_a_link_has_any_parameters(fields: dict[str, str]) -> None:
    assert page_at(link("/", **fields)) == link("/", **fields)


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 50, "100001", "-1", "", "1.5", "٣"])
def test_a_mark_with_a_wrong_number_is_refused(number: str) -> None:
    with pytest.raises(ApiError) as refused:
        Mark.of(f"ATTENDED:{number}:BK-1")
    assert refused.value.status == 400


@given(st.text(max_size=100))
def test_any_text_leads_to_a_page_of_the_screen(text: str) -> None:
    target = page_at(text)
    assert target.isascii()
    assert target == "/" or target.startswith(("/?", "/screen/"))


def test_a_sessions_chart_moves_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was drawn with the last change: an hour after the last rush it told how many come in a minute now."""
    tick = Changes(frozenset(), False, frozenset(), True, 1)

    class Reader:
        async def arrivals(self, session_id: str, since: int, until: int) -> None:
            return None

    view = SessionView(cast(Services, SimpleNamespace(reader=Reader())), {"id": "yoga"})
    minutes = iter((1000, 1000, 1001, 1001, 1001))
    monkeypatch.setattr(time, "time_ns", lambda: next(minutes) * MINUTE * 1000)
    asyncio.run(view._chart("yoga", None))
    assert not view.is_affected(tick)
    assert view.is_affected(tick)
    asyncio.run(view._chart("yoga", None))
    assert not view.is_affected(tick)
    assert not view.is_affected(tick._replace(is_tick=False))


def test_running_sessions_keep_their_order_between_listings() -> None:
    """Those without an end came last in a listing of the day, and by their start otherwise: cards jumped."""
    now = time.time_ns() // 1000
    times = {"startsAt": format_time(now - 60 * MINUTE), "endsAt": format_time(now + 60 * MINUTE)}
    with_end = {"sessionId": "a", **times}
    without = {"sessionId": "b", "startsAt": format_time(now - 10 * MINUTE), "endsAt": None}

    class Reader:
        async def sessions_page(self, **asked: Any) -> Any:
            is_ended, is_coming = "ends_before" in asked, asked["starts_from"] > now
            found = [] if is_ended or is_coming else [with_end] if "ends_after" in asked else [without, with_end]
            return SimpleNamespace(items=found, next=None)

        async def named_sessions(self, ids: list[str]) -> Any:
            return SimpleNamespace(items=[with_end, without])

    async def orders() -> list[list[str]]:
        day = DaySessions(cast(AttendanceReader, Reader()))
        return [[each["sessionId"] for each in (await day.read(24)).running] for _ in range(2)]

    assert asyncio.run(orders()) == [["b", "a"]] * 2


class _View(View):
    name = "alerts"
    elements = ("alerts",)

    @property
    def title(self) -> str:
        return ""

    def is_affected(self, changes: Changes) -> bool:
        return True

    async def read(self) -> Rendered:
        raise NotImplementedError


def test_a_subscriber_gets_what_its_page_does_not_show() -> None:
    nothing: Any = None
    view, freshness = _View(nothing, {}), FreshnessSource(nothing)
    writer = FragmentWriter(view, freshness)

    def write(is_snapshot: bool, error: str | None = None, live: str | None = None, **fragments: str) -> bytes:
        values: dict[Any, Any] = {}
        if fragments:
            values[view.key] = Rendered({name: Markup(html) for name, html in fragments.items()})
        if live:
            values[freshness.key] = Markup(live)
        return writer.write(Delivery("7", is_snapshot, values, error))

    first = write(True, live="now", a="<p>1\n</p>", b="2")
    assert first.startswith(b"id: 7\ndata: ")
    assert first.endswith(b"\n\n")
    assert first.count(b"\n") == 3, "one line of data"
    assert (b"#a" in first, b"#b" in first, b"#freshness" in first) == (True, True, True)
    second = write(False, a="<p>1\n</p>", b="3")
    assert (b"#a" in second, b"#b" in second, b"#freshness" in second) == (False, True, False)
    assert write(False, a="<p>1\n</p>", b="3") == b""
    away = write(False, error="Redis does not answer")
    assert b"Redis does not answer" in away
    # what the partitions say does not hide that the view cannot be read
    assert write(False, live="later") == b""
    assert b"later" in write(True, live="later", a="<p>1\n</p>", b="3")
