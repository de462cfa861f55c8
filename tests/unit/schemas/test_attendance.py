"""The id of an attendance is a UUIDv5 (schemas/README.md): the same in every replay, whoever computes it."""

from uuid import RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from schemas.attendance import JOIN, NAMESPACE, attendance_id, guid

#: What ids may hold: no control characters, no surrogates.
IDS = st.text(
    st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=("Cs",)), min_size=1, max_size=250
)


@given(IDS, IDS)
def test_the_id_is_the_standard_librarys_uuid5(booking_id: str, session_id: str) -> None:
    made = attendance_id(booking_id, session_id)
    assert made == uuid5(NAMESPACE, booking_id + JOIN + session_id).bytes
    assert guid(made) == str(UUID(bytes=made))
    assert UUID(bytes=made).version == 5
    assert UUID(bytes=made).variant == RFC_4122


@given(IDS, IDS, IDS)
def test_where_one_id_ends_matters(one: str, two: str, three: str) -> None:
    assert attendance_id(one + two, three) != attendance_id(one, two + three)


def test_the_id_of_an_attendance_never_changes() -> None:
    """Computed once with uuid.uuid5; a change loses every link that a dashboard kept."""
    assert guid(attendance_id("b1", "s1")) == "897c5031-7a71-5b4f-b446-384e723e48b5"
