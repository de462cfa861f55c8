"""Signatures of cursors: what a reader gave out comes back as it was, and nobody else can make one.

A signed text is the text, a dot and 16 bytes of its HMAC-SHA256 in base64url.
"""

import hmac
import re
from base64 import urlsafe_b64encode

KEY_BYTES = 32
_SIGNED = re.compile(r"([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]{21}[AQgw])").fullmatch


def sign(text: str, key: bytes) -> str:
    """The text, which is base64url, with its signature."""
    return f"{text}.{_signature(text, key)}"


def is_signed(signed: str, key: bytes) -> bool:
    """Whether a text carries the signature that `sign` gives it."""
    found = _SIGNED(signed)
    return found is not None and hmac.compare_digest(_signature(found[1], key), found[2])


def unsigned(signed: str) -> str:
    """The text without its signature, which is not looked at; a text without one as it is."""
    found = _SIGNED(signed)
    return signed if found is None else found[1]


def _signature(text: str, key: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")[:16]).rstrip(b"=").decode()
