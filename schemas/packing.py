"""Texts in packed bytes: a length of two bytes, big endian, then UTF-8."""

from struct import Struct

LENGTH = Struct(">H")


def pack_text(text: str) -> bytes:
    """Packs a text of at most 65535 bytes in UTF-8."""
    encoded = text.encode()
    return LENGTH.pack(len(encoded)) + encoded


def unpack_text(packed: bytes, at: int) -> tuple[bytes, int]:
    """The UTF-8 of the text that begins at ``at``, and the index behind it."""
    start = at + LENGTH.size
    end = start + LENGTH.unpack_from(packed, at)[0]
    return packed[start:end], end


def text_of(packed: bytes) -> str:
    """The text that `pack_text` packed."""
    return packed[LENGTH.size :].decode()
