"""Attendances as readers get them, and requests about them: one with what a test does not name left at the usual, or drawn."""

from typing import Any

from hypothesis import strategies as st

from schemas.attendance import STATUSES, Attendance, AttendanceStatus, attendance_id, guid

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
#: Names that lie next to each other by bytes and not by other orders, and one that has several partitions of attendances.
BOOKINGS = ("b", "b-", "b1", "B", "b\uffff", "b\U00010000", "é", OTHER)
SESSIONS = ("s", "s-", "s1", "\U0001f39f", "7c9e6679-7425-40de-944b-e07fc1f90ae8")
_NUMBERS = st.sampled_from((0, 1, 2, 3, 500))
_STATUSES = st.sampled_from([str(status) for status in STATUSES])


def attendance(**said: Any) -> Attendance:
    usual: Any = {
        "id": GUID,
        "bookingId": "b1",
        "sessionId": "s1",
        "status": AttendanceStatus.ATTENDED,
        "numberOfAttendees": 2,
        "updatedDate": "2026-11-22T10:00:00.123Z",
        "source": "/devices/kiosk-7",
    }
    return usual | said


def of(booking: str, session: str, status: str = "ATTENDED", number: int = 2) -> Attendance:
    """The attendance of a booking at a session."""
    identity = guid(attendance_id(booking, session))
    known = {"id": identity, "bookingId": booking, "sessionId": session, "status": AttendanceStatus(status)}
    return attendance(**known, numberOfAttendees=number)


def _attendances(least: int, most: int) -> st.SearchStrategy[list[Attendance]]:
    pairs, states = st.tuples(st.sampled_from(BOOKINGS), st.sampled_from(SESSIONS)), st.tuples(_STATUSES, _NUMBERS)
    known = st.dictionaries(pairs, states, min_size=least, max_size=most)
    return known.map(lambda by_pair: [of(*pair, *state) for pair, state in by_pair.items()])


#: None to all pairs of the bookings and sessions; mostly more than a few, since a plan has more to do then.
ATTENDANCES = st.one_of(_attendances(0, 5), _attendances(12, 28), _attendances(20, 28))

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "id": st.builds(lambda *pair: guid(attendance_id(*pair)), st.sampled_from(BOOKINGS), st.sampled_from(SESSIONS)),
    "bookingId": st.sampled_from((*BOOKINGS, "nobody")),
    "sessionId": st.sampled_from((*SESSIONS, "nowhere")),
    "status": _STATUSES,
    "numberOfAttendees": _NUMBERS,
}


def _condition(field: str) -> st.SearchStrategy[dict[str, Any]]:
    """A condition of one field; mostly one that many attendances meet, and seldom one that names ids or bookings to read."""
    values = _VALUES[field]
    denied = st.fixed_dictionaries({"$nin": st.lists(values, max_size=3)})
    if field == "numberOfAttendees":
        return st.one_of(denied, denied, *(st.fixed_dictionaries({name: values}) for name in ("$ne", "$lt", "$gte", "$eq")))
    named = st.fixed_dictionaries({"$in": st.lists(values, max_size=3)})
    return st.one_of(denied, named) if field in ("sessionId", "status") else st.one_of(denied, denied, denied, named)


#: The ``filter`` of a request: of no field, one or two.
FILTERS: st.SearchStrategy[dict[str, Any]] = st.lists(
    st.sampled_from(tuple(_VALUES)).flatmap(lambda field: st.tuples(st.just(field), _condition(field))), max_size=2
).map(dict)
#: The ``sort`` of a request, and the empty one.
SORTS: st.SearchStrategy[list[dict[str, str]]] = st.lists(
    st.fixed_dictionaries({"fieldName": st.sampled_from(tuple(_VALUES)), "order": st.sampled_from(("ASC", "DESC"))}),
    max_size=2,
    unique_by=lambda each: each["fieldName"],
)
