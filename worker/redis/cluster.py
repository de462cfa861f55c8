"""Redis Cluster: every command is sent to the master that owns the slot of its key.

Why not redis-py's cluster client (8.1):

- It keeps sending to a master that does not answer: a call that is cancelled does not refresh the slots.
- On CLUSTERDOWN it closes the connections of all other calls, to every master.
- It follows ASK. In a slot that is half moved, a script would find only some of its partition's keys and return wrong results.

Here each master has a client of its own, and a failure of one master does not affect calls to the others.

Errors are those of a single server; after one, the next call refreshes the slots if it has to::

    redis.ConnectionError     the master is unavailable; or all known servers are
    redis.ResponseError       the command failed; CLUSTERDOWN: the slot has no master; ASK: the slot is being moved
    NoCluster                 the server is not part of a cluster
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
from redis.exceptions import ConnectionError as RedisConnectionError

#: How often a command is sent before a MOVED reply is returned as its answer.
_MAX_REDIRECTS = 5
#: Timeout of CLUSTER SLOTS on one server.
_SLOTS_TIMEOUT_SECONDS = 2.0
_SCRIPTS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""Words and redis-py options of a command."""


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int


class NoCluster(RedisError):
    """The server is not part of a cluster."""


class _Commands(AsyncBasicKeyCommands, AsyncHashCommands, AsyncScriptCommands, AsyncSetCommands, AsyncSortedSetCommands):
    """redis-py's single-key commands. Send a command without a key to each of `Cluster.masters`."""

    _is_async_client: Literal[True] = True
    _event_dispatcher = EventDispatcher()


class Cluster(_Commands):
    """A client for all masters of a cluster.

    Args:
        seeds: servers of the cluster; each can return all slots.
        connect: returns a client for one server, with a short connection timeout and at most one retry.
        answer_timeout: seconds after which a master that does not answer `ask` is considered unavailable.
    """

    def __init__(self, seeds: Sequence[Address], connect: Callable[[Address], Redis], answer_timeout: float) -> None:
        self._answer_timeout = answer_timeout
        self._seeds = tuple(seeds)
        self._connect = connect
        self._clients: dict[Address, Redis] = {}
        self._slots: dict[int, Address] = {}
        self._unresponsive: set[Address] = set()
        """Masters that did not answer; their slots are refreshed before the next command."""
        self._refresh_lock = asyncio.Lock()

    def pipeline(self, transaction: bool = True) -> "ClusterPipeline":
        """Commands sent together. The keys of a transaction must be in one slot."""
        return ClusterPipeline(self, transaction)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The answer of the master that owns the slot of the command's key."""
        (answer,) = await self.send([(args, options)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Like `send`, for read-only commands.

        Raises:
            TimeoutError: a master does not answer.
        """
        async with asyncio.timeout(self._answer_timeout):
            return await self.send([(tuple(words), {}) for words in commands])

    async def masters(self) -> list[Redis]:
        """A client for each master that owns slots."""
        async with self._refresh_lock:
            await self._refresh_slots()
        return [self._client(address) for address in sorted(set(self._slots.values()))]

    async def aclose(self) -> None:
        """Closes every connection."""
        clients, self._clients = list(self._clients.values()), {}
        self._slots = {}
        await asyncio.gather(*(client.aclose() for client in clients))

    async def send(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        """The answers to the commands; errors are answers. One round trip, to all masters concurrently.

        Commands of one slot run in their order, even if the slot has moved.

        Raises:
            redis.RedisError, OSError: a master is unavailable; commands sent to the other masters were run.
        """
        slots = [_slot(words) for words, _ in commands]
        answers: list[Any] = [None] * len(commands)
        waiting: Sequence[int] = range(len(commands))
        for _ in range(_MAX_REDIRECTS):
            owners = {slot: await self._owner(slot) for slot in {slots[number] for number in waiting}}
            groups: dict[Address, list[int]] = {}
            for number in waiting:
                groups.setdefault(owners[slots[number]], []).append(number)
            calls = [self._ask(address, [commands[n] for n in numbers], transaction) for address, numbers in groups.items()]
            for (address, numbers), replies in zip(groups.items(), await _gather(calls), strict=True):
                for number, answer in zip(numbers, replies, strict=True):
                    answers[number] = answer
                    self._apply_redirect(address, answer)
            waiting = [number for number in waiting if isinstance(answers[number], MovedError)]
            if not waiting:
                break
        return answers

    async def _ask(self, address: Address, commands: Sequence[Command], transaction: bool) -> list[Any]:
        try:
            async with self._client(address).pipeline(transaction=transaction) as pipe:
                for words, options in commands:
                    pipe.execute_command(*words, **options)
                return await pipe.execute(raise_on_error=False)
        except ResponseError as error:  # the whole transaction failed
            return [error] * len(commands)
        except BaseException:  # including cancellation: the master may never answer
            self._unresponsive.add(address)
            raise

    def _apply_redirect(self, address: Address, answer: Any) -> None:
        if isinstance(answer, MovedError):
            self._slots[answer.slot_id] = Address(answer.host or address.host, answer.port)
        elif isinstance(answer, ClusterDownError):
            self._unresponsive.add(address)

    async def _owner(self, slot: int) -> Address:
        if not self._has_owner(slot):
            async with self._refresh_lock:
                if not self._has_owner(slot):  # another call may have refreshed the slots
                    await self._refresh_slots()
        if slot not in self._slots:
            raise ClusterDownError(f"slot {slot} has no master")
        return self._slots[slot]

    def _has_owner(self, slot: int) -> bool:
        return slot in self._slots and self._slots[slot] not in self._unresponsive

    async def _refresh_slots(self) -> None:
        """Reads the owners of the slots from the first server that answers."""
        last_error: Exception | None = None
        for address in self._servers():
            try:
                async with asyncio.timeout(_SLOTS_TIMEOUT_SECONDS):
                    reply = await self._client(address).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError, TimeoutError) as error:
                last_error = _as_cluster_error(address, error)
                continue
            await self._use_slots(dict(_slot_owners(address, reply)))
            return
        raise last_error or RedisConnectionError("no server of the cluster is known")

    def _servers(self) -> list[Address]:
        """Every known server; unresponsive ones last."""
        servers = list({*self._seeds, *self._slots.values()})
        shuffle(servers)
        return sorted(servers, key=lambda address: address in self._unresponsive)

    async def _use_slots(self, slots: dict[int, Address]) -> None:
        self._slots = slots
        self._unresponsive.clear()
        kept = {*slots.values(), *self._seeds}
        removed = [self._clients.pop(address) for address in [*self._clients] if address not in kept]
        # closing a connection to a frozen server can fail
        await asyncio.gather(*(client.aclose() for client in removed), return_exceptions=True)

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
        """The answers to the commands, in their order.

        Raises:
            redis.RedisError: the first error among the answers, if ``raise_on_error``; or a master is unavailable.
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


async def _gather(calls: Sequence[Coroutine[Any, Any, list[Any]]]) -> list[list[Any]]:
    """The results of all calls. Waits for every call, then raises the first error."""
    if len(calls) == 1:
        return [await calls[0]]
    results: list[list[Any]] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


def _slot(words: Sequence[Any]) -> int:
    at = 3 if words[0] in _SCRIPTS else words.index("STREAMS") + 1 if words[0] == "XREAD" else 1
    if len(words) <= at or " " in words[0] or words[0] == "KEYS":
        raise ValueError(f"{words[0]} has no key: send it to all masters")
    key = words[at]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _slot_owners(server: Address, reply: Any) -> Iterable[tuple[int, Address]]:
    """Each slot with its master, from a reply to CLUSTER SLOTS. An empty host means the server that replied."""
    for first, last, (host, port, *_), *_ in reply:
        address = Address((host or b"").decode() or server.host, int(port))
        for slot in range(first, last + 1):
            yield slot, address


def _as_cluster_error(address: Address, error: Exception) -> Exception:
    server = f"{address.host}:{address.port}"
    if isinstance(error, TimeoutError):
        return RedisConnectionError(f"{server} does not answer")
    if isinstance(error, ResponseError) and "cluster support disabled" in str(error):
        return NoCluster(f"{server} is a single server, not a Redis Cluster")
    return error
