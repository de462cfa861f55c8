"""Files of dead letters: JSON lines as `dead-letters export` writes them, and as people mend them for `replay --edit`.

A line is an object. ``id`` says which dead letter it is. ``value`` is the record's value: the JSON object, or its text where it
is no object in JSON; ``valueBase64`` takes its place where it is no text either; null is a null value. ``key`` and ``headers``
(pairs of name and content) are written the same way. What else a line holds is for the reader, and is ignored in a mended file.
"""

import asyncio
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from worker.engine.log_reader import Windows
from worker.ops.dead_letters import (
    Checkpoint,
    DeadLetterError,
    DeadLetterRecord,
    DeadLetters,
    Headers,
    Progress,
    Selection,
    State,
    normal_id,
)

#: A longer line is refused, bytes: the largest value as escaped text.
MOST_LINE_BYTES = 16 * 1024 * 1024
#: A batch of lines ends at either limit.
_LINES, _BYTES = 2_000, 16 * 1024 * 1024
_MISSING = object()


class EditedLetter(NamedTuple):
    """A line of a mended file. What the line leaves out stays as it is."""

    id: str
    key: Any
    value: Any
    headers: Any

    def applied_to(self, record: DeadLetterRecord) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers of the mended record."""
        key: bytes | None = record.key if self.key is _MISSING else self.key
        value: bytes | None = record.value if self.value is _MISSING else self.value
        headers: Headers = record.headers if self.headers is _MISSING else self.headers
        return key, value, headers


class EditedBatch(NamedTuple):
    """Some lines of a mended file, by the id of their dead letter."""

    edited: dict[str, EditedLetter]
    line: int
    """The number of lines up to its end."""
    byte: int
    """Where in the file it ends."""


def line_of(record: DeadLetterRecord, state: State) -> bytes:
    """A line of an export."""
    shown = record.shown(state) | _named("key", record.key)
    shown["headers"] = [[name, _text_or_base64(content)] for name, content in record.headers]
    shown |= {"value": record.document} if record.document is not None else _named("value", record.value)
    return orjson.dumps(shown) + b"\n"


def read_edited(path: Path, line: int = 0, byte: int = 0, last_line: int | None = None) -> Iterator[EditedBatch]:
    """The lines of a mended file behind a line, in batches.

    Raises:
        DeadLetterError: a line is not one of a dead letter.
    """
    with path.open("rb") as file:
        file.seek(byte)
        edited: dict[str, EditedLetter] = {}
        size = 0
        while (last_line is None or line < last_line) and (text := file.readline(MOST_LINE_BYTES + 1)):
            line, byte, size = line + 1, byte + len(text), size + len(text)
            if text.strip():
                each = _parse(text, f"{path}, line {line}")
                edited[each.id] = each
            if len(edited) >= _LINES or size >= _BYTES:
                yield EditedBatch(edited, line, byte)
                edited, size = {}, 0
        if size:
            yield EditedBatch(edited, line, byte)


def check_edited(path: Path, most: int | None = None) -> tuple[int, int]:
    """The number of dead letters of a mended file, and that of its lines; with ``most``, of the lines that hold so many.

    Raises:
        DeadLetterError: the file cannot be read, or a line is not one of a dead letter.
    """
    count = line = 0
    try:
        for batch in read_edited(path):
            count, line = count + len(batch.edited), batch.line
            if most is not None and count >= most:
                return most, _line_with(path, most)
    except OSError as error:
        raise DeadLetterError(f"{path}: {error.strerror}") from None
    return count, line


@contextmanager
def appending(path: Path, byte: int) -> Iterator[IO[bytes]]:
    """A file of which only what is before ``byte`` is kept, to append to.

    Raises:
        DeadLetterError: the file is shorter.
    """
    with path.open("ab" if byte == 0 else "r+b") as file:
        if file.seek(0, os.SEEK_END) < byte:
            raise DeadLetterError(f"{path} is shorter than it was: --abort this export, and begin another")
        file.truncate(byte)
        file.seek(byte)
        yield file


def digest_of(path: Path) -> str:
    """SHA-256 of a file: a replay is resumed with the same one."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


async def export(
    letters: DeadLetters,
    windows: Windows,
    selection: Selection,
    file: IO[bytes],
    checkpoint: Checkpoint | None,
    progress: Progress,
    stop: asyncio.Event,
) -> bool:
    """Writes what is selected in the windows; returns whether it is done, False if ``stop`` was set first.

    Args:
        file: where to append; with a ``checkpoint`` it is a file that can be truncated to its position.
    """
    done = 0
    async with aclosing(letters.select(windows, selection)) as parts:
        async for part in parts:
            if stop.is_set():
                break
            file.writelines(line_of(record, state) for record, state in part.records)
            done += part.end - part.begin
            progress(done)
            if checkpoint is not None:
                checkpoint.counts["exported"] += len(part.records)
                checkpoint.position[str(part.tp.partition)] = part.end
                await _save(file, checkpoint, at_once=False)
    file.flush()
    if checkpoint is not None:
        await _save(file, checkpoint, at_once=True)
    return not stop.is_set()


async def _save(file: IO[bytes], checkpoint: Checkpoint, *, at_once: bool) -> None:
    if at_once or checkpoint.is_due:
        # the position must not be ahead of the file, whatever dies
        file.flush()
        os.fsync(file.fileno())
        checkpoint.position["byte"] = file.tell()
        await checkpoint.save(at_once=True)


def _line_with(path: Path, most: int) -> int:
    """The number of the line that holds the so manyth dead letter."""
    count = number = 0
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):  # noqa: B007 - the number of the last line is used
            count += bool(text.strip())
            if count == most:
                break
    return number


def _parse(text: bytes, where: str) -> EditedLetter:
    if len(text) > MOST_LINE_BYTES:
        raise DeadLetterError(f"{where}: is longer than {MOST_LINE_BYTES} bytes; write one dead letter per line")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DeadLetterError(f"{where}: not JSON ({error}); write one dead letter per line, as export does") from None
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        raise DeadLetterError(f"{where}: has no id; write one dead letter per line, as export does")
    try:
        value, headers = _content(document, "value"), document.get("headers", _MISSING)
        if isinstance(value, dict):
            value = orjson.dumps(value)
        if headers is not _MISSING:
            headers = [(name.encode().decode(), _bytes_of(content)) for name, content in headers]
        return EditedLetter(normal_id(document["id"]), _bytes_of(_content(document, "key")), _bytes_of(value), headers)
    except (ValueError, TypeError, AttributeError, DeadLetterError) as error:
        raise DeadLetterError(f"{where}: {error}; write key, headers and value as export does") from None


def _content(document: dict[str, Any], name: str) -> Any:
    if f"{name}Base64" in document:
        return b64decode(document[f"{name}Base64"], validate=True)
    return document.get(name, _MISSING)


def _bytes_of(content: Any) -> Any:
    if content is None or content is _MISSING or isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return b64decode(content["base64"], validate=True)


def _named(name: str, content: bytes | None) -> dict[str, Any]:
    shown = _text_or_base64(content)
    return {f"{name}Base64": shown["base64"]} if isinstance(shown, dict) else {name: shown}


def _text_or_base64(content: bytes | None) -> Any:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(content or b"").decode()}
