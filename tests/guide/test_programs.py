"""The guide's programs, clients and commands publish to a real broker, and a real worker counts what they sent."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from schemas.decoding.explain import decode
from schemas.events import Event
from schemas.times import format_time
from tests.guide.document import ROOT, commands
from tests.guide.kiosks import LANGUAGES, Kiosk, Language
from tests.guide.tenants import ApiDoor, BrokerDoor
from tests.sdks.programs import SDKS
from tests.support.programs import Program
from tests.support.services import KafkaCluster, Redis, ServiceUnavailable, ToolFailed
from tests.support.services.kafka_jars import kafka_jars
from tests.support.services.ports import ReservedPort
from tests.support.services.processes import run_tool, wait_until
from tests.support.system import System, attendances_of, running

each_language = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
#: An hour without a broker, compressed: clients give up after a second instead of a minute.
QUICK = {"KIOSK_TIMEOUT": 1, "KIOSK_MAX_PAUSE": 0.2}
#: The shell counts whole seconds.
QUICK_SHELL = {**QUICK, "KIOSK_MAX_PAUSE": 1}
BOOKINGS = 4
NAMES = {name.lower(): name for name in LANGUAGES}
GUIDE_FOLDER = ROOT / "schemas/guide"
#: Each scan of a booking has a smaller number: a scan that is sent again as a new event would show the larger one.
NUMBERS = range(9, 0, -1)
HALF = 5
TORN = b'{"specversion": "1'


class Tenant(NamedTuple):
    kafka: KafkaCluster
    system: System
    doors: dict[str, BrokerDoor | ApiDoor]

    def variables(self, language: Language) -> dict[str, object]:
        """The program's settings for an address at which nobody listens yet."""
        door = self.doors[language.heading]
        if isinstance(door, ApiDoor):
            return {"KIOSK_URL": door.url, "KIOSK_TOKEN": door.token}
        return {"KIOSK_BROKER": door.address, "KIOSK_TOPIC": self.system.topics.events}

    def attendances(self, session: str) -> dict[str, tuple[int, str]]:
        """Number and time of each booking's attendance at a session."""
        found = self.system.read(lambda reader: attendances_of(reader, sessionId=session))
        return {each["bookingId"]: (each["numberOfAttendees"], each["updatedDate"]) for each in found}

    def events(self, session: str) -> list[Event]:
        """All records of a session on the topic."""
        records = self.system.consume(self.system.topics.events)
        events = [decode(record.value, record.headers, record.timestamp, max_age=2**62) for record in records]
        return [event for event in events if isinstance(event, Event) and event.session_id == session]


@pytest.fixture(scope="module")
def tenant(redis_server: Redis, tmp_path_factory: pytest.TempPathFactory, missing: Callable[..., Any]) -> Iterator[Tenant]:
    """A broker of its own with a worker."""
    with ExitStack() as stack:
        kafka = KafkaCluster()
        stack.callback(kafka.close)
        doors: dict[str, BrokerDoor | ApiDoor] = {name: BrokerDoor(kafka) for name in LANGUAGES if name != "Shell"}
        try:
            kafka.start()
        except ServiceUnavailable as error:
            missing(error)
        system = stack.enter_context(running(System(kafka, redis_server)))
        doors["Shell"] = ApiDoor(system, tmp_path_factory.mktemp("api"))
        for door in doors.values():
            stack.enter_context(closing(door))
        yield Tenant(kafka, system, doors)


@pytest.fixture
def start(
    tmp_path: Path, installed: Callable[[Program], Path], program: Callable[[str, str], Path]
) -> Iterator[Callable[..., Kiosk]]:
    """Starts a program on the test's spool; all are killed in the end."""
    with ExitStack() as stack:

        def started(language: Language, *before: str, **variables: object) -> Kiosk:
            for tool in ("curl", "jq") if language.heading == "Shell" else ():
                program(tool, tool)
            place = installed(language.program())
            quick = QUICK_SHELL if language.heading == "Shell" else QUICK
            return stack.enter_context(Kiosk(language, place, tmp_path / "spool", *before, **{**quick, **variables}))

        yield started


def scans(session: str, numbers: range) -> list[str]:
    return [f"BK-{session}-{booking} {session} {number}" for number in numbers for booking in range(BOOKINGS)]


def check(tenant: Tenant, session: str, taken: list[str], source: str, *, kills: int, spooled: Iterable[bytes] = ()) -> None:
    """All that was taken is on the topic as it was spooled, and counted once, with the time of its scan."""
    events = tenant.events(session)
    by_id = {event.id: event._replace(received=0) for event in events}
    for value in spooled:
        document = json.loads(value)
        assert by_id.get(document["id"]) == decode(value, (), 0, max_age=2**62), document
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(by_id), "a scan is lost"
    # a scan may be spooled, and the kiosk killed before it says so
    assert len(set(by_id) - set(taken)) <= kills
    assert {event._replace(received=0) for event in events} == set(by_id.values()), "an event was not sent again unchanged"
    assert {event.source for event in events} == {source}
    newest: dict[str, Event] = {}
    for event in sorted(by_id.values(), key=lambda event: event.time):
        newest[event.booking_id] = event
    wanted = {name: (event.number, format_time(event.time)) for name, event in newest.items()}
    assert set(wanted) == {f"BK-{session}-{booking}" for booking in range(BOOKINGS)}
    assert {event.number for event in newest.values()} == {NUMBERS[-1]}
    assert wait_until(lambda: tenant.attendances(session) == wanted, 30), (tenant.attendances(session), wanted)


@each_language
def test_scans_survive_an_outage_and_kills(tenant: Tenant, start: Callable[..., Kiosk], language: Language) -> None:
    session, source = f"outage-{language.heading}", f"/kiosks/{language.heading}"
    variables = {**tenant.variables(language), "KIOSK_SOURCE": source}
    first = start(language, **variables)
    first.scan(*scans(session, NUMBERS[:HALF]))
    first.until_taken(HALF * BOOKINGS // 2)
    first.kill()  # in the middle of its scans
    kept = first.waiting()
    taken = len(first.taken())
    assert taken <= len(kept) <= taken + 1
    for name in ("20200101T000000-torn.tmp", "20200101T000000-bad.json"):
        (first.spool / name).write_bytes(TORN)
    second = start(language, **variables)
    second.scan("nonsense", *scans(session, NUMBERS[HALF:-1]))
    second.until_taken(taken + len(NUMBERS[HALF:-1]) * BOOKINGS)
    assert second.terminate(5) in (-15, 143)
    assert "not a scan" in second.errors()
    assert set(kept) < set(second.waiting())
    third = start(language, **variables)
    third.until(lambda: failures(third.errors()) >= 3, "giving up again and again")
    third.scan(*scans(session, NUMBERS[-1:]))
    third.until_taken(taken + len(NUMBERS[HALF:]) * BOOKINGS)
    third.end_input()
    spooled = third.spooled() - {TORN}
    assert len(spooled) >= len(third.taken())
    tenant.doors[language.heading].open()
    assert third.wait(60) == 0
    left = {path.name for path in third.spool.iterdir()}
    assert {name for name in left if not name.endswith(".tmp")} == {"20200101T000000-bad.bad"}
    assert "20200101T000000-torn.tmp" in left
    check(tenant, session, third.taken(), source, kills=2, spooled=spooled)


@pytest.mark.slow
@each_language
def test_kills_and_restarts_lose_and_double_nothing(
    tenant: Tenant, start: Callable[..., Kiosk], language: Language, tmp_path: Path
) -> None:
    """The program is killed after each few scans, while the broker is up, away or about to go."""
    session, source = f"kills-{language.heading}", f"/kiosks/{language.heading}"
    with reachable(tenant, language, tmp_path) as variables:
        spooled: set[bytes] = set()
        for round_number, number in enumerate(NUMBERS[:-1]):
            kiosk = start(language, **variables, KIOSK_SOURCE=source)
            if round_number == 2:
                tenant.kafka.kill()
            elif round_number == 4:
                tenant.kafka.start()
            taken = len(kiosk.taken())
            kiosk.scan(*scans(session, range(number, number - 1, -1)))
            kiosk.until_taken(taken + 1 + round_number % BOOKINGS)
            if round_number % 3 == 1:  # with nothing spooled, or while it is sent
                wait_until(lambda: not kiosk.waiting(), 1.5)  # noqa: B023 - called at once
            kiosk.kill()
            spooled |= kiosk.spooled()
        kiosk = start(language, **variables, KIOSK_SOURCE=source)
        kiosk.scan(*scans(session, NUMBERS[-1:]))
        tenant.kafka.kill()
        kiosk.end_input()
        tenant.kafka.start()
        assert kiosk.wait(120) == 0
        assert kiosk.waiting() == []
        check(tenant, session, kiosk.taken(), source, kills=len(NUMBERS) - 1, spooled=spooled)


@pytest.mark.slow
@each_language
def test_two_programs_share_a_spool(tenant: Tenant, start: Callable[..., Kiosk], language: Language, tmp_path: Path) -> None:
    session, source = f"shared-{language.heading}", f"/kiosks/{language.heading}"
    with reachable(tenant, language, tmp_path) as variables:
        one, other, third = (start(language, **variables, KIOSK_SOURCE=source) for _ in range(3))
        one.scan(*scans(session, NUMBERS[:3]))
        one.until_taken(3 * BOOKINGS)
        other.scan(*scans(session, NUMBERS[3:6]))
        other.until_taken(6 * BOOKINGS)
        one.kill()
        third.scan(*scans(session, NUMBERS[6:]))
        for kiosk in (other, third):
            kiosk.end_input()
        assert (other.wait(60), third.wait(60)) == (0, 0)
        assert third.waiting() == []
        check(tenant, session, third.taken(), source, kills=0)


@pytest.mark.slow
@each_language
def test_a_scan_is_not_taken_if_the_disk_is_full(
    start: Callable[..., Kiosk], language: Language, tmp_path: Path, small_disk: Callable[[Path], list[str]]
) -> None:
    """The spool is a disk of 64 KiB that only the program sees, and nobody listens where it sends."""
    with closing_port() as address:
        variables = {"KIOSK_BROKER": address, "KIOSK_URL": f"http://{address}"}
        kiosk = start(language, *small_disk(tmp_path / "spool"), **variables)
        kiosk.scan(*(f"BK-{n} full" for n in range(30)))
        kiosk.until(lambda: kiosk.errors().count("not taken: ") + len(kiosk.taken()) == 30, "an answer to each scan")
        taken = kiosk.taken()
        spooled = kiosk.seen_from_inside("*.json")
        assert 5 < len(taken) < 30
        assert [any(path.stem.endswith(name) for path in spooled) for name in taken] == [True] * len(taken)
        assert kiosk.seen_from_inside("*.tmp") == []
        spooled[0].unlink()
        kiosk.scan("BK-30 full")
        kiosk.until_taken(len(taken) + 1)


@pytest.mark.slow
def test_the_shell_program_heeds_what_the_api_answers(tenant: Tenant, start: Callable[..., Kiosk], tmp_path: Path) -> None:
    session = "answers"
    with closing(ApiDoor(tenant.system, tmp_path)) as door:
        allowed = json.loads(door.tokens.read_text())

        def answer_with(status: int, tokens: list[dict[str, Any]]) -> None:
            door.tokens.write_text(json.dumps({"tokens": tokens}))
            kiosk.until(lambda: kiosk.errors().count(f"\n{status} ") > 0, str(status))
            assert len(kiosk.waiting()) == len(NUMBERS) * BOOKINGS

        door.tokens.write_text('{"tokens": []}')
        door.open()
        variables = {"KIOSK_URL": door.url, "KIOSK_TOKEN": door.token, "KIOSK_TIMEOUT": 30, "KIOSK_SOURCE": "/gates/1"}
        kiosk = start(LANGUAGES["Shell"], **variables)
        kiosk.scan(*scans(session, NUMBERS))
        kiosk.until_taken(len(NUMBERS) * BOOKINGS)
        answer_with(401, [])
        answer_with(403, [{**each, "scopes": ["read"]} for each in allowed["tokens"]])
        tenant.kafka.kill()
        try:
            answer_with(503, allowed["tokens"])
        finally:
            tenant.kafka.start()
        kiosk.scan(f"{'x' * 129} {session}")  # a bookingId that is too long: 400
        kiosk.end_input()
        assert kiosk.wait(120) == 0
        assert [path.suffix for path in kiosk.spool.iterdir()] == [".bad"]
        check(tenant, session, kiosk.taken()[:-1], "/gates/1", kills=0)


@contextmanager
def reachable(tenant: Tenant, language: Language, folder: Path) -> Iterator[dict[str, object]]:
    """The program's settings for the broker itself, or for an API of its own."""
    if language.heading == "Shell":
        with closing(ApiDoor(tenant.system, folder)) as door:
            door.open()
            yield {"KIOSK_URL": door.url, "KIOSK_TOKEN": door.token, "KIOSK_TIMEOUT": 5}
    else:
        yield {"KIOSK_BROKER": tenant.kafka.bootstrap, "KIOSK_TOPIC": tenant.system.topics.events}


@contextmanager
def closing_port() -> Iterator[str]:
    """An address at which nobody listens."""
    port = ReservedPort()
    try:
        yield port.address
    finally:
        port.release()


@pytest.fixture
def small_disk(program: Callable[[str, str], Path], missing: Callable[..., Any]) -> Callable[[Path], list[str]]:
    """A command before another, which then has a disk of 64 KiB in this folder. Linux allows it to root, or to everybody."""
    command = [str(program("unshare", "util-linux")), "--map-root-user", "--mount"]
    try:
        run_tool([*command, "true"], timeout=10)
    except ToolFailed as failed:
        missing(ServiceUnavailable(f"no mounts of a program's own: {failed}"))

    def before(folder: Path) -> list[str]:
        folder.mkdir()
        return [*command, "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"', str(folder)]

    return before


def failures(errors: str) -> int:
    """How often the client gave up; curl says that it could not connect."""
    return errors.count("not acknowledged") + errors.count("curl: (7)")


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_kcat_publishes_by_the_guide(tenant: Tenant, program: Callable[[str, str], Path], mode: str) -> None:
    program("kcat", "kcat")
    number = ["structured", "binary"].index(mode)
    session = run_block(tenant, commands("kcat")[number])
    attended(tenant, session, {f"BK-{number + 1}": number + 1})


def test_curl_publishes_by_the_guide(tenant: Tenant, tmp_path: Path) -> None:
    (block,) = commands("curl")
    with closing(ApiDoor(tenant.system, tmp_path)) as door:
        door.open()
        session = run_block(tenant, block.replace("http://localhost:8080", door.url), TOKEN=door.token)
        attended(tenant, session, {"BK-4": 1, "BK-5": 0})


@pytest.mark.slow
def test_kafkas_own_tool_publishes_by_the_guide(tenant: Tenant, tmp_path: Path) -> None:
    (block,) = commands("Kafka's own tool")
    tool = tmp_path / "kafka-console-producer.sh"
    tool.write_text(f'#!/bin/sh\nexec java -cp "{kafka_jars()}/*" org.apache.kafka.tools.ConsoleProducer "$@"\n')
    tool.chmod(0o755)
    attended(tenant, run_block(tenant, block, PATH=f"{tmp_path}:{os.environ['PATH']}"), {"BK-3": 1})


def run_block(tenant: Tenant, block: str, **variables: str) -> str:
    """Runs a block of commands of the guide with this tenant's addresses; the session that it reports."""
    session = f"yoga-{uuid4().hex[:8]}"
    here = {"localhost:9092": tenant.kafka.bootstrap, "attendance.events": tenant.system.topics.events, "yoga-1": session}
    for name, value in here.items():
        block = block.replace(name, value)
    run_tool(["sh", "-ec", block], timeout=60, env=variables)
    return session


def attended(tenant: Tenant, session: str, numbers: dict[str, int]) -> None:
    def found() -> dict[str, int]:
        return {booking: number for booking, (number, _) in tenant.attendances(session).items()}

    assert wait_until(lambda: found() == numbers, 30), (found(), tenant.system.consume(tenant.system.topics.dead_letters))


@pytest.mark.parametrize("language", ["python", *(sdk.language for sdk in SDKS)])
def test_messages_of_the_sdk_are_counted(tenant: Tenant, installed: Callable[[Program], Path], language: str) -> None:
    """Both modes, by the guide's program."""
    programs = {sdk.language: sdk.program for sdk in SDKS}
    place = installed(programs[language]) if language in programs else GUIDE_FOLDER / "sdks/python"
    session = f"sdk-{language}"
    (block,) = commands(f"SDK of {NAMES[language]}")[-1:]
    variables = {"KIOSK_BROKER": tenant.kafka.bootstrap, "KIOSK_TOPIC": tenant.system.topics.events}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for mode in ("structured", "binary"):
        command = block.replace("BK-1", f"BK-{mode}").replace("yoga-1", session).replace("structured", mode)
        run_tool(["env", "-C", str(place), "sh", "-ec", command], timeout=60, env={**variables, "PATH": path})
    attended(tenant, session, {"BK-structured": 2, "BK-binary": 2})
