"""The query benchmark needs no services for these: its dataset, its classes of filters, its figures."""

import random
from pathlib import Path

import orjson
import pytest

from tests.bench.query import dataset, report
from tests.bench.query.asking import Block, Cell
from tests.bench.query.attacks import ATTACKS
from tests.bench.query.classes import CLASSES, FIELDS, Asked
from tests.bench.query.dataset import Dataset
from tests.bench.query.report import Found
from tests.support.oracle import queries

SIZE = 30_000


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset.make(SIZE, "mixed")


def _document(data: Dataset, attendance: int) -> dict[str, object]:
    return {field: data.value(attendance, field) for field in FIELDS}


def test_the_dataset_is_what_it_says(data: Dataset):
    spans = [len(data.of_booking(number)) for number in range(len(data.bookings))]
    plain = sum(name.startswith("BK-") for name in data.bookings) / len(data.bookings)
    statuses = [data.status_of.count(status) / SIZE for status in range(3)]

    assert len(data) == SIZE == sum(spans)
    assert 0.45 < sum(span == 1 for span in spans) / len(spans) < 0.55
    assert max(spans) == dataset.MOST_SESSIONS
    assert 0.45 < plain < 0.55
    assert statuses == pytest.approx([0.70, 0.01, 0.29], abs=0.01)
    assert len({data.identity(attendance) for attendance in range(SIZE)}) == SIZE
    usual = sum(map(len, data.by_session[data.large :])) / (len(data.sessions) - data.large)
    assert 80 < usual < 120


def test_the_same_seed_makes_the_same_dataset(data: Dataset):
    assert dataset.make(SIZE, "mixed") == data
    assert dataset.make(SIZE, "mixed", 8) != data
    assert not any(name.startswith("BK-") for name in dataset.make(1000, "guid").bookings)


@pytest.mark.parametrize("asked", [*CLASSES, *ATTACKS], ids=lambda asked: asked.name)
def test_a_class_draws_attendances_that_match(data: Dataset, asked: Asked):
    rng = random.Random(1)
    for _ in range(20):
        document, attendance = asked.draw(data, rng)
        if attendance is None:
            assert not any(queries.matches(_document(data, each), document) for each in range(0, SIZE, 97))
        else:
            assert queries.matches(_document(data, attendance), document)


def test_figures_are_those_of_the_slowest_place(tmp_path: Path):
    by_name = {asked.name: asked for asked in CLASSES}
    quick, slow = [1.0] * 99 + [1.5], [1.0] * 98 + [20.0, 25.0]
    cells = [
        Cell(by_name["none"], ("id",), "first", quick),
        Cell(by_name["none"], ("-id",), "deep", slow),
        Cell(by_name["booking"], ("status",), "first", quick),
        Cell(by_name["booking"], ("status",), "deep", []),
        Cell(by_name["session of 10k"], ("bookingId",), "first", slow),
    ]
    found = Found({}, {}, cells=cells, gets=[0.5], blocks={"none": Block(1.0, 1.0, 6.0, "EVALSHA", [6.0])})
    report.judge(found)
    report.write(found, tmp_path / "latest.json")
    written = orjson.loads((tmp_path / "latest.json").read_bytes())

    assert (written["worst_p99_ms"], written["booking_p99_ms"], written["id_p99_ms"]) == (20.0, 1.0, 0.5)
    assert written["longest_block_ms"] == 6.0
    assert written["reader"]["large_session_by_another_field_p99_ms"] == 20.0
    assert [line.split(":")[0] for line in found.missed] == ["none by id", "none"]
    assert len(written["reader"]["cells"]) == 4
