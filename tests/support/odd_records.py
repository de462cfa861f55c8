"""Records as odd clients send them: torn JSON, unknown fields, wrong values, odd headers."""

import json
from typing import Any

from hypothesis import strategies as st

from schemas.events import MAX_EVENT_BYTES, RECEIVED_HEADER, EventType
from tests.support.incoming import BOOKING_DATA, DATA, GUID, MAX_AGE, RECEIVED_MS, TIME, Polled, document, raw

FIELDS = ["specversion", "id", "source", "type", "time", "data", "x"]
DATA_FIELDS = [
    "bookingId",
    "sessionId",
    "participantId",
    "numberOfAttendees",
    "status",
    "sessions",
    "numberOfParticipants",
    "walkInsAllowed",
    "serviceType",
    "x",
]
SESSION_FIELDS = ["sessionId", "startsAt", "endsAt", "x"]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec=None, categories=None), max_size=5),
    st.sampled_from(
        ["", " ", "1.0", GUID, f" {GUID} ", "x" * 257, "x" * 250, "ATTENDED", "CANCELED", "2026-11-22t10:00:60.5z"]
    ),
    st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", *DATA, *BOOKING_DATA]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["attendance-received", "content-type", "ce_id", "ce_time", "ce_type", "ce_source", "ce_specversion", "x", ""]
        ),
        st.one_of(st.none(), st.binary(max_size=40), TEXTS.map(lambda t: t.encode(errors="replace"))),
    ),
    max_size=6,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid CloudEvent with up to two fields changed, added or left out."""
    whole = document(draw(st.sampled_from([*DATA, *BOOKING_DATA])))
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.booleans()) and isinstance(whole.get("data"), dict)
        target, names = (whole["data"], DATA_FIELDS) if inside else (whole, FIELDS)
        name = draw(st.sampled_from(names))
        if draw(st.booleans()):
            target[name] = draw(VALUES)
        else:
            target.pop(name, None)
    return whole


@st.composite
def booking_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid booking record that lists up to three sessions, with up to two fields changed, added or left out."""
    times = st.sampled_from([None, TIME, "2026-11-22T12:00:00.5+02:00", "2026-11-22t10:00:00Z", "2026-11-22"])
    names = st.sampled_from(["s1", "s2", GUID, GUID.lower(), f" {GUID} ", "e\u0301", "\u00e9", "\u6625", ""])
    sessions = st.lists(st.fixed_dictionaries({"sessionId": names}, optional={"startsAt": times, "endsAt": times}), max_size=3)
    whole = document(draw(st.sampled_from([*BOOKING_DATA])))
    whole["data"]["sessions"] = listed = draw(sessions)
    for _ in range(draw(st.integers(0, 2))):
        places = [(whole, FIELDS), (whole["data"], DATA_FIELDS), *((each, SESSION_FIELDS) for each in listed)]
        target, fields = draw(st.sampled_from(places)) if isinstance(whole.get("data"), dict) else (whole, FIELDS)
        target[draw(st.sampled_from(fields))] = draw(VALUES)
    return whole


@st.composite
def as_arrays(draw: st.DrawFn, whole: st.SearchStrategy[dict[str, Any]]) -> Any:
    """A document in which an object is an array of its values, as a parser of positional fields would take it."""
    document = draw(whole)
    data = document.get("data")
    if not isinstance(data, dict) or draw(st.booleans()):
        return list(document.values())
    listed = data.get("sessions")
    if not isinstance(listed, list) or draw(st.booleans()):
        return {**document, "data": list(data.values())}
    sessions = [list(each.values()) if isinstance(each, dict) else each for each in listed]
    return {**document, "data": {**data, "sessions": sessions}}


def nested(kind: str, depth: int) -> list[bytes]:
    """Records that nest so deep in a field that is ignored: of the document, and of its data."""
    value, lists, objects = raw(document(kind)), b"[" * depth + b"]" * depth, b'{"a":' * depth + b"{}" + b"}" * depth
    return [
        value[:-1] + b',"x":' + lists[1:-1] + b"}",
        value[:-2] + b',"x":' + lists[2:-2] + b"}}",
        value[:-1] + b',"x":' + objects[10:-2] + b"}",
    ]


@st.composite
def torn(draw: st.DrawFn, whole: st.SearchStrategy[dict[str, Any]] | None = None) -> bytes:
    """The bytes of a CloudEvent with some cut out, put in or changed."""
    chosen = draw(documents() if whole is None else whole)
    value = bytearray(json.dumps(chosen, ensure_ascii=draw(st.booleans())).encode(errors="replace"))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(value)


USUAL = [Polled(raw(document(kind)), [], RECEIVED_MS) for kind in DATA if kind != EventType.BOOKING_ERASED]
TORN = st.builds(Polled, st.one_of(st.none(), torn(), documents().map(raw)), HEADERS, st.just(RECEIVED_MS))
ODD = [
    Polled(raw(document()), [(RECEIVED_HEADER, b"2026-11-01T10:00:00Z")], RECEIVED_MS),
    Polled(raw(document()), [], RECEIVED_MS + MAX_AGE // 1000 + 86_400_000),
    Polled(raw({**document(), "x": "x" * MAX_EVENT_BYTES}), [], RECEIVED_MS),
    Polled(json.dumps(document(bookingId="b\a")).encode(), [], RECEIVED_MS),
    Polled(raw(document(bookingId="b?")).replace(b"?", b"\x7f"), [], RECEIVED_MS),
    Polled(raw(document())[:-1] + b',"x":"\xff"}', [], RECEIVED_MS),
    Polled(b"", [], RECEIVED_MS),
    Polled(raw(list(document().values())), [], RECEIVED_MS),
    Polled(raw({**document(), "data": list(document()["data"].values())}), [], RECEIVED_MS),
    *(Polled(value, [], RECEIVED_MS) for depth in (500, 501, 10_000) for value in nested("attendance.check_in", depth)),
]
