"""How texts rest in packed bytes: after their length of two bytes, big endian, in UTF-8."""

from functools import lru_cache
from struct import Struct

LENGTH = Struct(">H")


def pack_text(text: str) -> bytes:
    """The bytes of a text of at most 65535 bytes."""
    encoded = text.encode()
    return LENGTH.pack(len(encoded)) + encoded


#: The same for texts that come again and again: sessions, devices.
pack_known_text = lru_cache(maxsize=20_000)(pack_text)


def unpack_text(packed: bytes, at: int) -> tuple[bytes, int]:
    """The UTF-8 of a text that begins there, and where what follows it begins."""
    start = at + LENGTH.size
    end = start + LENGTH.unpack_from(packed, at)[0]
    return packed[start:end], end


def text_of(packed: bytes) -> str:
    """The text of `pack_text`."""
    return packed[LENGTH.size :].decode()
