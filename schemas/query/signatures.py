"""Signatures of cursors: a reader accepts only cursors that a reader issued, and unchanged.

A signed text is the text, a dot, and the first 16 bytes of its HMAC-SHA256 in base64url.
"""

import hmac
import re
from base64 import urlsafe_b64encode

KEY_BYTES = 32
_SIGNED = re.compile(r"([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]{21}[AQgw])").fullmatch


def sign(text: str, key: bytes) -> str:
    """The text, which must be base64url, with its signature."""
    return f"{text}.{_signature(text, key)}"


def is_signed(signed: str, key: bytes) -> bool:
    """Whether a text has the signature of `sign` with this key."""
    match = _SIGNED(signed)
    return match is not None and hmac.compare_digest(_signature(match[1], key), match[2])


def unsigned(signed: str) -> str:
    """The text without its signature, which is not verified; a text without one is returned as it is."""
    match = _SIGNED(signed)
    return signed if match is None else match[1]


def _signature(text: str, key: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")[:16]).rstrip(b"=").decode()
