"""The bookings of a session, by bookingId or by state."""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import orjson

from schemas.attendance import STATUSES, attendance_id
from schemas.query.list_cursor import ListCursor, encode_list_cursor
from worker.read_model.documents import unpack, unpack_contribution
from worker.read_model.keys import DOC, DOC_SHIFT, ROSTER
from worker.read_model.lua_scripts import ROSTER as ROSTER_SCRIPT
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.pages import ListPage
from worker.read_model.query.roster_alerts import with_alerts
from worker.read_model.ranked import Ranked, ScoredMember, members_per_call, read_ranking

ROSTER_LIST = "roster"

RosterOrder = Literal["bookingId", "status"]


class RosterState(StrEnum):
    """The state of a booking at a session: the status of its attendance, or that it has none."""

    ATTENDED = "ATTENDED"
    NOT_ATTENDED = "NOT_ATTENDED"
    NOT_SET = "NOT_SET"
    NO_ATTENDANCE = "NO_ATTENDANCE"


#: By the score in a roster.
_STATES = (*(RosterState(status.value) for status in STATUSES), RosterState.NO_ATTENDANCE)


class RosterConditions(NamedTuple):
    """What a page was asked for, as a cursor carries it; None: any."""

    session_id: str | None
    order: str | None = None
    states: str | None = None
    """Their names, in the order of `RosterState`, separated by commas."""
    prefix: str | None = None
    alerts: str | None = None
    """``open``: with an open alert at the session."""

    @classmethod
    def requested(
        cls,
        session_id: str,
        order: RosterOrder | None,
        states: Collection[RosterState],
        prefix: str,
        alerts: Literal["open"] | None,
    ) -> "RosterConditions":
        names = ",".join(state for state in _STATES if state in states)
        return cls(session_id, order, names or None, prefix or None, alerts)

    @property
    def groups(self) -> list[list[int]]:
        """The scores that a booking may have, in groups that follow each other in the order."""
        names = None if self.states is None else self.states.split(",")
        scores = [score for score, state in enumerate(_STATES) if names is None or state in names]
        return [[score] for score in scores] if self.order == "status" else [scores]


async def roster_page(
    view: NamespaceView, conditions: RosterConditions, limit: int, after: ScoredMember | None
) -> ListPage | None:
    session_id, groups = conditions.session_id or "", conditions.groups
    prefix = (conditions.prefix or "").encode()

    async def rank(start: ScoredMember | None, count: int) -> Ranked:
        arguments = members_per_call(count, view.partitions), session_id, prefix, orjson.dumps(groups)
        return await read_ranking(view, ROSTER_SCRIPT, arguments, view.all_partitions, start, count)

    if conditions.alerts is None:
        places, freshness = await rank(after, limit + 1)
        end = places[limit - 1][0] if len(places) > limit else None
    else:
        places, end, freshness = await with_alerts(view, session_id, groups, prefix, rank, after, limit)
    if not places and end is None and not await _exists(view, session_id):
        return None
    shown = places[:limit]
    items = [
        item
        for (place, _), item in zip(shown, await _read_items(view, session_id, shown), strict=True)
        # one that changed after its place was read may have another place, or be gone
        if item is not None and _STATES.index(item["state"]) in groups[int(place.score)]
    ]
    if end is None:
        return ListPage(items, None, freshness)
    cursor = ListCursor(ROSTER_LIST, tuple(conditions), *end)
    return ListPage(items, encode_list_cursor(cursor, view.cursor_key), freshness)


async def _exists(view: NamespaceView, session_id: str) -> bool:
    answers, _ = await view.read(view.all_partitions, [[("EXISTS", ROSTER + session_id)] for _ in view.all_partitions])
    return any(count for (count,) in answers)


async def _read_items(
    view: NamespaceView, session_id: str, places: Sequence[tuple[ScoredMember, int]]
) -> list[dict[str, Any] | None]:
    """What is shown of each booking; None if it is no longer there."""
    ids = [attendance_id(place.member.decode(), session_id) for place, _ in places]
    numbers = sorted({number for _, number in places})
    commands: dict[int, list[tuple[Any, ...]]] = {number: [] for number in numbers}
    for (_, number), identity in zip(places, ids, strict=True):
        commands[number].append(("HGET", f"{DOC}{int.from_bytes(identity[:2], 'big') >> DOC_SHIFT}", identity))
    answers, _ = await view.read(numbers, [commands[number] for number in numbers])
    documents = {number: iter(each) for number, each in zip(numbers, answers, strict=True)}
    return [
        _item(place.member.decode(), identity, next(documents[number]))
        for (place, number), identity in zip(places, ids, strict=True)
    ]


def _item(booking_id: str, identity: bytes, packed: bytes | None) -> dict[str, Any] | None:
    if packed is None:
        return None
    contributed = unpack_contribution(packed)
    state = _STATES[contributed.status] if contributed.has_attendance else RosterState.NO_ATTENDANCE
    attendance = unpack(identity, packed)
    return {
        "bookingId": booking_id,
        "state": state.value,
        "expectedParticipants": contributed.expected,
        "attendance": attendance,
    }
