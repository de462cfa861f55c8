"""One connection for all questions: each is answered for itself, whatever becomes of the others or the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import AuthenticationError, ExecAbortError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as Away

from tests.support.services import RedisServer
from worker.redis.client import Server, create_redis
from worker.redis.multiplexed import Connection, Multiplexed, pack
from worker.redis.scripts import Script, run, run_all
from worker.settings import Settings


def asking(url: str, scenario: Callable[[Server], Awaitable[None]]) -> None:
    async def running() -> None:
        client = create_redis(Settings(_env_file=None, redis=url))  # type: ignore[call-arg]
        assert isinstance(client, Server)
        try:
            await asyncio.wait_for(scenario(client), 30)
        finally:
            await client.aclose()

    asyncio.run(running())


def connections(server: RedisServer) -> int:
    (told,) = [line for line in server.ask("INFO", "clients").splitlines() if line.startswith("connected_clients:")]
    return int(told.partition(":")[2])


def test_each_question_gets_its_own_answers_in_order(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        async def echo(number: int) -> None:
            words = [f"{number}-{part}-{'x' * (number * 997 % 30_000)}" for part in range(number % 5)]
            assert await client.ask([("ECHO", word) for word in words]) == [word.encode() for word in words]

        before = connections(own_redis)
        await asyncio.gather(*map(echo, range(400)))  # some of them ask nothing
        assert connections(own_redis) == before + 1

    asking(own_redis.url, scenario)


def test_an_error_is_an_answer_among_the_others(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        first, unknown, refused, last = await client.ask([("PING",), ("EVALSHA_RO", "0" * 40, 0), ("NOTHING",), ("ECHO", 7)])
        assert (first, last) == (b"PONG", b"7")
        assert isinstance(unknown, NoScriptError)
        assert isinstance(refused, ResponseError)

    asking(own_redis.url, scenario)


@pytest.mark.parametrize("size", [1, 3, 7, 10, 29, 64, 1000])
def test_answers_of_transactions_however_they_arrive(own_redis: RedisServer, size: int) -> None:
    """In parts of any size, which may end anywhere; a value may look like an answer of another kind."""

    async def scenario(client: Server) -> None:
        connection = Connection(await client.connection_pool.get_connection())
        receive, arrived = connection.data_received, bytearray()

        def receive_parts(data: bytes) -> None:
            arrived.extend(data)
            while len(arrived) >= size:
                part = bytes(arrived[:size])
                del arrived[:size]
                receive(part)
            receive(bytes(arrived))
            arrived.clear()

        connection.data_received = receive_parts  # type: ignore[method-assign]
        value = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n"
        transaction = [("MULTI",), ("SET", "a", value), ("GET", "a"), ("INCR", "a"), ("EXEC",)]
        for commands in (transaction, [("MULTI",), ("EXEC",)], [("ECHO", value)], [("MULTI",), ("NOTHING",), ("EXEC",)]):
            packed = b"".join(map(pack, commands))
            some = [connection.ask(packed, len(commands)) for _ in range(3)]
            for answers in await asyncio.gather(*some):
                shown = [type(each) if isinstance(each, Exception) else each for each in answers]
                if commands is transaction:
                    assert shown[:4] == [b"OK", *[b"QUEUED"] * 3]
                    *done, refused = shown[4]
                    assert (done, type(refused)) == ([b"OK", value], ResponseError)
                elif len(commands) == 3:
                    assert shown == [b"OK", ResponseError, ExecAbortError]
                else:
                    assert shown == ([value] if len(commands) == 1 else [b"OK", []])
        connection.close()

    asking(own_redis.url, scenario)


def test_who_gives_up_leaves_the_others_their_answers(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        connection = await client.ask([("CLIENT", "ID")])
        asked = [asyncio.create_task(client.ask([("ECHO", number), ("ECHO", -number)])) for number in range(100)]
        await asyncio.sleep(0)  # all are sent
        for each in asked[::3]:
            each.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 3 == 0:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert answer == [b"%d" % number, b"%d" % -number]
        assert await client.ask([("CLIENT", "ID")]) == connection

    asking(own_redis.url, scenario)


def test_what_the_server_says_unasked_is_no_answer(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        await client.ask([("CLIENT", "TRACKING", "ON", "BCAST")])
        for number in range(20):
            # the server tells of the change on the connection of the questions, before or behind their answers
            _, (found,) = await asyncio.gather(client.set(f"told-{number}", number), client.ask([("ECHO", number)]))
            assert found == b"%d" % number
        assert await client.ask([("GET", "told-19")]) == [b"19"]

    asking(f"{own_redis.url}?protocol=3", scenario)


def reads(server: RedisServer) -> int:
    (told,) = [line for line in server.ask("INFO", "stats").splitlines() if line.startswith("total_reads_processed:")]
    return int(told.partition(":")[2])


def test_what_is_asked_in_one_turn_of_the_loop_leaves_together(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        await client.ask([("PING",)])
        before = reads(own_redis)
        assert await asyncio.gather(*(client.ask([("ECHO", number)]) for number in range(100))) == [
            [b"%d" % number] for number in range(100)
        ]
        assert reads(own_redis) - before < 10

    asking(own_redis.url, scenario)


def test_small_script_calls_share_the_connection(own_redis: RedisServer) -> None:
    script = Script.of("redis.call('SET', KEYS[1], #ARGV[1]) return ARGV[2]")

    async def scenario(client: Server) -> None:
        await client.ask([("PING",)])
        before = connections(own_redis)
        calls = [run(client, script, f"small-{number}", "x" * 100, number) for number in range(50)]
        assert await asyncio.gather(*calls) == [b"%d" % number for number in range(50)]
        assert connections(own_redis) == before
        # the others do not wait for a large one
        assert await run_all(client, script, "large", [("x" * 100_000, 1), ("x" * 100_000, 2)]) == [b"1", b"2"]
        assert connections(own_redis) == before + 1
        assert await client.ask([("GET", "small-49"), ("GET", "large")]) == [b"100", b"100000"]

    asking(own_redis.url, scenario)


def test_an_error_of_a_script_call_is_that_of_its_caller_alone(own_redis: RedisServer) -> None:
    script = Script.of("if ARGV[1] == '7' then return redis.error_reply('seven') end return ARGV[1]")

    async def scenario(client: Server) -> None:
        calls = [run(client, script, f"key-{number}", number) for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers.pop(7), ResponseError)
        assert answers == [b"%d" % number for number in range(20) if number != 7]

    asking(own_redis.url, scenario)


def test_a_connection_that_ended_is_opened_anew(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        await client.ask([("PING",)])
        before = connections(own_redis)
        for number in range(5):
            assert own_redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(":")
            assert await asyncio.gather(*(client.ask([("ECHO", number)]) for _ in range(20))) == [[b"%d" % number]] * 20
        assert connections(own_redis) == before

    asking(own_redis.url, scenario)


def test_a_server_that_is_away_is_said_to_be_and_found_again() -> None:
    with RedisServer() as server:

        async def scenario(client: Server) -> None:
            await client.ask([("PING",)])
            server.kill()
            with pytest.raises(Away):
                await client.ask([("PING",)])
            server.start()
            assert await client.ask([("PING",)]) == [b"PONG"]

        asking(server.url, scenario)


def test_a_server_that_is_frozen_is_given_up_and_found_again(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        multiplexed = Multiplexed(client.connection_pool, 0.5)
        await multiplexed.ask([("PING",)])
        own_redis.pause()
        begun = time.monotonic()
        asked = [asyncio.create_task(multiplexed.ask([("PING",)])) for _ in range(3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        own_redis.resume()
        assert all(isinstance(answer, TimeoutError | Away) for answer in answers), answers
        assert time.monotonic() - begun < 10
        assert await multiplexed.ask([("ECHO", 1)]) == [b"1"]

    try:
        asking(own_redis.url, scenario)
    finally:
        own_redis.resume()


def test_a_password_is_sent_to_redis(own_redis: RedisServer) -> None:
    async def scenario(client: Server) -> None:
        assert await client.ask([("PING",)]) == [b"PONG"]

    assert own_redis.ask("CONFIG", "SET", "requirepass", "open sesame") == "+OK"
    try:
        asking(own_redis.url.replace("//", "//:open%20sesame@"), scenario)
        with pytest.raises(AuthenticationError):
            asking(own_redis.url, scenario)
    finally:
        asking(own_redis.url.replace("//", "//:open%20sesame@"), lambda client: client.config_set("requirepass", ""))
