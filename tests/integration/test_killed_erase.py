"""`attendance erase` gets SIGKILL at seeded moments; resumed, or aborted and begun anew, it leaves nothing of the bookings."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.integration.test_erased_for_good import Guest, until_no_trace
from tests.integration.test_main_job import MINUTE, envelope, exact
from tests.support.commands import shared_commands
from tests.support.killed_operations import Case, KilledOperation
from tests.support.killing import Moment
from tests.support.services import Broker, Redis
from tests.support.system import Record, System, running
from tests.support.traces import in_archives, named, traces

QUICK = (3,)
SEEDS = [pytest.param(seed, marks=[] if seed in QUICK else pytest.mark.slow) for seed in range(20)]
#: What the request holds that saves an erasure of which no booking is left: then archives are written again.
_NONE_LEFT = b'"left":[]'
#: And the one that saves that it has forgotten the bookings.
_FORGOTTEN = _NONE_LEFT + b',"horizons":{}'
#: The largest: any request, while an archive is written again, and from the last save on.
_MOMENTS = (
    Moment(25, pause=0.02),
    Moment(1, pause=0.08, after=_NONE_LEFT),
    Moment(2, after=_FORGOTTEN),
)
_DAY = 24 * 60 * MINUTE


@pytest.fixture(scope="module")
def hall(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server, partitions=2)) as system:
        yield system


class Guests(NamedTuple):
    """Bookings of a seed."""

    gone: list[Guest]
    stays: Guest

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.gone]


def published(system: System, seed: int) -> Guests:
    """Guests with all that they can leave; their last sessions ended long ago, but for the one that stays."""
    now = time.time_ns() // 1000
    gone = [Guest(system, f"{seed:02}{letter}-{uuid4().hex}", now) for letter in "abc"]
    stays = Guest(system, f"{seed:02}s-{uuid4().hex}", now)
    system.publish(record for each in (*gone, stays) for record in (booking(each, now), *with_filling(each, stays)))
    system.until_settled()
    return Guests(gone, stays)


def booking(guest: Guest, now: int) -> Record:
    ended = exact(now - (0 if guest.name[2] == "s" else 400) * _DAY).decode()
    sessions = [{"sessionId": each, "endsAt": ended} for each in guest.sessions]
    data = {"bookingId": guest.name, "numberOfParticipants": 2, "sessions": sessions}
    return guest.system.booking(envelope(f"listed-{guest.name}", "bookings", "booking.upserted", now, data))


def with_filling(guest: Guest, stays: Guest) -> Iterator[Record]:
    """Its events, each followed by a large one of the guest that stays, in the same partition: a file of an archive each."""
    for record in guest.events():
        yield record
        filling = stays.event("check_in", 0, stays.now - 60 * MINUTE, note="x" * 60_000)
        filling.partition = record.partition
        yield filling


def advances(after: Any, before: Any) -> bool:
    """Whether an erasure has no more to do than before."""
    left = [set(each.get("left", ())) for each in (after, before)]
    return left[0] <= left[1] and set(after.get("archives", ())) >= set(before.get("archives", ()))


def arguments_of(seed: int, guests: Guests, folder: Path) -> list[str]:
    """Bookings as options, as a file, or by their age; half of them also from an archive."""
    archives = ["--archives", str(folder / "archive")] if seed % 2 else []
    if seed % 4 < 2:
        bookings = [word for name in guests.names for word in ("--booking", name)]
    elif seed % 4 == 2:
        bookings = ["--before", "365d"]
    else:
        many = [f"none-{seed}-{number}" for number in range(510)] if seed not in QUICK else []
        file = folder / "bookings"
        file.write_text("\n".join([*many, *guests.names]))
        bookings = ["--file", str(file)]
    return [*bookings, *archives, "--yes", "--json"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_erasure_leaves_nothing(hall: System, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    guests, archive = published(hall, seed), tmp_path / "archive"
    before = hall.outcome()
    assert hall.run_cli("archive", str(archive), "--compress", "none", "--rotate-size", "64KiB", "--yes").returncode == 0
    archived = len(named(in_archives([archive]), guests.names))
    assert archived
    assert traces(hall, guests.names)
    arguments = arguments_of(seed, guests, tmp_path)
    archives = [archive] if "--archives" in arguments else []
    moments = _MOMENTS if archives else (_MOMENTS[0], _MOMENTS[2])
    case = Case(
        "erase",
        "erase",
        hall,
        lambda _: arguments,
        0,
        namespace=hall.settings.redis_namespace,
        moments=moments,
        reaches=advances,
    )
    operation = KilledOperation(shared_commands(), case, seed, seed)
    operation.kill()
    # an archive may have been written before
    assert operation.kills == 1 or archives, f"it ended before its moment: {operation}"
    operation.set_back()
    while chance.random() < 0.4:
        operation.kill_again()
    if not operation.is_ended and chance.random() < 0.3:
        aborted(operation)
        code, _, err = operation.begin()
        assert code == 0, (operation, err)
    else:
        operation.finish()
        counts = operation.operation.counts
        assert counts.get("archive records", archived) == archived, operation
        assert counts["attendances"] == sum(name in guests.names for name, _ in before.attendances), operation
        assert counts["alerts"] == sum(name in guests.names for _, name, _ in before.alerts), operation
        assert counts["markers"] == counts["bookings"] == operation.operation.request["bookings"], operation
    check_gone(hall, guests, before, archives, operation)


def aborted(operation: KilledOperation) -> None:
    found = operation.operation
    assert found is not None
    code, out, err = operation.run("erase", "--abort", found.id, "--json")
    assert (code, json.loads(out or "{}").get("state")) == (0, "ABORTED"), (operation, err)
    operation.is_refused(f"{found.id} is ABORTED: there is nothing to resume")


def check_gone(hall: System, guests: Guests, before: Any, archives: list[Path], operation: KilledOperation) -> None:
    """Nothing of the guests is left, once the booking system has deleted them, and nothing else went."""
    hall.publish([each.record("booking.deleted") for each in guests.gone])
    hall.until_settled()
    after = hall.outcome()
    assert after.attendances == {pair: each for pair, each in before.attendances.items() if pair[0] not in guests.names}
    assert after.alerts == {alert: each for alert, each in before.alerts.items() if alert[1] not in guests.names}
    until_no_trace(lambda: traces(hall, guests.names, archives=archives))
    assert named(in_archives(archives), [guests.stays.name]) or not archives
    again = [word for name in guests.names for word in ("--booking", name)]
    done = hall.run_cli("erase", *again, *(w for each in archives for w in ("--archives", str(each))), "--yes", "--json")
    assert done.returncode == 0, (operation, done.stderr)
    summary = json.loads(done.stdout)
    went = {name: summary.get(name) for name in ("attendances", "alerts", "rows", "archive records", "archive files")}
    assert not any(went.values()), (operation, went)
    until_no_trace(lambda: traces(hall, guests.names, archives=archives))
    for each in archives:
        done = hall.run_cli("archive", str(each), "--verify")
        assert done.returncode == 0, (operation, done.stderr)
    done = hall.run_cli("verify")
    assert done.returncode == 0, (operation, done.stdout)
