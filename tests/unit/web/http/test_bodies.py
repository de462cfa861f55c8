"""Bodies within their bounds: of parts, of bytes decoded, of bytes that all requests of a token hold."""

import asyncio
import gzip
import zlib
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from worker.settings import load_settings
from worker.web.errors import ApiError
from worker.web.http.bodies import BODY_BYTES, HOLDER, Bodies, parse_json
from worker.web.shares import Shares

MOST = 65_536


class Coming:
    """Parts of a body as they come, endless where no more are given, and how many were taken."""

    def __init__(self, *parts: bytes, endless: bytes = b"") -> None:
        self.parts = list(parts)
        self.endless = endless
        self.taken = count()

    async def receive(self) -> Message:
        next(self.taken)
        if self.parts:
            part = self.parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts or self.endless)}
        return {"type": "http.request", "body": self.endless, "more_body": bool(self.endless)}


def read(coming: Coming, *headers: tuple[bytes, bytes], shared: Shares | None = None, holder: str = "a") -> bytes:
    bodies = Bodies(load_settings(_env_file=None, api_max_body=MOST), shared or Shares(4 * MOST))
    scope = {"type": "http", "headers": list(headers), HOLDER: holder}
    body = asyncio.run(bodies.read(Request(scope, coming.receive)))
    assert scope[BODY_BYTES] == len(body), "what is held is known, so that it is given back"
    return bytes(body)


def refusal(coming: Coming, *headers: tuple[bytes, bytes], shared: Shares | None = None) -> str:
    with pytest.raises(ApiError) as caught:
        read(coming, *headers, shared=shared)
    return str(caught.value.application_error["code"])


GZIP = (b"content-encoding", b"gzip")


@pytest.mark.parametrize(("part", "parts"), [(b"a", 1026), (b"a" * 40, 1066)])
def test_small_parts_are_taken_up_to_a_number(part: bytes, parts: int) -> None:
    coming = Coming(endless=part)
    assert refusal(coming) == "BODY_FRAGMENTED"
    assert next(coming.taken) == parts


def test_an_endless_body_is_taken_up_to_the_limit() -> None:
    coming = Coming(endless=b"a" * 4096)
    assert refusal(coming) == "BODY_TOO_LARGE"
    assert next(coming.taken) == MOST // 4096 + 1


@pytest.mark.parametrize("size", [MOST + 1, 100 * 1024 * 1024])
def test_a_bomb_is_decoded_up_to_the_limit(size: int) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * min(1 << 20, size - at)) for at in range(0, size, 1 << 20)) + packer.flush()
    shared = Shares(4 * MOST)
    coming = Coming(bomb)
    assert refusal(coming, GZIP, shared=shared) == "BODY_TOO_LARGE"
    assert shared.take("a", MOST), "nothing was kept of it"


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(1, 999))
def test_gzip_decodes_to_what_was_sent(members: list[bytes], cut: int) -> None:
    packed = b"".join(map(gzip.compress, members))
    assert read(Coming(*(packed[at : at + cut] for at in range(0, len(packed), cut))), GZIP) == b"".join(members)


@given(st.binary(max_size=200))
def test_whatever_comes_as_gzip_is_answered(sent: bytes) -> None:
    assert refusal(Coming(sent), GZIP) == "MALFORMED_BODY"


def test_bodies_of_one_token_hold_their_share_of_memory() -> None:
    shared = Shares(3 * MOST - 1)
    shared.take("a", MOST)
    assert refusal(Coming(b"a" * MOST), shared=shared) == "TOO_MANY_REQUESTS"
    assert len(read(Coming(b"a" * MOST), shared=shared, holder="b")) == MOST


def test_names_are_looked_up_once_each() -> None:
    names = ",".join(f'"{n}":1' for n in range(90_000))
    assert len(parse_json(f"{{{names}}}".encode())) == 90_000
    # a search through all names for each would take hours
    with pytest.raises(ApiError, match="'89999' occurs twice"):
        parse_json(f'{{{names},"89999":1}}'.encode())
