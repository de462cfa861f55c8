"""`attendance explain`: the verdict of each event is the oracle's, the result is what Redis shows, and else it says so."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from schemas.times import format_exact_time, parse_time
from tests.property.test_verdicts import verdict_of
from tests.support.bad_records import delivery, send
from tests.support.oracle import Delivery, Rules
from tests.support.oracle.law import events_of, judge
from tests.support.services import Broker, Redis
from tests.support.serving import event
from tests.support.system import Record, System, running
from worker.domain.verdicts import Verdict
from worker.history.explain import Document, Explainer, Subject
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.topics import partition_of

NOW = parse_time("2026-11-22T10:00:00Z")
SECOND = 1_000_000
GUID = "88214716-abcd-4ef0-9012-3456789abcde"
BOOKINGS = (*(f"BK-{number}" for number in range(20)), GUID, "caf\u00e9 1", "K;`", "予約/7", "b1")
SESSIONS = tuple(f"s{number}" for number in range(8))


@pytest.fixture(scope="module")
def system(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    with running(System(kafka, redis_server, max_event_age="3650d")) as one:
        yield one


def explained(system: System, subjects: Sequence[Subject]) -> list[Document]:
    async def explaining() -> list[Document]:
        client = create_redis(system.settings)
        try:
            reader, limit = AttendanceReader(client, system.settings.redis_namespace), asyncio.Semaphore(10)

            async def one(subject: Subject) -> Document:
                async with limit:
                    return await Explainer(system.settings, reader, subject, lambda *_: None).explain()

            return list(await asyncio.gather(*map(one, subjects)))
        finally:
            await client.aclose()

    return asyncio.run(explaining())


class Adversary:
    """Events of a few attendances whose times, copies, spellings and ways are chosen to be confused."""

    def __init__(self, system: System, seed: int) -> None:
        self.system, self.rng, self.number = system, random.Random(seed), 0

    def event(self) -> list[tuple[dict[str, Any], Record]]:
        """An event, once to three times."""
        rng = self.rng
        self.number += 1
        kinds = ("check_in",) * 4 + ("no_show",) * 3 + ("participant_scanned",) * 5 + ("set", "set", "cleared", "deleted")
        kind = rng.choice(kinds)
        data: dict[str, Any] = {"bookingId": rng.choice(BOOKINGS), "sessionId": rng.choice(SESSIONS)}
        if kind == "set":
            data["status"] = rng.choice(("ATTENDED", "NOT_ATTENDED", "NOT_SET"))
        if kind in ("set", "check_in") and rng.random() < 0.5:
            data["numberOfAttendees"] = rng.randrange(4)
        if kind == "participant_scanned":
            data["participantId"] = f"p{rng.randrange(3)}"
        document = event(kind, "", "", NOW + rng.randrange(-20, 20) * SECOND)
        document |= {"id": f"e{self.number}", "source": f"/devices/{rng.randrange(3)}", "data": data}
        if rng.random() < 0.01:
            del data["sessionId"]
            document |= {"type": "booking.erased"}
        return [(document, self._record(document)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]

    def _record(self, document: dict[str, Any]) -> Record:
        rng, booking = self.rng, document["data"]["bookingId"]
        sent = {**document, "data": {**document["data"], "bookingId": self._spelled(booking)}}
        headers = []
        if rng.random() < 0.5:
            # the clock is up to ten minutes ahead of this
            received = parse_time(document["time"]) - rng.randrange(600) * SECOND
            headers.append(("attendance-received", format_exact_time(received).encode()))
        value = json.dumps(sent, ensure_ascii=rng.random() < 0.5).encode()
        if rng.random() < 0.1:
            data = base64.b64encode(json.dumps(sent["data"]).encode()).decode()
            value = json.dumps({**{k: v for k, v in sent.items() if k != "data"}, "data_base64": data}).encode()
        elif rng.random() < 0.1:
            headers += [(f"ce_{name}", content.encode()) for name, content in sent.items() if name != "data"]
            value = json.dumps(sent["data"]).encode()
        partitions = self.system.settings.partitions
        partition = partition_of(booking, partitions) if rng.random() < 0.9 else rng.randrange(partitions)
        key = booking.encode() if rng.random() < 0.8 else rng.choice((None, b"other"))
        return Record(self.system.topics.events, key, value, headers, partition)

    def _spelled(self, booking: str) -> str:
        spellings = (booking, booking, f" {booking}\u00a0", unicodedata.normalize("NFD", booking))
        if booking == GUID:
            spellings = (GUID, GUID.upper())
        if booking == "K;`":
            spellings = (booking, "\u212a;`", "K\u037e`", "K;\u1fef")
        return self.rng.choice(spellings)


def test_each_verdict_of_an_adversarial_stream(system: System) -> None:
    adversary = Adversary(system, 15)
    sent = [each for _ in range(1500) for each in adversary.event()]
    adversary.rng.shuffle(sent)
    landed = send(system, [record for _, record in sent])
    deliveries = [delivery(document, record, where) for (document, record), where in zip(sent, landed, strict=True)]
    system.until_settled()
    rules = Rules()
    pairs = [(booking, session) for booking in BOOKINGS for session in SESSIONS]
    documents = explained(system, [Subject(*pair) for pair in pairs])
    assert len(documents) == 200
    for (booking, session), document in zip(pairs, documents, strict=True):
        own = [each for each in deliveries if concerns(each, booking, session)]
        events = events_of(own, rules)
        by_id = {each.fact.id: each.fact for each in events}
        shown = [each for each in document["events"] if each["verdict"] != Verdict.DUPLICATE]
        assert sorted(each["id"] for each in shown) == sorted(by_id), (booking, session)
        for each in shown:
            assert each["verdict"] == verdict_of(by_id[each["id"]], events), (booking, session, each)
        assert len(document["events"]) == len(own)
        judged = judge(booking, session, events)
        found = document["result"]
        assert (found and {k: v for k, v in found.items() if k != "id"}) == (judged and judged.attendance)
        assert document["redis"]["agrees"], document["redis"]


def concerns(one: Delivery, booking: str, session: str) -> bool:
    data = one.event["data"]
    return data["bookingId"] == booking and data.get("sessionId", session) == session
