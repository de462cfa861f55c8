"""Bookings that are erased from an archive do not come back to it, and not from it, although the topics still have them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.integration.test_archive import archived, files_of, planned, verified, written
from tests.support.services import Broker, Redis
from tests.support.system import Record, System
from worker.ops.archive_erase import erase_from_archive
from worker.ops.archive_format import Manifest, read_manifest, write_manifest
from worker.ops.archive_reader import read_lines
from worker.ops.replay_sources import Files, Selection, sizes_of

GONE, STAYS = "BK-4711", "BK-47110"
DAY, NOW = "2026-11-26T10:00:00Z", "2026-11-27T10:00:00Z"
#: The time of NOW, microseconds.
HORIZON = 1_795_773_600_000_000
TOLERANCE = 300_000_000


def event(booking_id: str, time: str = DAY, kind: str = "attendance.check_in", **data: Any) -> bytes:
    data = {"bookingId": booking_id, "sessionId": "s1"} | data
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/k", "type": kind, "time": time, "data": data}).encode()


def publish(system: System, *records: tuple[bytes | None, bytes | None]) -> None:
    """Publishes (key, value) pairs to the events topic."""
    system.publish(Record(system.topics.events, key, value, [], 0) for key, value in records)


def erased(folder: Path) -> int:
    return erase_from_archive(folder, {GONE: HORIZON}, TOLERANCE, lambda _: None, bool).records


def content(folder: Path) -> bytes:
    """Everything that the folder holds, decompressed."""
    lines = [line for path in folder.glob("*.jsonl*") for line, _ in read_lines(path)]
    return b"\n".join([*lines, (folder / "manifest.json").read_bytes()])


def mentions(folder: Path) -> int:
    whole = content(folder)
    return whole.count(GONE.encode()) - whole.count(STAYS.encode())


def replayed(system: System, folder: Path) -> list[str]:
    """The bookings of all that a replay of the archive would publish."""

    async def reading() -> list[str]:
        files = Files(system.settings, sizes_of([str(folder)]), Selection())
        return [
            item.decoded.booking_id async for part in files.read(files.start) for item in part.items if item.decoded is not None
        ]

    return asyncio.run(reading())


def test_erased_bookings_do_not_come_back_to_an_archive(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        gone = GONE.encode()
        odd = [(b"k", gone + b" nonsense"), (b"k", b"<b>" + gone + b"</b>"), (b"k", b"nonsense")]
        publish(system, (gone, event(GONE)), (b"x", event(GONE)), (b"y", event(STAYS)), (gone, event(STAYS)), *odd)
        booking = event(GONE, kind="booking.upserted", numberOfParticipants=1)
        system.publish([Record(system.topics.bookings, gone, booking, [], 0)])
        written(system, planned(system, tmp_path))
        files = [file.name for file in files_of(tmp_path)]
        assert erased(tmp_path) == 5
        assert mentions(tmp_path) == 0
        checked = verified(system, tmp_path)
        assert (checked.problems, checked.records) == ([], 3), "although the topics still have what went"
        # what the erasure itself publishes, late events, the end of the booking, and one that is later than the erasure
        late = [event(GONE, NOW, "booking.erased"), event(GONE), b'{"bookingId": "%s"' % gone, event(STAYS)]
        publish(system, *((gone, each) for each in late), (gone, event(GONE, "2026-11-27T10:00:00.000001Z")))
        system.publish([Record(system.topics.bookings, gone, None, [], 0)])
        written(system, planned(system, tmp_path))
        assert [file.name for file in files_of(tmp_path) if file.name in files] == files
        assert [(each[2], each[4]) for each in archived(tmp_path)] == [(2, b"y"), (3, None), (6, b"k"), (10, None), (11, gone)]
        assert verified(system, tmp_path).problems == []
        assert planned(system, tmp_path).total == 0
        assert sorted(replayed(system, tmp_path)) == [GONE, STAYS, STAYS, STAYS]


def test_a_file_that_came_back_is_named_and_not_replayed(kafka: Broker, redis_server: Redis, tmp_path: Path) -> None:
    with System(kafka, redis_server, partitions=1) as system:
        publish(system, (b"k", event(GONE)), (b"k", event(STAYS)))
        written(system, planned(system, tmp_path))
        backup = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl*")}
        files = files_of(tmp_path)
        assert erased(tmp_path) == 1
        manifest = read_manifest(tmp_path)
        assert manifest is not None
        for path, whole in backup.items():
            path.write_bytes(whole)
        write_manifest(tmp_path, Manifest(manifest.format, files, erased=manifest.erased))
        checked = verified(system, tmp_path)
        assert checked.problem_count == 1
        assert "names a booking that was erased" in checked.problems[0]
        assert replayed(system, tmp_path) == [STAYS]
        assert erased(tmp_path) == 1
        assert verified(system, tmp_path).problems == []
