"""What the command that loads new tables and its processes send each other: a share, and lines of how far it is."""

import msgspec


class Share(msgspec.Struct, frozen=True):
    """What one process loads."""

    partitions: list[int]
    namespace: str
    """Of the build."""
    operation: str
    """The id of the operation that owns the build."""
    live_tables: str
    """Number of the live tables, as in ``ATTENDANCE_TABLES``."""
    archives: list[str]
    """Folders or files, with what the topics have deleted."""
    is_refold: bool
    """Topics and archives are folded; otherwise the rows of the live tables are copied."""


class Reached(msgspec.Struct, frozen=True, tag=True):
    """So many offsets of a partition of a topic are done."""

    topic: str
    partition: int
    count: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """A partition is done: its tables and its part of the build are filled, and its offsets are committed."""

    partition: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The process ends; the message says why and what to do."""

    error: str


Message = Reached | Loaded | Failed

_share = msgspec.json.Decoder(Share)
_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Share | Message) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode_share(line: bytes) -> Share:
    """Raises msgspec.DecodeError."""
    return _share.decode(line)


def decode(line: bytes) -> Message:
    """Raises msgspec.DecodeError."""
    return _message.decode(line)
