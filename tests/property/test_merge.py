"""States of deliveries: merging is the union of sets, and what is stored is what was there."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support import subject
from tests.support.oracle import Delivery
from tests.support.oracle.make import at, ev, scan
from tests.support.strategies import histories, sized

PLAIN = sized(60)


@st.composite
def shares(draw: st.DrawFn) -> tuple[list[Delivery], list[Delivery], list[Delivery]]:
    """Three parts of one history that overlap, in any order: copies of an event lie in several of them."""
    history = draw(histories(least=2))
    part = st.lists(st.sampled_from(history), max_size=8)
    return draw(part), draw(part), draw(part)


Shares = tuple[list[Delivery], list[Delivery], list[Delivery]]


@given(shares())
@PLAIN
def test_merge_equals_the_fold_of_the_union(parts: Shares) -> None:
    """Folding apart and merging is folding together."""
    one, two, _ = parts
    assert subject.merge(subject.state(one), subject.state(two)) == subject.state([*one, *two])


@given(shares())
@PLAIN
def test_merge_is_commutative(parts: Shares) -> None:
    """Which side is which does not matter."""
    one, two = subject.state(parts[0]), subject.state(parts[1])
    assert subject.merge(one, two) == subject.merge(two, one)


@given(shares())
@PLAIN
def test_merge_is_associative(parts: Shares) -> None:
    """Which merge comes first does not matter."""
    one, two, three = (subject.state(part) for part in parts)
    assert subject.merge(subject.merge(one, two), three) == subject.merge(one, subject.merge(two, three))


@given(shares())
@PLAIN
def test_merge_is_idempotent(parts: Shares) -> None:
    """Merging what is there already changes nothing, and neither does merging nothing."""
    one, two, _ = (subject.state(part) for part in parts)
    both = subject.merge(one, two)
    assert subject.merge(one, one) == one
    assert subject.merge(both, two) == both
    assert subject.merge(one, subject.state([])) == one


@given(shares())
@PLAIN
def test_a_state_read_back_is_the_state_stored(parts: Shares) -> None:
    """A state read back is the state stored, and merges like it."""
    one, two, _ = (subject.state(part) for part in parts)
    assert subject.decode_encode(one) == one
    assert subject.merge(subject.decode_encode(one), subject.decode_encode(two)) == subject.merge(one, two)


def test_different_events_have_different_states() -> None:
    """Different sets of events that show differently have different states: == is not blind."""
    facts = [[ev("check_in", at(0))], [ev("no_show", at(0))], [scan("p1", at(0))], [scan("p2", at(0))], []]
    states = [subject.state(one) for one in facts]
    assert all(a != b for i, a in enumerate(states) for b in states[:i])
