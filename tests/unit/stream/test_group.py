"""Which record of a group holds: the first that replaces the one before it, however many claim the same."""

from hypothesis import given
from hypothesis import strategies as st

from worker.stream.group import GroupRecord, latest


def record(redis_id: str, replaces: str = "") -> bytes:
    return GroupRecord(redis_id, replaces, {"partitions": 4}).encode()


def holds(*values: bytes | None) -> str | None:
    found = latest(values)
    return None if found is None else found.redis_id


def test_of_two_that_replace_the_same_the_first_holds() -> None:
    assert holds() is None
    assert holds(record("a"), record("b")) == "a"
    assert holds(record("a"), record("b"), record("c", "a"), record("d", "a"), record("e", "b")) == "c"


def test_a_log_whose_begin_was_deleted_holds_what_is_left() -> None:
    assert holds(record("c", "a"), record("d", "c")) == "d"


def test_what_is_no_record_counts_for_nothing() -> None:
    others = [None, b"", b"no json", b"[]", b"1", b'{"redisId": "x"}', b'{"redisId": "x", "replaces": "", "settings": 7}']
    assert holds(*others, record("a"), *others) == "a"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), st.data())
def test_a_repeated_record_changes_nothing(claims: list[tuple[int, int]], data: st.DataObject) -> None:
    """A worker whose answer was lost sends its record again, at any time later.

    An id is random: it is claimed once, and nobody has named it before that.
    """
    log, used = [], {0}
    for new, old in claims:
        if new not in used and new != old:
            used |= {new, old}
            log.append(record(str(new), str(old)))
    repeated = list(log)
    for value in log:
        if data.draw(st.booleans()):
            repeated.insert(data.draw(st.integers(repeated.index(value) + 1, len(repeated))), value)
    assert latest(repeated) == latest(log)
