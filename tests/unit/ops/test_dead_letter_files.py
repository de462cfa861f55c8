"""Files of dead letters: what an export writes is read back to the same bytes, and a wrong line is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import parse_time
from worker.ops import dead_letter_files
from worker.ops.dead_letter_files import check_edited, line_of, read_edited
from worker.ops.dead_letters import DeadLetterError, DeadLetterRecord, Selection, State, packed_selection, unpacked_selection

ADDED = {"reason": b"invalid-field", "detail": b"x: y", "topic": b"t.events", "partition": b"2", "offset": b"9"}
contents = st.none() | st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode(errors="replace"))


def record(
    key: bytes | None = b"b1",
    value: bytes | None = b"{}",
    headers: list[tuple[str, bytes | None]] | None = None,
    **added: bytes,
) -> DeadLetterRecord:
    all_headers = [*(headers or []), *{**ADDED, "first-seen": b"2026-11-22T10:00:00.123Z", **added}.items()]
    return DeadLetterRecord(
        SimpleNamespace(partition=3, offset=117, timestamp=1_795_341_600_000, key=key, value=value, headers=all_headers)
    )


@given(contents, contents, st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=9), contents), max_size=3))
def test_a_line_gives_key_value_and_headers_back(
    tmp_path_factory: pytest.TempPathFactory, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    letter = record(key, value, [(f"x-{name}", content) for name, content in headers])
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(line_of(letter, State.OPEN))
    (batch,) = read_edited(path)
    assert batch.edited["3:117"].applied_to(letter) == (letter.key, letter.value, letter.headers)


def test_what_a_line_leaves_out_stays(tmp_path: Path) -> None:
    letter = record(b"\xff", b"{", [("note", b"mine")])
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": "3:117", "value": {"a": 1}}\n')
    (batch,) = read_edited(path)
    assert batch.edited["3:117"].applied_to(letter) == (b"\xff", b'{"a":1}', [("note", b"mine")])


def test_lines_are_read_on_from_where_a_batch_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_files, "_LINES", 3)
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"id": "0:{number}"}}\n' + "\n" * (number % 2) for number in range(8)))
    first, *later = read_edited(path)
    assert [list(each.edited) for each in later] == [list(each.edited) for each in read_edited(path, first.line, first.byte)]
    assert [name for each in (first, *later) for name in each.edited] == [f"0:{number}" for number in range(8)]
    assert check_edited(path) == (8, 12)
    assert check_edited(path, 4) == (4, 5)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "has no id"),
        ('{"id": "x", "value": {}}', "x is no id of a dead letter"),
        ('{"id": "0:1", "value": [1]}', "write key, headers and value as export does"),
        ('{"id": "0:1", "valueBase64": "?"}', "write key, headers and value as export does"),
        ('{"id": "0:1", "headers": [["a"]]}', "write key, headers and value as export does"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"id": "0:0"}}\n{line}\n')
    with pytest.raises(DeadLetterError, match=f"line 2: .*{problem}"):
        check_edited(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeadLetterError, match=r"nothing\.jsonl: No such file"):
        check_edited(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("header", "received"),
    [
        ("2026-11-22T10:00:00.123456Z", "2026-11-22T10:00:00.123456Z"),  # what `first-seen` was made of
        ("2026-11-22T10:00:05Z", "2026-11-22T10:00:00.123Z"),  # later than the record was appended
        ("nonsense", "2026-11-22T10:00:00.123Z"),
    ],
)
def test_a_record_is_received_when_it_was_first_seen(header: str, received: str) -> None:
    assert record(headers=[("attendance-received", header.encode())]).received == parse_time(received)


def test_records_of_somebody_else_are_shown() -> None:
    foreign = SimpleNamespace(partition=0, offset=1, timestamp=0, key=None, value=b"\0", headers=[("partition", b"-1")])
    shown = json.loads(line_of(DeadLetterRecord(foreign), State.OPEN))
    assert (shown["reason"], shown["topic"], shown["partition"], shown["firstSeen"]) == ("", "", 0, "")


def test_a_selection_is_kept_in_an_operation() -> None:
    for selection in (
        Selection(),
        Selection(("too-large",), ("/k",), "t.events", "b", 0, 5, ("0:1",), State.PARKED),
        Selection(state=None),
    ):
        assert unpacked_selection(json.loads(json.dumps(packed_selection(selection)))) == selection
