"""Whether a round ended as the contract says: every difference in words, none where all is well."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from tests.faults import group
from tests.faults.world import NUMBER, Item
from tests.support.held import arrivals_of, devices_of
from tests.support.oracle import Outcome
from tests.support.services.processes import wait_until
from tests.support.system import System, attendances_of
from tests.support.system import _alert as alert_state
from worker.read_model.reader import AttendanceReader, ReaderError

_SHOWN = 3


def applied(system: System) -> bool:
    """Whether the watermark of every partition is live and fresh, and has reached the ends of both topics."""
    try:
        if not system.read(_caught_up):  # asked first: Redis answers sooner than Kafka
            return False
        ends = system.ends()
        # a forward is sent before the watermark passes the record it was made of: ends that stay say that none is coming
        return system.read(partial(_reached, system, ends)) and all(
            system.ends()[topic] == ends[topic] for topic in (system.topics.events, system.topics.bookings)
        )
    except ReaderError:
        return False


async def _caught_up(reader: AttendanceReader) -> bool:
    return all(each.state == "live" and each.lag == 0 for each in await reader.status())


async def _reached(system: System, ends: dict[str, list[int]], reader: AttendanceReader) -> bool:
    topics = (("events", system.topics.events), ("bookings", system.topics.bookings))
    return all(
        int(each.mark.get(f"{name}.offset", 0)) >= ends[topic][each.number]
        for each in await reader.status()
        for name, topic in topics
    )


def read_models(system: System, expected: Outcome, step: int = 1) -> list[str]:
    """Differences of Redis from the oracle; and between two ways to the same, of which each `step`th is asked."""
    deadline = time.monotonic() + 20
    while True:
        try:
            found, apart = system.read(partial(_everything, step))
            break
        except ReaderError as error:
            if time.monotonic() > deadline:
                return [f"Redis does not answer: {error!r}"]
            time.sleep(0.2)
    shown, wanted = found._asdict(), expected._asdict()
    return [*(line for name in wanted for line in _differences(name, shown[name], wanted[name])), *apart]


async def _everything(step: int, reader: AttendanceReader) -> tuple[Outcome, list[str]]:
    """Everything that Redis serves, and where two ways to the same do not agree."""
    tallies, summaries = {}, {}
    documents: dict[str, dict[str, Any]] = {}
    sessions = await reader.sessions(100_000)
    for session in sessions:
        documents |= {each["id"]: dict(each) for each in await attendances_of(reader, sessionId=session)}
        tallies[session] = _bare(await reader.session(session), "sessionId")
    for booking in await reader.bookings():
        summaries[booking] = _bare(await reader.booking(booking), "bookingId")
    alerts = [dict(alert) for alert in await reader.alerts(limit=1_000_000)]
    outcome = Outcome(
        {(each["bookingId"], each["sessionId"]): _bare(each, "id") for each in documents.values()},
        tallies,
        summaries,
        {(alert["kind"], alert["bookingId"], alert.get("sessionId")): alert_state(alert) for alert in alerts},
        await arrivals_of(reader, sessions),
        await devices_of(reader),
    )
    apart = [*await _attendances_apart(reader, documents, step), *await _alerts_apart(reader, alerts, 4 * step)]
    return outcome, apart


async def _attendances_apart(reader: AttendanceReader, documents: dict[str, Any], step: int) -> list[str]:
    """Attendances by session against those by id and by booking."""
    by_id = {identity: await reader.get(identity) for identity in sorted(documents)[::step]}
    by_booking = {name: await attendances_of(reader, bookingId=name) for name in (await reader.bookings())[::step]}
    wanted: dict[str, list[Any]] = {name: [] for name in by_booking}
    for _, each in sorted(documents.items()):
        if each["bookingId"] in wanted:
            wanted[each["bookingId"]].append(each)
    return [
        *_differences("by id", by_id, {identity: documents[identity] for identity in by_id}),
        *_differences("by booking", by_booking, wanted),
    ]


async def _alerts_apart(reader: AttendanceReader, alerts: list[dict[str, Any]], step: int) -> list[str]:
    """All open alerts against those by kind, by session and by booking."""
    lines = []
    for field, argument in (("kind", "kind"), ("sessionId", "session_id"), ("bookingId", "booking_id")):
        names = sorted({alert[field] for alert in alerts if field in alert})[::step]
        shown = {name: await reader.alerts(limit=1_000_000, **{argument: name}) for name in names}
        wanted = {name: [alert for alert in alerts if alert.get(field) == name] for name in names}
        lines += _differences(f"alerts by {field}", shown, wanted)
    return lines


def _bare(answer: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    return {name: value for name, value in (answer or {}).items() if name not in (key, "freshness")}


def alerts_topic(system: System, expected: Outcome) -> list[str]:
    """Differences of the alerts topic's last states from the open alerts."""
    return _differences("alerts topic", system.open_alerts_of_topic(), expected.alerts)


def dead_letters(system: System, items: list[Item]) -> list[str]:
    """Differences of the dead letters' origins from where the bad records lie; and records that are not in the topics."""
    where = [
        (int(number), (record.topic, record.partition, record.offset))
        for topic in (system.topics.events, system.topics.bookings)
        for record in system.consume(topic)
        for name, number in record.headers
        if name == NUMBER
    ]
    missing = set(range(len(items))) - {number for number, _ in where}
    bad = {place for number, place in where if items[number].is_bad}
    letters = set()
    for letter in system.consume(system.topics.dead_letters):
        said = dict(letter.headers)
        letters.add((said["topic"].decode(), int(said["partition"]), int(said["offset"])))
    lines = [f"harness: {len(missing)} records were never published"] if missing else []
    return [
        *lines,
        *_some("bad records without a dead letter", bad - letters),
        *_some("dead letters of good records", letters - bad),
    ]


def commits(system: System, timeout: float = 20) -> list[str]:
    """Partitions whose committed offset does not reach the end."""
    topics = (system.topics.events, system.topics.bookings)
    behind: dict[Any, Any] = {}

    def reached() -> bool:
        ends, found = system.ends(), group.committed(system)
        behind.clear()
        for topic in topics:
            for partition, end in enumerate(ends[topic]):
                if end and found.get((topic, partition)) != end:
                    behind[topic, partition] = (found.get((topic, partition)), end)
        return not behind

    return [] if wait_until(reached, timeout, step=0.3) else [f"commits: (committed, end) of {behind}"]


def members(system: System, living: Callable[[], int], timeout: float = 30) -> list[str]:
    """Whether each living worker, and nobody else, has partitions, and every partition is someone's."""
    everything = {(t, p) for t in (system.topics.events, system.topics.bookings) for p in range(system.settings.partitions)}
    seen: list[Any] = []

    def whole() -> bool:
        seen[:] = group.members(system)
        return len(seen) == living() and all(seen) and sorted(tp for each in seen for tp in each) == sorted(everything)

    if wait_until(whole, timeout, step=0.3):
        return []
    return [f"idle: {living()} workers live, the group's members have {[sorted(each) for each in seen]}"]


def _differences(name: str, shown: dict[Any, Any], wanted: dict[Any, Any]) -> list[str]:
    keys = sorted((key for key in shown.keys() | wanted.keys() if shown.get(key) != wanted.get(key)), key=str)
    lines = [f"{name} {key}: shown {shown.get(key)}, expected {wanted.get(key)}" for key in keys[:_SHOWN]]
    return [*lines, *([f"{name}: {len(keys)} differences of {len(wanted)}"] if keys else [])]


def _some(what: str, places: Iterable[Any]) -> list[str]:
    found = sorted(places)
    return [f"{len(found)} {what}: {found[:_SHOWN]}"] if found else []
