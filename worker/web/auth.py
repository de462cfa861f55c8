"""Bearer tokens: a file with the SHA-256 digest, the scopes and the name of each token.

The file is JSON: ``{"tokens": [{"name", "digest", "scopes", "createdAt", "expiresAt"?, "source"?}]}``, see `Token`. Other
fields of the file and of its entries are ignored, and kept when a command changes the file; but an entry with a field that
looks like a misspelled ``expiresAt`` or ``source`` is refused, since without these a token may do more than was meant.
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
from difflib import SequenceMatcher
from enum import StrEnum
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, ValidationError

from schemas.ids import MAX_NAME
from schemas.times import format_time, parse_time

log = structlog.get_logger(__name__)

PREFIX = "att_"
_MAX_BYTES = 512
_CHECK_SECONDS = 1.0
_SHOWN_ERRORS = 3
_SHOWN_FIELDS = ("name", "scopes", "createdAt", "expiresAt", "source")
#: Fields that restrict a token, and may be left out.
_RESTRICTING = ("expiresAt", "source")
_SIMILAR = 0.8
_letters = partial(re.compile(r"[\W_]+").sub, "")
_SOURCE = re.compile(rf"\A[^\x00-\x1f\x7f-\x9f]{{1,{MAX_NAME}}}\Z")
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


def _from_hex(value: object) -> object:
    return bytes.fromhex(value) if isinstance(value, str) else value


def _from_rfc3339(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("not an RFC 3339 date-time")
    return parse_time(value)


_Digest = Annotated[bytes, BeforeValidator(_from_hex), Field(min_length=32, max_length=32), PlainSerializer(bytes.hex)]
_Micros = Annotated[int, BeforeValidator(_from_rfc3339), PlainSerializer(format_time)]


class Token(BaseModel):
    """An entry of the token file; times are RFC 3339 there, and microseconds since the epoch here."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: Annotated[str, Field(coerce_numbers_to_str=True)]
    scopes: Annotated[frozenset[Scope], PlainSerializer(sorted)]
    created: _Micros = Field(alias="createdAt")
    expires: _Micros | None = Field(None, alias="expiresAt")
    source: Annotated[str, StringConstraints(pattern=_SOURCE)] | None = None
    """The prefix of the event sources that it may publish; None: any."""
    digest: _Digest
    """SHA-256 of the token, hexadecimal in the file."""


class TokenDocument(BaseModel):
    """The content of the token file."""

    model_config = ConfigDict(extra="allow")

    tokens: list[Token]


class TokenFile:
    """The token file, read again within a second of a change.

    Args:
        path: of the file; while it is missing or malformed, no token can be checked.
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
        self._error: TokensError | None = None
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

    def _check(self) -> TokensError | None:
        """Reads the file if it has changed; returns why that failed, after a log line."""
        try:
            self.load()
        except TokensError as error:
            log.error("tokens unreadable", error=str(error))
            return error
        return None

    def holder(self, presented: bytes) -> Token | None:
        """The entry of a presented token; None if the token is unknown or has expired.

        Every digest is compared, each in constant time, so that the duration reveals nothing.

        Raises:
            TokensError: the file can no longer be read.
        """
        now = self._now()
        if not 0 <= self._next_check - now <= _CHECK_SECONDS:
            # also where it fails: a stranger's requests must not have the file read each time
            self._next_check = now + _CHECK_SECONDS
            self._error = self._check()
        if self._error is not None:
            raise self._error
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
        if not _SOURCE.match(source) or source.casefold() == "/api" or source.casefold().startswith("/api/"):
            raise TokensError(
                f"--source: write a source as /gates/north, 1 to {MAX_NAME} characters; /api is reserved for the API"
            )
    secret = PREFIX + secrets.token_urlsafe(32)
    micros = int(now * 1_000_000)
    entry = {"name": name, "scopes": scopes, "createdAt": format_time(micros), "digest": sha256(secret.encode()).hexdigest()}
    if expires_in is not None:
        entry["expiresAt"] = format_time(micros + expires_in // timedelta(microseconds=1))
    if source is not None:
        entry["source"] = source
    with _changing(path) as tokens:
        if any(each.name == name for each in tokens):
            raise TokensError(f"a token named {name} exists already: use another name, or revoke it first")
        tokens.append(Token.model_validate(entry))
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
    return _read(path).tokens


def shown(token: Token) -> dict[str, Any]:
    """The document of a token without its digest."""
    entry = token.model_dump(by_alias=True, exclude_defaults=True)
    return {name: entry[name] for name in _SHOWN_FIELDS if name in entry}


def _read(path: Path) -> TokenDocument:
    try:
        # not model_validate_json: this reads UTF-16 and a byte order mark too, as editors write them
        document = TokenDocument.model_validate(json.loads(path.read_bytes()))
        reason = "; ".join(_misspelled(document)[:_SHOWN_ERRORS])
        if not reason:
            return document
    except ValidationError as error:
        # without the values: one may be a token in place of its digest
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        named = ((".".join(map(str, each["loc"])) or "the file", each["msg"]) for each in problems[:_SHOWN_ERRORS])
        reason = "; ".join(map(": ".join, named))
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    raise TokensError(f"{path}: is not a valid token file ({reason}): repair it, or create a new one")


def _misspelled(document: TokenDocument) -> list[str]:
    """A line for each field that looks like one that restricts a token, but is none."""
    return [
        f"tokens.{index}.{name!r}: write {known}, or give a field of your own another name"
        for index, token in enumerate(document.tokens)
        for name in token.model_extra or ()
        for known in _RESTRICTING
        if _looks_like(name, known)
    ]


def _looks_like(name: str, known: str) -> bool:
    one, other = _letters(name).casefold(), known.casefold()
    # expires, expiry, source_prefix; or letters that are swapped, left out or added
    return one.startswith(other[:5]) or (one[:1] == other[:1] and SequenceMatcher(None, one, other).ratio() >= _SIMILAR)


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
        document = _read(path) if path.exists() else TokenDocument(tokens=[])
        yield document.tokens
        _write(path, document)
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}: check its owner and the permissions of its folder") from None
    finally:
        os.close(folder)


def _write(path: Path, document: TokenDocument) -> None:
    # mkstemp creates it with mode 0600
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with suppress(FileNotFoundError):
            before = path.stat()
            os.fchmod(handle, before.st_mode & 0o777)
            with suppress(PermissionError):  # only root may give a file away
                os.fchown(handle, before.st_uid, before.st_gid)
        with os.fdopen(handle, "w") as file:
            json.dump(document.model_dump(by_alias=True, exclude_defaults=True), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
