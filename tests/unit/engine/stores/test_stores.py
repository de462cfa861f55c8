"""Where rows rest: slots that workers share, folders that are lost, damaged, another's or refused, and kill -9."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from worker.engine.stores import default_folder, open_store
from worker.engine.stores.base import Checkpoint, Store, StoreUnusable
from worker.engine.stores.memory import MemoryStore
from worker.engine.stores.rocksdb import RocksStore
from worker.settings import Settings, SettingsError
from worker.stream.resources import open_row_store

ROOT = Path(__file__).parents[4]
CHECKPOINT = Checkpoint(1, 2)
#: Writes ten rows and their checkpoint at a time until it is killed, and says how many times.
WRITER = """
import sys
from pathlib import Path
from worker.engine.stores.rocksdb import RocksStore
from worker.engine.stores.base import Checkpoint
store = RocksStore(Path(sys.argv[1]), "n")
table = store.table(0)
for number in range(1_000_000):
    table.write(3, [(b"%d\\0%d" % (number, row), b"v" * 50) for row in range(10)], Checkpoint(number + 1, 0))
    print(number + 1, flush=True)
"""


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else RocksStore(tmp_path, "n")
    yield opened
    opened.close()


def slot(store: Store) -> str:
    assert isinstance(store, RocksStore)
    return store.folder.name


def colliding() -> tuple[bytes, bytes]:
    """Two groups with the same CRC-32."""
    known: dict[int, bytes] = {}
    for number in range(1_000_000):
        group = b"%x" % (number * 2_654_435_761 + number**3)
        if known.setdefault(crc32(group), group) != group:
            return known[crc32(group)], group
    raise AssertionError("no two groups of a million share one")


def test_groups_of_one_checksum_are_kept_apart(store: Store) -> None:
    table, (one, other) = store.table(0), colliding()
    table.write(0, [(one + b"\0s", b"1"), (other + b"\0s", b"2"), (other + b"\0t", b"3")], CHECKPOINT)
    assert table.rows(0, [other, one]) == [{b"s": b"2", b"t": b"3"}, {b"s": b"1"}]
    assert sorted(table.groups(0)) == sorted((one, other))


def test_groups_that_begin_alike_are_kept_apart(store: Store) -> None:
    table = store.table(0)
    keys = [b"\0\x01own", b"a\0", b"a\0s", b"a\0s\0who", b"ab\0s", b"a\xff\0s"]
    table.write(0, [(key, key) for key in keys], CHECKPOINT)
    rows_of_a = {b"": b"a\0", b"s": b"a\0s", b"s\0who": b"a\0s\0who"}
    assert table.rows(0, [b"a", b"none", b"", b"a"]) == [rows_of_a, {}, {b"\x01own": b"\0\x01own"}, rows_of_a]
    assert sorted(table.groups(0)) == [b"", b"a", b"ab", b"a\xff"]
    assert table.get(0, [b"ab\0s", b"a\0x"]) == [b"ab\0s", None]


@pytest.mark.parametrize("last", [255, 256, 9_999])
def test_tables_and_partitions_are_kept_apart(store: Store, last: int) -> None:
    places = [(number, partition) for number in (0, 1) for partition in (0, last, last + 1)]
    for number, partition in places:
        store.table(number).write(partition, [(b"a\0", b"%d %d" % (number, partition))], Checkpoint(partition, number))
    store.table(0).drop(last)
    left = {place: store.table(place[0]).rows(place[1], [b"a"]) for place in places}
    assert left == {place: [{} if place == (0, last) else {b"": b"%d %d" % place}] for place in places}
    assert [store.table(0).checkpoint(partition) for partition in (0, last, last + 1)] == [
        Checkpoint(0, 0),
        None,
        Checkpoint(last + 1, 0),
    ]


def test_more_groups_than_are_read_at_a_time(store: Store) -> None:
    table, groups = store.table(0), [b"g%d" % number for number in range(3_000)]
    for partition in (0, 1):
        table.write(partition, [(group + b"\0" + suffix, b"v") for group in groups for suffix in (b"", b"s")], CHECKPOINT)
    assert sorted(table.groups(0)) == sorted(groups)


def test_rows_that_a_recovery_wrote_are_found_by_it(store: Store) -> None:
    """Else the second record of a key would replace the first, instead of being merged with it."""
    keys = [b"b%d\0s" % number for number in range(2_000)]
    filled = [(store.table(number), partition) for number in (0, 1) for partition in (0, 3)]
    for table, partition in filled:
        table.begin_filling(partition)
    for table, partition in filled:
        assert table.get(partition, keys[:1_000]) == [None] * 1_000
        table.write(partition, [(key, b"0") for key in keys[:1_000]], CHECKPOINT)
        assert table.get(partition, keys[500:]) == [b"0"] * 500 + [None] * 1_000
        table.write(partition, [(key, b"0") for key in keys[500:]], CHECKPOINT)
    for table, partition in filled:
        assert table.get(partition, keys) == [b"0"] * 2_000
        table.end_filling(partition)
        assert table.get(partition, [*keys, b"none\0s"]) == [*([b"0"] * 2_000), None]


def test_all_rows_come_in_pages_while_rows_are_written(store: Store) -> None:
    table, groups = store.table(0), [b"g%d" % number for number in range(1_500)]
    rows = [(group + b"\0" + suffix, group) for group in groups for suffix in (b"", b"s", b"s\0who")]
    for partition in (0, 1):
        table.write(partition, rows, CHECKPOINT)
    store.table(1).write(0, rows[:10], CHECKPOINT)
    pages = []
    for number, page in enumerate(table.pages(0)):
        pages.append(page)
        table.write(0, [(b"new%d\0" % number, b"n")], None)
    found = [row for page in pages for row in page if not row[0].startswith(b"new")]
    assert len(pages) > 2
    assert sorted(found) == sorted(rows)
    by_group = [key.partition(b"\0")[0] for key, _ in found]
    assert [group for group, _ in itertools.groupby(by_group)] == list(dict.fromkeys(by_group))
    assert list(store.table(2).pages(0)) == []


def test_rows_stay_in_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        store = RocksStore(tmp_path, "n")
        table = store.table(0)
        table.write(0, [(b"a\0%d" % len(table.rows(0, [b"a"])[0]), b"1")], CHECKPOINT)
        store.close()
        store.close()
    again = RocksStore(tmp_path, "n")
    assert again.table(0).rows(0, [b"a"]) == [{b"0": b"1", b"1": b"1"}]
    assert again.table(0).checkpoint(0) == CHECKPOINT
    again.close()


def test_a_folder_that_is_opened_again_has_its_filters(tmp_path: Path) -> None:
    for _ in range(2):
        store = RocksStore(tmp_path, "n")
        store.table(0).write(0, [(b"a\0", b"1")], CHECKPOINT)
        store.close()
    newest = max(store.folder.glob("OPTIONS-*"), key=lambda file: file.name)
    assert "filter_policy=bloomfilter" in newest.read_text()


def test_each_takes_the_first_free_slot(tmp_path: Path) -> None:
    first, second = RocksStore(tmp_path, "n"), RocksStore(tmp_path, "n")
    assert (slot(first), slot(second)) == ("rows-0", "rows-1")
    first.close()
    third = RocksStore(tmp_path, "n")
    assert slot(third) == "rows-0"
    second.close()
    third.close()


def test_kill_9_frees_the_slot_and_keeps_rows_at_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            said = [int(child.stdout.readline()) for _ in range(200)]
            other = RocksStore(tmp_path, "n")
            assert slot(other) == "rows-1"
            other.close()
        finally:
            os.kill(child.pid, signal.SIGKILL)
    again = RocksStore(tmp_path, "n")
    assert slot(again) == "rows-0"
    table = again.table(0)
    checkpoint = table.checkpoint(3)
    assert checkpoint is not None
    assert checkpoint.offset >= said[-1] == 200
    assert sorted(map(int, table.groups(3))) == list(range(checkpoint.offset))
    assert len(table.rows(3, [b"%d" % (checkpoint.offset - 1)])[0]) == 10
    again.close()


def _wipe(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _damage(folder: Path) -> None:
    (folder / "CURRENT").write_text("nothing\n")


def _lose_a_part(folder: Path) -> None:
    next(folder.glob("MANIFEST-*")).unlink()


@pytest.mark.parametrize("harm", [_wipe, _damage, _lose_a_part])
def test_a_folder_that_is_lost_or_damaged_begins_empty(tmp_path: Path, harm: object) -> None:
    store = RocksStore(tmp_path, "n")
    store.table(0).write(0, [(b"a\0", b"1")], CHECKPOINT)
    store.close()
    assert callable(harm)
    harm(store.folder)
    again = RocksStore(tmp_path, "n")
    assert again.table(0).checkpoint(0) is None
    assert again.table(0).rows(0, [b"a"]) == [{}]
    again.close()


def test_damaged_rows_are_not_taken_for_none(tmp_path: Path) -> None:
    rows = {b"%d" % number: os.urandom(100) for number in range(100)}
    store = RocksStore(tmp_path, "n")
    store.table(0).write(0, [(b"a\0" + suffix, value) for suffix, value in rows.items()], CHECKPOINT)
    store.close()
    for written in store.folder.glob("*.sst"):
        found = bytearray(written.read_bytes())
        found[100] ^= 1
        written.write_bytes(found)
    again = RocksStore(tmp_path, "n")
    with pytest.raises(Exception, match="Corruption"):
        again.table(0).rows(0, [b"a"])
    again.close()


def test_rows_of_another_name_are_dropped(tmp_path: Path) -> None:
    store = RocksStore(tmp_path, "one")
    store.table(0).write(0, [(b"a\0", b"1")], CHECKPOINT)
    store.close()
    other = RocksStore(tmp_path, "other")
    assert other.table(0).checkpoint(0) is None
    assert list(other.table(0).groups(0)) == []
    other.close()


def test_an_unusable_folder_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable) as below_a_file:
        open_store(f"rocksdb://{tmp_path}/file/folder", "n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "rows-0").write_text("")
    with pytest.raises(StoreUnusable) as taken:
        open_store(f"rocksdb://{tmp_path}/taken", "n")
    for said in (str(below_a_file.value), str(taken.value)):
        assert str(tmp_path) in said
        assert "set another folder" in said
        assert "\n" not in said
    (tmp_path / "taken" / "rows-0").unlink()
    open_store(f"rocksdb://{tmp_path}/taken", "n").close()


def test_a_worker_that_cannot_keep_rows_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(_env_file=None, store=f"rocksdb://{tmp_path}/file/folder")  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=r"^ATTENDANCE_STORE: cannot write to .*: set another folder, or memory://$"):
        open_row_store(settings)


def test_the_default_folder_is_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/joe")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_folder("p") == Path("/home/joe/.local/state/attendance-worker/p")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_folder("p") == Path("/home/joe/.local/state/attendance-worker/p")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    store = open_store("rocksdb://", "p")
    assert (tmp_path / "attendance-worker" / "p" / slot(store)).is_dir()
    store.close()
    assert isinstance(open_store("memory://", "p"), MemoryStore)
