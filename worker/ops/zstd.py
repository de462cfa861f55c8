"""Compresses and decompresses frames of zstd with cramjam, imported at the first use: other commands do without it."""

from typing import Any

from worker.ops.archive_format import ArchiveError


class DamagedFrame(Exception):
    """A frame cannot be decompressed."""


def compress(content: bytes) -> bytes:
    """One frame. Raises ArchiveError if cramjam is missing."""
    return bytes(_zstd().compress(content))


def decompress(frame: bytes) -> bytes:
    """The content of one whole frame.

    Raises:
        DamagedFrame: it is damaged.
        ArchiveError: cramjam is missing.
    """
    zstd = _zstd()
    from cramjam import DecompressionError

    try:
        return bytes(zstd.decompress(frame))
    except DecompressionError as error:
        raise DamagedFrame(str(error)) from None


def _zstd() -> Any:
    try:
        from cramjam import zstd
    except ImportError:
        raise ArchiveError("zstd cannot be written or read here: install cramjam, or archive with --compress gzip") from None
    return zstd
