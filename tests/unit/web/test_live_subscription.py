"""What a subscriber of a live feed holds, whatever happens to the values and to its connection."""

from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.web.live.shared_value import SharedValue
from worker.web.live.source import Changes, Delivery
from worker.web.live.subscription import FeedState, Subscription

KEYS = ("a", "b", "c")
AWAY = "Redis does not answer"


class Named:
    """A source that nobody loads."""

    interval = 0.25

    def __init__(self, key: str) -> None:
        self.key: Hashable = key

    def is_affected(self, changes: Changes) -> bool:
        return True

    async def load(self) -> Any:
        raise NotImplementedError


class Feed:
    """Values that the test changes, and clients of them."""

    def __init__(self, name: str = "one") -> None:
        self.values = [SharedValue(Named(key)) for key in KEYS]
        self.sequence = 0
        self.state = FeedState(name, lambda: self.sequence, lambda: False)

    def load(self, index: int, value: int) -> None:
        if self.values[index].loaded(value, self.sequence + 1):
            self.sequence += 1

    def subscribe(self, resume: str | None = None, keys: str = "abc") -> Subscription:
        return Subscription(self.state, [each for each in self.values if str(each.source.key) in keys], resume)


class Reader:
    """A client: what it holds of the deliveries, and the id with which it would resume."""

    def __init__(self) -> None:
        self.held: dict[Hashable, Any] = {}
        self.last_id: str | None = None
        self.error: str | None = None

    def take(self, delivery: Delivery | None) -> None:
        if delivery is None:
            return
        self.last_id = delivery.id or None
        if delivery.error is not None:
            assert not delivery.values
            self.error = delivery.error
            return
        if delivery.is_snapshot:
            self.held, self.error = {}, None
        self.held |= delivery.values


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 2), st.sampled_from((AWAY, "partition 1 is being repaired"))),
        st.tuples(st.just("deliver"), st.just(0), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_client_holds_the_values_in_the_end(steps: list[tuple[str, int, Any]]) -> None:
    feed, reader = Feed(), Reader()
    subscription = feed.subscribe()
    for what, index, value in steps:
        if what == "load":
            feed.load(index, value)
        elif what == "fail":
            feed.values[index].interrupt(value)
        elif what == "deliver":
            reader.take(subscription._compose())
        else:
            subscription = feed.subscribe(reader.last_id)
            if reader.last_id is None:
                reader = Reader()
    for index, each in enumerate(feed.values):
        feed.load(index, each.value if isinstance(each.value, int) else 0)
    for _ in range(3):
        reader.take(subscription._compose())
    assert reader.held == {each.source.key: each.value for each in feed.values}
    assert reader.error is None
    assert subscription._compose() is None, "nothing is sent twice"


@given(STEPS)
def test_an_error_is_told_once_and_ends_with_a_snapshot(steps: list[tuple[str, int, Any]]) -> None:
    feed, told = Feed(), list[Delivery]()
    subscription = feed.subscribe()
    for what, index, value in steps:
        if what == "load":
            feed.load(index, value)
        elif what == "fail":
            feed.values[index].interrupt(value)
        elif (delivery := subscription._compose()) is not None:
            told.append(delivery)
    for before, after in pairwise(told):
        if before.error is not None:
            assert after.error != before.error
        if after.is_snapshot:
            assert before.id == "", "no id resumes over an error"


@pytest.mark.parametrize(
    "resume", [None, "", "-", "one-1", "x-1", "{id}", "{id}-", "{id}-x", "{id}--1", "{id}-99", "{id}-²", "{id}-" + "9" * 99]
)
def test_other_ids_begin_with_a_snapshot(resume: str | None) -> None:
    feed = Feed()
    for index in range(3):
        feed.load(index, 1)
    known = feed.subscribe()._compose()
    assert known is not None
    name = known.id.rpartition("-")[0]
    delivery = feed.subscribe(resume and resume.replace("{id}", name))._compose()
    assert delivery is not None
    assert delivery.is_snapshot


def test_an_id_is_of_a_process_and_its_sources() -> None:
    feed, other = Feed(), Feed("two")
    for index in range(3):
        feed.load(index, 1)
        other.load(index, 1)
    first = feed.subscribe()._compose()
    assert first is not None
    assert feed.subscribe(first.id)._compose() is None
    for each in (other.subscribe(first.id), feed.subscribe(first.id, "ab")):
        delivery = each._compose()
        assert delivery is not None
        assert delivery.is_snapshot
