"""Cursors come back from whoever they were given to, through any reader, and nobody else can make one."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from zlib import crc32

import pytest
from msgspec import msgpack
from redis.asyncio import Redis as Client

from schemas.events import Event
from schemas.query.request import Page, QueryError, parse_query
from schemas.query.signatures import is_signed, sign, unsigned
from tests.support.filled import Filled, on
from tests.support.services import Redis
from worker.read_model.keys import live_key
from worker.read_model.reader import AttendanceReader, NotServing
from worker.redis.client import create_redis
from worker.settings import load_settings

_NOW = 1_795_341_600_000_000
#: What a dashboard needs to read, and no more.
_READING = ("resetkeys", "%R~*", "-@all", "+@read", "+@connection", "+eval_ro", "+evalsha_ro", "+time")


async def _filled(filled: Filled) -> AttendanceReader:
    await filled.apply(
        Event("attendance.check_in", f"BK-{number}", "yoga", _NOW, "/k", "1", "", 1, "", _NOW) for number in range(9)
    )
    return filled.reader()


async def _page(reader: AttendanceReader, cursor: str | None) -> Page:
    return await reader.query(await reader.parse({"cursorPaging": {"limit": 4, "cursor": cursor}}))


def _shown(page: Page) -> list[str]:
    return [each["bookingId"] for each in page.attendances]


async def _refused(reader: AttendanceReader, cursor: str) -> None:
    with pytest.raises(QueryError) as error:
        await _page(reader, cursor)
    assert [(each.field, each.rule) for each in error.value.violations] == [("query.cursorPaging.cursor", "MALFORMED")]


def test_a_cursor_is_good_at_any_reader(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        first = await _page(await _filled(filled), None)
        second = await _page(filled.reader(), first.next)
        third = await _page(filled.reader(), second.next)
        assert sorted(_shown(first) + _shown(second) + _shown(third)) == [f"BK-{number}" for number in range(9)]
        assert _shown(await _page(filled.reader(), third.prev)) == _shown(second)
        await filled.rebuild(2)
        assert _shown(await _page(filled.reader(), first.next)) == _shown(second)

    on(redis_server, 3, scenario)


def test_a_cursor_that_no_reader_gave_out_is_refused(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        reader = await _filled(filled)
        good = (await _page(reader, None)).next
        assert good is not None
        text, _, signature = good.partition(".")
        packed = msgpack.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4))[4:])
        packed[4] = 1
        other = msgpack.encode(packed)
        forged = urlsafe_b64encode(crc32(other).to_bytes(4) + other).rstrip(b"=").decode()
        # without the key it is one
        assert len(parse_query({"cursorPaging": {"cursor": forged}}).filter.statuses) == 1
        for cursor in (
            text,
            forged,
            f"{forged}.{signature}",
            sign(forged, b"guessed"),
            sign(text, b""),
            good + "A",
            f"{text}.",
        ):
            await _refused(reader, cursor)
        assert _shown(await _page(reader, good))

    on(redis_server, 3, scenario)


def test_whoever_may_only_read_pages_too(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        cursor = (await _page(await _filled(filled), None)).next
        server, name = filled._client, f"dashboard-{filled.base}"
        assert isinstance(server, Client)
        await server.execute_command("ACL", "SETUSER", name, "on", ">secret", *_READING)  # type: ignore[no-untyped-call]
        reading = create_redis(load_settings(_env_file=None, redis=redis_server.url.replace("//", f"//{name}:secret@")))
        try:
            page = await _page(AttendanceReader(reading, filled.base), cursor)
            assert _shown(await _page(AttendanceReader(reading, filled.base), page.next))
            # where no worker of this version ever was, there is no key, and this one may not make it
            await server.hdel(live_key(filled.base), "cursorKey")
            assert await AttendanceReader(reading, filled.base).session("yoga") is not None
            with pytest.raises(NotServing, match="cursorKey"):
                await _page(AttendanceReader(reading, filled.base), None)
            # somebody else may
            assert (await _page(filled.reader(), None)).next is not None
            assert (await _page(AttendanceReader(reading, filled.base), None)).next is not None
        finally:
            await reading.aclose()
            await server.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]

    on(redis_server, 3, scenario)


def test_a_reader_learns_the_key_of_a_flushed_redis(redis_server: Redis) -> None:
    async def scenario(filled: Filled) -> None:
        old = await _filled(filled)
        before = (await _page(old, None)).next
        await filled._client.hset(live_key(filled.base), "cursorKey", b"another")
        after = (await _page(filled.reader(), None)).next
        assert after is not None
        assert before is not None
        assert _shown(await _page(old, after))
        await _refused(old, before)
        assert unsigned(before) == unsigned(after)
        assert is_signed(after, b"another")

    on(redis_server, 3, scenario)
