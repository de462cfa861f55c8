"""Both stores do what a dict would, whatever is written, deleted, dropped, filled, given away and opened again."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from worker.engine.stores.base import Checkpoint, Store, TableStore
from worker.engine.stores.memory import MemoryStore
from worker.engine.stores.rocksdb import RocksStore

GROUPS = [b"", b"a", b"ab", b"b\xff"]
KEYS = [group + b"\0" + suffix for group in GROUPS for suffix in (b"", b"s", b"s\0t")]
records = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(min_size=1, max_size=4)), max_size=8)
places = st.tuples(st.integers(0, 1), st.sampled_from([0, 1, 255, 256]))
checkpoints = st.none() | st.builds(Checkpoint, st.integers(0, 2**40), st.integers(0, 2**32 - 1))
steps = st.lists(
    st.tuples(st.just("write"), places, records, checkpoints)
    | st.tuples(st.sampled_from(["drop", "release", "begin_filling", "end_filling"]), places)
    | st.tuples(st.just("reopen")),
    max_size=20,
)


class Model:
    """What should be there."""

    def __init__(self, *, lasting: bool) -> None:
        self.rows: dict[tuple[int, int], dict[bytes, bytes]] = {}
        self.checkpoints: dict[tuple[int, int], Checkpoint] = {}
        self._lasting = lasting

    def do(self, name: str, place: tuple[int, int], *more: Any) -> None:
        if name == "write":
            rows = self.rows.setdefault(place, {})
            for key, value in more[0]:
                rows.pop(key, None)
                if value is not None:
                    rows[key] = value
            if more[1] is not None:
                self.checkpoints[place] = more[1]
        elif name == "drop" or (name == "release" and not self._lasting):
            self.rows.pop(place, None)
            self.checkpoints.pop(place, None)

    def check(self, table: TableStore, place: tuple[int, int]) -> None:
        rows, partition = self.rows.get(place, {}), place[1]
        assert table.get(partition, KEYS) == [rows.get(key) for key in KEYS]
        assert sorted(table.groups(partition)) == sorted({key.partition(b"\0")[0] for key in rows})
        assert table.checkpoint(partition) == self.checkpoints.get(place)
        for group, found_rows in zip(GROUPS, table.rows(partition, GROUPS), strict=True):
            found = {group + b"\0" + suffix: value for suffix, value in found_rows.items()}
            assert found == {key: value for key, value in rows.items() if key.partition(b"\0")[0] == group}


@pytest.mark.parametrize("kind", ["memory", "rocksdb"])
@settings(max_examples=examples(20), deadline=None)
@given(steps=steps)
def test_a_store_does_what_a_dict_would(kind: str, steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="attendance-test-") as folder:

        def opened() -> Store:
            return RocksStore(Path(folder), "n") if kind == "rocksdb" else MemoryStore()

        store, model = opened(), Model(lasting=kind == "rocksdb")
        try:
            for name, *arguments in steps:
                if name == "reopen":
                    store.close()
                    store = opened()
                    model = model if kind == "rocksdb" else Model(lasting=False)
                    continue
                (number, partition), *more = arguments
                model.do(name, (number, partition), *more)
                getattr(store.table(number), name)(partition, *more)
                model.check(store.table(number), (number, partition))
            for place in {*model.rows, (0, 0), (1, 256)}:
                model.check(store.table(place[0]), place)
        finally:
            store.close()
