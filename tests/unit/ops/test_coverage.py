"""Which offsets of a partition are read from archives, and which nobody has."""

from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from worker.ops.archive_format import ArchiveFile, Gap
from worker.ops.archive_reader import Source
from worker.ops.coverage import Coverage, LoadError, part_of

TP = TopicPartition("t.events", 3)
#: The log of the partition.
LOG = range(40, 60)


def file(begin: int, end: int) -> Source:
    name = f"{begin}-{end}"
    return Source(Path(name), ArchiveFile(name, TP.topic, TP.partition, begin, end, end - begin, None, None, 0, ""))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=8))
def test_every_offset_is_in_the_log_a_file_or_missing(files: list[tuple[int, int]]) -> None:
    ranges = [range(begin, min(begin + size, LOG.stop)) for begin, size in files if begin < LOG.stop]
    part = part_of(TP, LOG, 50, [file(each.start, each.stop) for each in ranges])
    archived = {offset for each in ranges for offset in each}
    missing = [offset for each in part.missing for offset in each]
    assert missing == [offset for offset in range(LOG.start) if offset not in archived]
    read = [range(each.file.begin, each.file.end) for each in part.files if each.file is not None]
    assert {offset for each in read for offset in each} >= {offset for offset in archived if offset < LOG.start}
    assert all(earlier.stop < later.stop for earlier, later in pairwise(read)), "none is read in vain"


def test_what_the_group_has_not_committed_is_not_read() -> None:
    assert part_of(TP, LOG, 47, [])[:2] == (40, 47)
    assert part_of(TP, range(60), 0, [])[:3] == (0, 0, [])


def test_a_group_behind_the_log_begins_with_it() -> None:
    assert part_of(TP, LOG, 12, [file(0, 40)]).end == 40


def test_an_error_names_each_range_and_the_cure() -> None:
    coverage = Coverage({TP: part_of(TP, LOG, 50, [file(10, 20), file(15, 31)])})
    assert coverage.gaps == [Gap("t.events", 3, 0, 10), Gap("t.events", 3, 31, 40)]
    with pytest.raises(LoadError) as raised:
        coverage.check()
    assert str(raised.value).splitlines() == [
        "t.events, partition 3: offsets 0 to 9 are neither in the topic nor in an archive",
        "t.events, partition 3: offsets 31 to 39 are neither in the topic nor in an archive",
        "name the archives that have them with --archives DIR; what nobody archived cannot be folded again",
    ]
    Coverage({TP: part_of(TP, LOG, 50, [file(0, 50)])}).check()


def test_an_archive_of_a_topic_that_was_created_again_is_refused() -> None:
    with pytest.raises(LoadError, match=r"goes to offset 61 of t\.events, partition 3, which ends at 60"):
        part_of(TP, LOG, 50, [file(0, 61)])
