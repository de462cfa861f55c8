"""Redis Cluster: every command goes to the master that has the slot of its key.

redis-py's own cluster client (8.1) would ask a master that does not answer for ever, since a call that its caller gives up
does not make it look who took over; on CLUSTERDOWN it ends the connections of all other calls, to every master; and it
follows ASK, where a script would find only some of its partition's keys and take them for all. Here each master has a
plain client, and what happens to one concerns no other.

Errors, as of one server; the next call looks where the slot is now::

    redis.ConnectionError     the master, or every server that was named, is away
    redis.ResponseError       a refusal; CLUSTERDOWN: the slot has no master; ASK: it is being moved to another
    NoCluster                 the server is a single one
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import shuffle
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from redis.asyncio import Redis
from redis.commands.core import (
    AsyncBasicKeyCommands,
    AsyncHashCommands,
    AsyncScriptCommands,
    AsyncSetCommands,
    AsyncSortedSetCommands,
)
from redis.crc import key_slot
from redis.event import EventDispatcher
from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Away

#: How often a command goes on to where a server says its slot is.
_MOVES = 5
#: How long one server may take to say who has which slot, seconds.
_LOOK_SECONDS = 2.0
_SCRIPTS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""Its words, and redis-py's options."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class NoCluster(RedisError):
    """The server knows of no cluster."""


class _Commands(AsyncBasicKeyCommands, AsyncHashCommands, AsyncScriptCommands, AsyncSetCommands, AsyncSortedSetCommands):
    """redis-py's commands of one key; those of none are asked of each of `Cluster.masters`."""

    _is_async_client: Literal[True] = True
    _event_dispatcher = EventDispatcher()


class Cluster(_Commands):
    """A client for all masters.

    Args:
        seeds: servers of the cluster, any of which tells of all.
        connect: a client for one server. It should give up a connection soon and hardly retry.
        patience: seconds after which a master that does not answer a question counts as away.
    """

    def __init__(self, seeds: Sequence[Address], connect: Callable[[Address], Redis], patience: float) -> None:
        self._patience = patience
        self._seeds = tuple(seeds)
        self._connect = connect
        self._clients: dict[Address, Redis] = {}
        self._slots: dict[int, Address] = {}
        self._doubted: set[Address] = set()
        """Masters that did not answer; who has their slots is looked up before they are asked again."""
        self._looking = asyncio.Lock()

    def pipeline(self, transaction: bool = True) -> "ClusterPipeline":
        """Commands sent at once; a transaction's keys must be in one slot."""
        return ClusterPipeline(self, transaction)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """What the master of the command's key answers."""
        (answer,) = await self.send([(args, options)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """As `send`, of commands that only read.

        Raises:
            TimeoutError: a master does not answer.
        """
        async with asyncio.timeout(self._patience):
            return await self.send([(tuple(words), {}) for words in commands])

    async def masters(self) -> list[Redis]:
        """A client for each master that has slots."""
        async with self._looking:
            await self._look()
        return [self._client(address) for address in sorted(set(self._slots.values()))]

    async def aclose(self) -> None:
        """Ends every connection."""
        clients, self._clients = list(self._clients.values()), {}
        self._slots = {}
        await asyncio.gather(*(client.aclose() for client in clients))

    async def send(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        """The answer to each command, errors among them; one round trip, all masters at the same time.

        Commands of one slot are run in their order, also where the slot has moved.

        Raises:
            redis.RedisError, OSError: a master is away; what the others were sent was run.
        """
        slots = [_slot(words) for words, _ in commands]
        answers: list[Any] = [None] * len(commands)
        waiting: Sequence[int] = range(len(commands))
        for _ in range(_MOVES):
            known = {slot: await self._place(slot) for slot in {slots[number] for number in waiting}}
            places: dict[Address, list[int]] = {}
            for number in waiting:
                places.setdefault(known[slots[number]], []).append(number)
            asked = [self._ask(where, [commands[n] for n in here], transaction) for where, here in places.items()]
            for (where, here), said in zip(places.items(), await _all(asked), strict=True):
                for number, answer in zip(here, said, strict=True):
                    answers[number] = answer
                    self._learn(where, answer)
            waiting = [number for number in waiting if isinstance(answers[number], MovedError)]
            if not waiting:
                break
        return answers

    async def _ask(self, where: Address, commands: Sequence[Command], transaction: bool) -> list[Any]:
        try:
            async with self._client(where).pipeline(transaction=transaction) as pipe:
                for words, options in commands:
                    pipe.execute_command(*words, **options)
                return await pipe.execute(raise_on_error=False)
        except ResponseError as refused:  # of a transaction as a whole
            return [refused] * len(commands)
        except BaseException:  # also given up by the caller: perhaps it will never answer
            self._doubted.add(where)
            raise

    def _learn(self, where: Address, answer: Any) -> None:
        if isinstance(answer, MovedError):
            self._slots[answer.slot_id] = Address(answer.host or where.host, answer.port)
        elif isinstance(answer, ClusterDownError):
            self._doubted.add(where)

    async def _place(self, slot: int) -> Address:
        if not self._is_known(slot):
            async with self._looking:
                if not self._is_known(slot):  # somebody else may have just looked
                    await self._look()
        if slot not in self._slots:
            raise ClusterDownError(f"slot {slot} has no master")
        return self._slots[slot]

    def _is_known(self, slot: int) -> bool:
        return slot in self._slots and self._slots[slot] not in self._doubted

    async def _look(self) -> None:
        """Learns who has which slot, from the first server that says so."""
        failed: Exception | None = None
        for address in self._known():
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    said = await self._client(address).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError, TimeoutError) as error:
                failed = _explained(address, error)
                continue
            await self._settle(dict(_places(address, said)))
            return
        raise failed or Away("no server of the cluster is known")

    def _known(self) -> list[Address]:
        """Every server heard of, those that answered last first."""
        known = list({*self._seeds, *self._slots.values()})
        shuffle(known)
        return sorted(known, key=lambda address: address in self._doubted)

    async def _settle(self, slots: dict[int, Address]) -> None:
        self._slots = slots
        self._doubted.clear()
        kept = {*slots.values(), *self._seeds}
        left = [self._clients.pop(address) for address in [*self._clients] if address not in kept]
        # one that is frozen does not say goodbye
        await asyncio.gather(*(client.aclose() for client in left), return_exceptions=True)

    def _client(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = self._connect(address)
        return self._clients[address]


class ClusterPipeline(_Commands):
    """Commands of a `Cluster` that are sent together."""

    def __init__(self, cluster: Cluster, transaction: bool) -> None:
        self._cluster = cluster
        self._transaction = transaction
        self._commands: list[Command] = []

    def __len__(self) -> int:
        return len(self._commands)

    def __bool__(self) -> bool:
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._commands = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Adds a command."""
        self._commands.append((args, options))
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The answer to each command, in their order.

        Raises:
            redis.RedisError: the first error among them, unless they are wanted as answers; or a master is away.
        """
        commands, self._commands = self._commands, []
        if self._transaction and len({_slot(words) for words, _ in commands}) > 1:
            raise ValueError("the keys of a transaction must be in one slot")
        answers = await self._cluster.send(commands, transaction=self._transaction)
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers


async def _all(asked: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[list[Any]]:
    """What each came to, once all have come to something; the first error of any."""
    if len(asked) == 1:
        return [await asked[0]]
    answers: list[list[Any]] = []
    for each in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
        answers.append(each)
    return answers


def _slot(words: Sequence[Any]) -> int:
    at = 3 if words[0] in _SCRIPTS else 1
    if len(words) <= at or " " in words[0] or words[0] == "KEYS":
        raise ValueError(f"{words[0]} has no key: ask each of the masters")
    key = words[at]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _places(asked: Address, said: Any) -> Iterable[tuple[int, Address]]:
    """Each slot with its master, from an answer to CLUSTER SLOTS; a server that has no name for itself is the one asked."""
    for first, last, (host, port, *_), *_ in said:
        address = Address((host or b"").decode() or asked.host, int(port))
        for slot in range(first, last + 1):
            yield slot, address


def _explained(address: Address, error: Exception) -> Exception:
    where = f"{address.host}:{address.port}"
    if isinstance(error, TimeoutError):
        return Away(f"{where} does not answer")
    if isinstance(error, ResponseError) and "cluster support disabled" in str(error):
        return NoCluster(f"{where} is a single server, no Redis Cluster")
    return error
