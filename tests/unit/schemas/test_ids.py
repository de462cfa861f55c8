"""Ids to the letter: what is cut off at their ends, what makes a text no id, and the spelling that is left."""

import json
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import ids
from schemas.events import DeadLetter, Event
from schemas.query.filter import BOOKING, ID, SESSION, usable
from tests.support.incoming import GUID, document, raw, take, take_booking

Normalise = Callable[[str], str | None]
KINDS: list[tuple[Normalise, int]] = [(ids.booking_id, 128), (ids.session_id, 250), (ids.participant_id, 128)]
WHITE_SPACE = [0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
FORMAT = [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
INVISIBLE = [chr(code) for code in (*WHITE_SPACE, *FORMAT)]
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udfff"]
EVERY = [chr(code) for code in range(0x110000)]


@pytest.mark.parametrize(("normalise", "longest"), KINDS)
def test_what_is_cut_off_at_the_ends_and_what_is_kept(normalise: Normalise, longest: int) -> None:
    for each in INVISIBLE:
        assert normalise(f"{each}{each}a{each}b{each}") == f"a{each}b".replace("\u2000", "\u2002").replace("\u2001", "\u2003")
        assert normalise(each) is None
        assert normalise(each + "a" * longest + each) == "a" * longest
    kept = set(EVERY) - set(INVISIBLE) - set(CONTROLS)
    assert all(ids.trimmed(each) == each for each in kept)


@pytest.mark.parametrize(("normalise", "longest"), KINDS)
def test_controls_and_surrogates_anywhere_make_no_id(normalise: Normalise, longest: int) -> None:
    for each in (*CONTROLS, *SURROGATES):
        assert [normalise(text) for text in (f"{each}a", f"a{each}b", f"a{each}", f"{each} a", each)] == [None] * 5
    assert normalise("a" * (longest + 1)) is None
    assert normalise("") is None


@pytest.mark.parametrize(("normalise", "longest"), KINDS)
def test_accents_are_composed_and_then_counted(normalise: Normalise, longest: int) -> None:
    """The longest decomposition has four characters; U+FB2C stays decomposed, in three."""
    assert normalise(unicodedata.normalize("NFD", "\u1f82" * longest)) == "\u1f82" * longest
    assert normalise("e\u0323\u0302" * longest) == "\u1ec7" * longest
    assert normalise("e\u0301" * longest + "e") is None
    assert normalise("\ufb2c" * (longest // 3 + 1)) is None
    assert normalise("\u212b\u2126") == "\u00c5\u03a9"


def test_only_booking_and_session_guids_are_lower_cased() -> None:
    assert ids.booking_id(f"\ufeff{GUID} ") == ids.session_id(GUID) == GUID.lower()
    assert ids.participant_id(GUID) == GUID
    assert ids.booking_id(GUID + "A") == GUID + "A"


@given(
    st.text(st.characters(codec="utf-8"), max_size=20), st.text(st.sampled_from([*INVISIBLE, "\u0301", "\u0323"]), max_size=3)
)
def test_normalising_again_changes_nothing(text: str, around: str) -> None:
    found = ids.session_id(around + text + around)
    assert found is None or ids.session_id(found) == found


def test_a_run_of_marks_costs_no_quadratic_time() -> None:
    """Composing half a million of them would take minutes."""
    marks = "\u0301" * 250_000 + "\u0323" * 250_000
    assert ids.booking_id("a" + marks) is None
    assert ids.session_id("a" + "\u0301" * 500 + "\u0323" * 499) is None
    assert ids.session_id("a" + "\u0f73" * 998) is None


SPELLINGS = ["M\u00fcller 1", "Mu\u0308ller 1", "\ufeffM\u00fcller 1\u200b", "\u2060\u00a0Mu\u0308ller 1\u00ad\u3000"]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=ascii)
def test_every_way_in_knows_one_spelling(spelling: str) -> None:
    """Events of both ways of decoding, booking records, keys, and filters of queries."""
    data = {"bookingId": spelling, "sessionId": spelling, "participantId": spelling}
    whole = document("attendance.participant_scanned", **data)
    for value in (raw(whole), json.dumps(whole, ensure_ascii=False).encode()):
        event = take(value)
        assert isinstance(event, Event), event
        assert (event.booking_id, event.session_id, event.participant_id) == ("M\u00fcller 1",) * 3
    record = take_booking(raw(document("booking.upserted", bookingId=spelling, sessions=[{"sessionId": spelling}])))
    assert not isinstance(record, DeadLetter), record
    assert record.booking_id == "M\u00fcller 1"
    assert list(getattr(record, "sessions", ())) == ["M\u00fcller 1"]
    gone = take_booking(None, spelling.encode())
    assert not isinstance(gone, DeadLetter), gone
    assert gone.booking_id == "M\u00fcller 1"
    assert usable(BOOKING, spelling) == usable(SESSION, spelling) == "M\u00fcller 1"
    assert usable(ID, spelling) is None


def test_id_and_source_stay_as_they_are_written() -> None:
    written = "\ufeff Mu\u0308ller \u200b"
    event = take(raw({**document(), "id": written, "source": written}))
    assert isinstance(event, Event), event
    assert (event.id, event.source) == (written, written)
