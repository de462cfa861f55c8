"""A transaction changes the read models as the script does, whatever a batch consists of."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from schemas.attendance import attendance_id
from tests.support.cores import make_commands
from tests.support.place import ATTENDED, MARKS, MINUTE, NOT_ATTENDED, NOT_SET, PairDocument, Pairs, Place, document, on
from tests.support.services import Redis
from worker.read_model import writer as writer_module
from worker.read_model.booking_records import pack_record
from worker.read_model.write_batch import NO_MEMBER, UNKNOWN, AlertChange, Entries, RecordMember, Write

_STATUSES = [None, (ATTENDED, 1), (ATTENDED, 0), (ATTENDED, 7), (NOT_ATTENDED, 0), (NOT_ATTENDED, 1), (NOT_SET, 0)]
#: What a key holds differs between two namespaces in these.
_OF_ITS_OWN = {b"epoch", b"changes", b"seq", b"keys"}


class Twins:
    """The same batches, written by the script in one place and in transactions in the other."""

    def __init__(self, by_script: Place, seed: int) -> None:
        self.places = [by_script, Place(by_script.client, make_commands())]
        self.chance = random.Random(seed)
        self.pairs: Pairs = {}
        self._records: set[str] = set()
        self._sources: set[str] = set()

    async def begin(self) -> None:
        self._owners = [await place.owner({}) for place in self.places]

    async def write(self) -> None:
        chance = self.chance
        named = [(f"b{chance.randrange(60)}", f"s{chance.randrange(9)}") for _ in range(chance.randrange(1, 90))]
        changes = {name: self._next(name) for name in named}
        others = [(booking, chance.choice(list(RecordMember))) for booking in {booking for booking, _ in named}]
        seed = chance.random()
        for owner in self._owners:
            entries, same = Entries(), random.Random(seed)
            self._add_pairs(entries, changes)
            self._add_others(entries, others, same)
            await owner.apply(Write(entries, {**MARKS, "events.offset": same.randrange(10_000)}))
        self.pairs = {name: pair for name, pair in {**self.pairs, **changes}.items() if pair is not None}

    def _next(self, name: tuple[str, str]) -> PairDocument | None:
        """What becomes of a pair: mostly its attendance changes, sometimes its booking too, or it vanishes."""
        before, chance = self.pairs.get(name), self.chance
        if before is None or chance.random() < 0.2:
            window = chance.choice([None, None, (None, None), (MINUTE, None), (2 * MINUTE, 3 * MINUTE)])
            found = document(*name, chance.choice(_STATUSES), chance.choice([0, 2]), window)
            return found if found.attendance or window is not None else None
        seen = chance.choice(_STATUSES)
        if seen is None and before.window is None:
            return before
        moved = None if seen is None else (*seen, 1_795_000_000_000_000 + chance.randrange(3) * MINUTE, "kiosk")
        return before._replace(attendance=moved)

    def _add_pairs(self, entries: Entries, changes: dict[tuple[str, str], PairDocument | None]) -> None:
        for name, now in changes.items():
            before, identity = self.pairs.get(name), attendance_id(*name)
            if now is None or len(name[0]) == 2:  # of some bookings it is not known what Redis holds
                entries.pair_anew(identity, b"" if now is None else now.packed)
            else:
                has_moved = before is not None and before.minute != now.minute
                held = b"" if before is None else before.contributed
                entries.pair(identity, now.packed, now.contributed, held, has_moved=has_moved)

    def _add_others(self, entries: Entries, others: list[tuple[str, RecordMember]], same: random.Random) -> None:
        for booking, member in sorted(others):
            identity = attendance_id(booking, "s0")
            record = pack_record((1, 0, 0, 0), [bytes([same.randrange(3)]) + identity], is_frequent=False, is_large=False)
            entries.booking(booking, same.choice([record, record, b""]), member, same.choice([0.0, 1.0, -1.0, -1 / 3, -0.1]))
            statuses = [0, 1, 2, NO_MEMBER]
            entries.member(booking, identity, same.choice(statuses), same.choice([*statuses, UNKNOWN]))
            kind, session = same.choice(["CLOCK_AHEAD", "OVERBOOKED"]), same.choice(["", "s1"])
            text = same.choice(["", f'{{"kind": "{kind}", "bookingId": "{booking}", "note": "\u00e9\\n"}}'])
            entries.alert(
                AlertChange(f"alert-{booking}-{kind}-{session}", kind, booking, session, same.randrange(1 << 41), text)
            )
        for number in range(same.randrange(3)):
            at = same.randrange(1 << 50)
            entries.device(f"/kiosks/{number}", same.choice([None, struct.pack(">QQQ", *[at + 2**63] * 3)]))

    async def assert_equal(self) -> None:
        found = [await _content(place) for place in self.places]
        assert found[0] == found[1]


async def _content(place: Place) -> dict[str, Any]:
    """All that a namespace holds, by key without its prefix."""
    client, names = place.client, await place.names()
    live = place.keys.prefix(await place.mark("keys"))
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.type(name)
        kinds = await pipe.execute()
        for name, kind in zip(names, kinds, strict=True):
            if kind == b"hash":
                pipe.hgetall(name)
            elif kind == b"zset":
                pipe.zrange(name, 0, -1, withscores=True)
            else:
                pipe.xrange(name)
        answers = await pipe.execute()
    await client.unlink(place.keys.changes)
    content = {}
    for name, kind, held in zip(names, kinds, answers, strict=True):
        # counts that are 0 are there or not
        if kind == b"hash":
            held = {field: value for field, value in held.items() if field not in _OF_ITS_OWN and value != b"0"}  # noqa: PLW2901
        elif kind == b"stream":
            # a batch is one script call, or one and a transaction
            sessions = {session for _, fields in held for session in fields[b"sessions"].split(b"\n")}
            held = sessions, any(fields[b"alerts"] == b"1" for _, fields in held)  # noqa: PLW2901
        if held:
            content[name.removeprefix(live).removeprefix(place.keys.tag)] = held
    return content


@pytest.mark.skipif(make_commands() is None, reason="transactions need the native core, which `make test` builds")
@pytest.mark.parametrize("seed", range(4))
def test_transactions_and_script_change_the_same(redis_server: Redis, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LEAST_OF_TRANSACTIONS", 1)
    # chunks of both ways have other bounds, and each announces what it changed
    for name in ("CHUNK", "LEAST_CHUNK", "MOST_CHUNK", "TRANSACTION"):
        monkeypatch.setattr(writer_module, name, 1000)

    async def scenario(place: Place) -> None:
        if place.make_commands is not None:
            return
        twins = Twins(place, seed)
        try:
            await twins.begin()
            for _ in range(25):
                await twins.write()
                await twins.assert_equal()
        finally:
            for name in await twins.places[1].names():
                await place.client.unlink(name)

    on(redis_server, scenario)
