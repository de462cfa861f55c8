"""The command `explain`: why an attendance is what it is."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas import ids
from schemas.times import parse_time
from worker.cli.arguments import decode_argument
from worker.cli.long_commands import ProgressReport
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import fail, print_line, print_rows
from worker.history.errors import HistoryError, TooManyEvents
from worker.history.explain import Document, Explainer, Subject, is_unknown
from worker.ops.archive_format import ArchivedRecord
from worker.ops.archive_reader import find_sources, read_records
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.topics import TopicNames, partition_of


def explain(
    booking_id: str,
    session_id: str,
    begin: Annotated[str | None, typer.Option("--from", help="only events received from this time on (RFC 3339)")] = None,
    end: Annotated[str | None, typer.Option("--to", help="only events received before this time (RFC 3339)")] = None,
    archives: Annotated[
        list[str] | None, typer.Option("--archive", help="folder of an archive that holds what the topic has lost; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every event of an attendance that topic and archives hold, and why it counts or does not."""
    booking, session = ids.booking_id(decode_argument(booking_id)), ids.session_id(decode_argument(session_id))
    if booking is None:
        raise typer.BadParameter("BOOKING_ID: is not a bookingId")
    if session is None:
        raise typer.BadParameter("SESSION_ID: is not a sessionId")
    subject = Subject(booking, session, _time("--from", begin), _time("--to", end))
    if archives and not subject.is_whole:
        raise typer.BadParameter("--from and --to are of the topic: leave them out, or --archive")
    settings = service_settings()
    archived = _archived(settings, booking, [Path(decode_argument(each)) for each in archives or ()])
    document = asyncio.run(_explain(settings, subject, archived))
    if is_unknown(document):
        fail(f"nothing is known of booking {booking} at session {session}: no event in the topic names both")
    if as_json:
        print(json.dumps(document))
    else:
        _print(document)
    compared = document["redis"]
    if compared is not None and not compared["agrees"]:
        raise typer.Exit(1)


def _archived(settings: Settings, booking_id: str, folders: list[Path]) -> Iterator[ArchivedRecord]:
    """The records of the booking's partition, booking records first."""
    topics, partition = TopicNames.of(settings.topic_prefix), partition_of(booking_id, settings.partitions)
    sources = [find_sources(folders, topic, [partition]) for topic in (topics.bookings, topics.events)]
    return read_records([source for of_topic in sources for source in of_topic])


async def _explain(settings: Settings, subject: Subject, archived: Iterator[ArchivedRecord]) -> Document:
    client = create_redis(settings)
    with ExitStack() as stack:
        report: ProgressReport | None = None

        def progress(done: int, total: int) -> None:
            nonlocal report
            if report is None:
                report = stack.enter_context(ProgressReport("records", total))
            report.update(done)

        try:
            reader = AttendanceReader(client, settings.redis_namespace)
            return await Explainer(settings, reader, subject, progress, archived=archived).explain()
        except TooManyEvents as error:
            fail(f"{error}: explain a part of them with --from and --to")
        except HistoryError as error:
            fail(str(error))
        finally:
            await client.aclose()


def _print(document: Document) -> None:
    names = ("attendanceId", "bookingId", "sessionId", "partition")
    for name in names:
        print_line(f"{name}: {document[name]}")
    print_line("")
    print_rows(document["events"], as_json=False, columns=("offset", "time", "type", "source", "explanation"))
    print_line("")
    for each in document["deadLetters"]:
        print_line(f"offset {each['offset']}: {each['explanation']}")
    print_line(f"booking record: {_booking(document['bookingRecord'])}")
    for rule in document["rules"]:
        print_line(f"rule {rule['kind']}: {rule['message'] or 'not open'}")
    result = document["result"]
    print_line(f"result: {_attendance(result)}")
    print_line(f"Redis: {_redis(document['redis'])}")


def _booking(record: Document | None) -> str:
    if record is None:
        return "none"
    if not record["isKnown"]:
        return f"offset {record['offset']}: the booking is unknown"
    walk_ins = ", walk-ins allowed" if record["walkInsAllowed"] else ""
    listed = "lists no sessions" if record["sessions"] is None else f"lists {len(record['sessions'])} sessions"
    return f"offset {record['offset']}: {record['status']}, {record['numberOfParticipants']} participants{walk_ins}, {listed}"


def _attendance(attendance: Any) -> str:
    if attendance is None:
        return "no attendance"
    return "{status}, {numberOfAttendees} attendees, updated {updatedDate} by {source}".format(**attendance)


def _redis(compared: Document | None) -> str:
    if compared is None:
        return "not compared with a part of the events"
    if compared["agrees"]:
        return "agrees"
    return "differs: " + "; ".join([*compared["differences"], compared["reason"]])


def _time(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(decode_argument(text))
    except ValueError:
        raise typer.BadParameter(f"{name}: write a time as 2026-11-22T10:00:00Z") from None
