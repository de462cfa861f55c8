"""Bearer tokens: a file with the SHA-256 digest, the scopes and the name of each token.

The file is JSON: ``{"tokens": [{"name", "digest", "scopes", "createdAt", "expiresAt"?, "source"?}]}``. The digest is
hexadecimal; ``source`` is the prefix of sources that the token is bound to.
A token holds 32 random bytes, so an unsalted digest does not reveal it.
"""

import fcntl
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, NamedTuple

from schemas.ids import MAX_NAME
from schemas.times import format_time, parse_time

PREFIX = "att_"
_MAX_BYTES = 512
_CHECK_SECONDS = 1.0
_SOURCE = re.compile(rf"[^\x00-\x1f\x7f-\x9f]{{1,{MAX_NAME}}}").fullmatch
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}").fullmatch


class Scope(StrEnum):
    """A permission of a token."""

    READ = "read"
    MANAGE = "manage"
    PUBLISH = "publish"
    INGEST = "ingest"


class TokensError(Exception):
    """The token file cannot be used; the message says why and what to do."""


class NoTokensYet(TokensError):
    """The token file is missing, or cannot be opened."""


class Token(NamedTuple):
    """An entry of the token file; times are microseconds since the epoch."""

    name: str
    digest: bytes
    scopes: frozenset[str]
    created: int
    expires: int | None
    source: str | None = None
    """The prefix of the event sources that it may publish; None: any."""


class TokenFile:
    """The token file, read again within a second of a change.

    Args:
        path: of the file; while it is missing, every token is rejected.
        now: returns seconds since the epoch.

    Raises:
        TokensError: the file is malformed.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._tokens: tuple[Token, ...] = ()
        self._version: tuple[int, ...] | None = None
        self._next_check = 0.0
        with suppress(NoTokensYet):
            self.load()

    def load(self) -> None:
        """Reads the file if it has changed.

        Raises:
            TokensError: it is missing or malformed; then every token is rejected.
        """
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version != self._version:
                self._version, self._tokens = None, ()
                self._tokens, self._version = tuple(read_tokens(self._path)), version
        except OSError as error:
            self._version, self._tokens = None, ()
            raise NoTokensYet(f"{self._path}: {error.strerror}: `attendance tokens create` creates it") from None

    def holder(self, presented: bytes) -> Token | None:
        """The entry of a presented token; None if the token is unknown or has expired.

        Every digest is compared, each in constant time, so that the duration reveals nothing.

        Raises:
            TokensError: the file can no longer be read.
        """
        now = self._now()
        if not 0 <= self._next_check - now <= _CHECK_SECONDS:
            self.load()
            self._next_check = now + _CHECK_SECONDS
        digest = sha256(presented[: _MAX_BYTES + 1]).digest()
        match: Token | None = None
        for token in self._tokens:
            if compare_digest(token.digest, digest):
                match = token
        if match is None or len(presented) > _MAX_BYTES:
            return None
        return None if match.expires is not None and match.expires <= now * 1_000_000 else match


def presented_token(values: Sequence[bytes]) -> bytes | None:
    """The token of the ``Authorization`` header, ``Bearer TOKEN`` or bare; None without a token, or with several headers."""
    if len(values) != 1:
        return None
    words = values[0].split()
    if len(words) == 2 and words[0].lower() == b"bearer":
        return words[1]
    return words[0] if len(words) == 1 else None


def create_token(
    path: Path, scopes: Sequence[Scope], name: str, expires_in: timedelta | None, now: float, source: str | None = None
) -> str:
    """Creates a token, stores its digest and returns the token, which is stored nowhere.

    Raises:
        TokensError: the file is malformed or cannot be written, or the name is taken.
    """
    if not _NAME(name):
        raise TokensError("--name: write 1 to 100 characters, none of them a control character")
    if source is not None:
        # a source prefix covers what follows it after a slash
        source = source.rstrip("/")
        if not _SOURCE(source) or source.casefold() == "/api" or source.casefold().startswith("/api/"):
            raise TokensError(
                f"--source: write a source as /gates/north, 1 to {MAX_NAME} characters; /api is reserved for the API"
            )
    secret = PREFIX + secrets.token_urlsafe(32)
    micros = int(now * 1_000_000)
    expires = None if expires_in is None else micros + expires_in // timedelta(microseconds=1)
    token = Token(name, sha256(secret.encode()).digest(), frozenset(scopes), micros, expires, source)
    with _changing(path) as tokens:
        if any(each.name == name for each in tokens):
            raise TokensError(f"a token named {name} exists already: use another name, or revoke it first")
        tokens.append(token)
    return secret


def revoke_token(path: Path, name: str) -> None:
    """Removes a token from the file.

    Raises:
        TokensError: no token has this name, or the file cannot be used.
    """
    with _changing(path) as tokens:
        remaining = [token for token in tokens if token.name != name]
        if len(remaining) == len(tokens):
            raise TokensError(f"no token is named {name}: `attendance tokens list` shows them")
        tokens[:] = remaining


def read_tokens(path: Path) -> list[Token]:
    """All tokens in the file.

    Raises:
        TokensError: the file is malformed.
        OSError: the file cannot be read.
    """
    try:
        tokens = [_read(entry) for entry in json.loads(path.read_bytes())["tokens"]]
    except OSError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokensError(f"{path}: is not a valid token file ({error!r}): repair it, or create a new one") from None
    return tokens


def shown(token: Token) -> dict[str, Any]:
    """The document of a token without its digest."""
    return {
        "name": token.name,
        "scopes": sorted(token.scopes),
        "createdAt": format_time(token.created),
        **({} if token.expires is None else {"expiresAt": format_time(token.expires)}),
        **({} if token.source is None else {"source": token.source}),
    }


def _read(entry: dict[str, Any]) -> Token:
    digest, scopes, expires = bytes.fromhex(entry["digest"]), frozenset(map(Scope, entry["scopes"])), entry.get("expiresAt")
    if len(digest) != sha256().digest_size:
        raise ValueError("a digest is not a SHA-256")
    source = entry.get("source")
    if source is not None and not (isinstance(source, str) and _SOURCE(source)):
        raise ValueError(f"a source is not a text of 1 to {MAX_NAME} characters")
    created = parse_time(entry["createdAt"])
    return Token(str(entry["name"]), digest, scopes, created, None if expires is None else parse_time(expires), source)


@contextmanager
def _changing(path: Path) -> Iterator[list[Token]]:
    """Yields the tokens to change, then replaces the file atomically. A lock on the folder serialises concurrent changes.

    A new file is readable by its owner only. A symbolic link is followed, and stays.
    """
    path = Path(os.path.realpath(path))
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise TokensError(f"{path.parent}: {error.strerror}: create the folder first") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        tokens = read_tokens(path) if path.exists() else []
        yield tokens
        _write(path, tokens)
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}: check its owner and the permissions of its folder") from None
    finally:
        os.close(folder)


def _write(path: Path, tokens: Sequence[Token]) -> None:
    document = {"tokens": [{**shown(token), "digest": token.digest.hex()} for token in tokens]}
    # mkstemp creates it with mode 0600
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with suppress(FileNotFoundError):
            before = path.stat()
            os.fchmod(handle, before.st_mode & 0o777)
            with suppress(PermissionError):  # only root may give a file away
                os.fchown(handle, before.st_uid, before.st_gid)
        with os.fdopen(handle, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
