"""Session tallies and booking summaries (schemas/README.md) counted from nothing each time."""

from typing import Any

from tests.support.oracle.reading import Reference, Window, earliest, latest, written

Attendances = dict[tuple[str, str], dict[str, Any]]
Known = dict[str, Reference]

NOWHEN = Window(None, None)


def listing(known: Known, booking: str) -> dict[str, Window]:
    """The sessions that a known, uncanceled booking lists."""
    found = known.get(booking)
    return {} if found is None or found.canceled or found.sessions is None else found.sessions


def pairs(attendances: Attendances, known: Known) -> set[tuple[str, str]]:
    """The pairs that a known, uncanceled booking lists or that have an attendance."""
    return set(attendances) | {(booking, session) for booking in known for session in listing(known, booking)}


def statuses(attendances: Attendances, among: list[tuple[str, str]]) -> list[str]:
    """The status of each pair: NOT_SET where it has no attendance."""
    return [attendances[pair]["status"] if pair in attendances else "NOT_SET" for pair in among]


def tally(session: str, attendances: Attendances, known: Known) -> dict[str, Any]:
    """The tally of one session."""
    among = [pair for pair in pairs(attendances, known) if pair[1] == session]
    seen = statuses(attendances, among)
    there = [attendances[pair] for pair in among if pair in attendances]
    bookings = [known[booking] for booking, _ in among if booking in known]
    windows = [window for booking in known for at, window in listing(known, booking).items() if at == session]
    start, end = earliest([window.start for window in windows]), latest([window.end for window in windows])
    return {
        "bookings": len(among),
        "attended": seen.count("ATTENDED"),
        "notAttended": seen.count("NOT_ATTENDED"),
        "notSet": seen.count("NOT_SET"),
        "attendees": sum(one["numberOfAttendees"] for one in there if one["status"] == "ATTENDED"),
        "expectedParticipants": sum(one.participants for one in bookings if not one.canceled),
        "startsAt": None if start is None else written(start),
        "endsAt": None if end is None else written(end),
    }


def longest_run(ordered: list[str]) -> int:
    """The longest run of NOT_ATTENDED; NOT_SET neither counts nor breaks it."""
    decided = "".join({"NOT_ATTENDED": "x", "ATTENDED": " ", "NOT_SET": ""}[status] for status in ordered)
    return max((len(run) for run in decided.split(" ")), default=0)


def summary(booking: str, attendances: Attendances, known: Known) -> dict[str, Any]:
    """The summary of one booking; the order of its sessions comes from its own listing, canceled or not."""
    own = known.get(booking)
    windows = (own.sessions if own is not None else None) or {}

    def place(pair: tuple[str, str]) -> tuple[bool, int, str]:
        start = windows.get(pair[1], NOWHEN).start
        return start is None, start or 0, pair[1]

    among = sorted((pair for pair in pairs(attendances, known) if pair[0] == booking), key=place)
    seen = statuses(attendances, among)
    attended, missed = seen.count("ATTENDED"), seen.count("NOT_ATTENDED")
    return {
        "attended": attended,
        "notAttended": missed,
        "notSet": seen.count("NOT_SET"),
        "noShowRate": missed / (attended + missed) if attended + missed > 0 else 0,
        "longestNoShowRun": longest_run(seen),
    }


def tallies(attendances: Attendances, known: Known) -> dict[str, dict[str, Any]]:
    """The tally of every session with at least one pair."""
    sessions = {session for _, session in pairs(attendances, known)}
    return {session: tally(session, attendances, known) for session in sorted(sessions)}


def summaries(attendances: Attendances, known: Known) -> dict[str, dict[str, Any]]:
    """The summary of every booking with at least one pair."""
    bookings = {booking for booking, _ in pairs(attendances, known)}
    return {booking: summary(booking, attendances, known) for booking in sorted(bookings)}
