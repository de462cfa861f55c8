"""Long operations of an operator (replay, archive, ...): who runs them, how far they are, and what became of them.

They are kept in one hash, outside the namespaces, so that a rebuild does not lose them. An operation that was killed is
resumed from its last position; its earlier process, should it still live, is refused from then on.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from secrets import token_hex
from time import gmtime, monotonic, strftime, time_ns
from types import MappingProxyType
from typing import Any, TypeVar

import orjson
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from schemas.times import format_exact_time, format_time, parse_time
from worker.read_model.keys import operations_key
from worker.read_model.lua_scripts import OPERATION
from worker.read_model.watermark import parse_hash
from worker.redis.client import Client, answer_timeout
from worker.redis.scripts import raise_first_error, run
from worker.tasks import cancel_all, run_until

T = TypeVar("T")

#: Returns the answer to a read-only command on a key, and the time of its server.
_WITH_TIME = "return { redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2)), redis.call('TIME') }"

#: A process that saved nothing for so long is gone, and its operation may be resumed, seconds.
STALE_SECONDS = 15.0
#: How often a process saves an operation at least, seconds.
SAVE_SECONDS = 1.0
#: How long work that is stopped may take to end what it has begun, seconds.
STOP_SECONDS = 5.0
#: Operations that do not run and are kept; the oldest leave first.
MOST_KEPT = 500
_RETRY_SECONDS = 0.5
_OPERATION, _SAVED, _OWNER = "operation:", "saved:", "owner:"


class State(StrEnum):
    """Of an operation."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    """Interrupted, or its process is gone: it can be resumed or aborted."""
    READY = "READY"
    SWITCHED = "SWITCHED"
    DONE = "DONE"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


ENDED = frozenset({State.SWITCHED, State.DONE, State.FAILED, State.ABORTED})


class OperationError(Exception):
    """An operation cannot begin, or be resumed or aborted; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation."""

    id: str
    command: str
    target: str
    """What it works on; at most one operation of a target runs at a time."""
    state: State
    request: Mapping[str, Any]
    """What was asked for."""
    position: Mapping[str, Any] = field(default_factory=dict)
    """Where it is, for `resume`; the command's own."""
    end: Mapping[str, Any] = field(default_factory=dict)
    """Where it will end, in the terms of ``position``."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What it has done so far."""
    error: str = ""
    started: str = ""
    """RFC 3339."""
    saved_ms: int = 0
    """When it was saved last, by the clock of Redis."""

    @property
    def place(self) -> tuple[int, str]:
        """Its place in lists: when it began, microseconds since the epoch, then its id."""
        return parse_time(self.started), self.id

    def document(self) -> dict[str, Any]:
        """As `attendance operations` and the API show it."""
        shown = {
            "id": self.id,
            "command": self.command,
            "target": self.target,
            "state": self.state.value,
            "request": dict(self.request),
            "position": dict(self.position),
            "end": dict(self.end),
            "counts": dict(self.counts),
            "startedAt": self.started,
            "savedAt": format_time(self.saved_ms * 1000),
        }
        return shown | ({"error": self.error} if self.error else {})


class Operations:
    """The operations under one ``ATTENDANCE_NAMESPACE``."""

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._key = operations_key(base)

    async def all(self) -> list[Operation]:
        """Every operation, the newest first. One whose process is gone is PAUSED."""
        answer, now = await self._ask("HGETALL")
        fields = parse_hash(answer)
        prefix = _OPERATION.encode()
        found = [
            _parse(document, fields.get(_SAVED.encode() + name.removeprefix(prefix)), now)
            for name, document in fields.items()
            if name.startswith(prefix)
        ]
        return sorted(found, key=lambda each: each.place, reverse=True)

    async def get(self, operation_id: str) -> Operation:
        """Raises OperationError if there is none of this id."""
        (document, saved), now = await self._ask("HMGET", _OPERATION + operation_id, _SAVED + operation_id)
        if document is None:
            raise OperationError(f"no operation has the id {operation_id}: `attendance operations` lists them")
        return _parse(document, saved, now)

    async def begin(
        self,
        command: str,
        target: str,
        request: Mapping[str, Any],
        end: Mapping[str, Any],
        position: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Running":
        """Begins an operation.

        Args:
            command: of `attendance`.
            target: see `Operation`.
            request: see `Operation`.
            end: see `Operation`.
            position: where it begins, for a command that cannot be resumed without it.

        Raises:
            OperationError: another one of the target runs.
        """
        operation = Operation(
            _new_id(command), command, target, State.RUNNING, request, position, end, started=format_exact_time(_now())
        )
        running = Running(self._client, self._key, operation)
        await running.take()
        await self._forget_old()
        return running

    async def resume(self, operation_id: str, command: str) -> "Running":
        """Resumes an operation that was interrupted, or whose process is gone.

        Raises:
            OperationError: there is none, it is of another command, has ended, or still runs.
        """
        operation = await self._get(operation_id, command)
        if operation.state in ENDED:
            raise OperationError(f"{operation_id} is {operation.state}: there is nothing to resume")
        running = Running(self._client, self._key, replace(operation, state=State.RUNNING, error=""))
        await running.take()
        return running

    async def abort(self, operation_id: str, command: str) -> Operation:
        """Ends an operation that was interrupted: it cannot be resumed then. What it did stays done.

        Raises:
            OperationError: there is none, it is of another command, has ended, or still runs.
        """
        operation = await self._get(operation_id, command)
        if operation.state in ENDED:
            raise OperationError(f"{operation_id} is {operation.state}: there is nothing to abort")
        running = Running(self._client, self._key, operation)
        await running.take()
        await running.finish(State.ABORTED)
        return running.operation

    async def _ask(self, name: str, *fields: str) -> tuple[Any, int]:
        """The answer to a command on the hash, and the time of its server in ms."""
        # one script: a cluster has several servers, and their clocks differ
        command = ("EVAL_RO", _WITH_TIME, 1, self._key, name, *fields)
        ((answer, (seconds, micros)),) = raise_first_error(await self._client.ask([command]))
        return answer, int(seconds) * 1000 + int(micros) // 1000

    async def _get(self, operation_id: str, command: str) -> Operation:
        operation = await self.get(operation_id)
        if operation.command != command:
            raise OperationError(f"{operation_id} is of `attendance {operation.command}`: resume or abort it there")
        return operation

    async def _forget_old(self) -> None:
        at_rest = [each for each in await self.all() if each.state is not State.RUNNING]
        if old := at_rest[MOST_KEPT:]:
            fields = [prefix + each.id for each in old for prefix in (_OPERATION, _SAVED, _OWNER)]
            async with answer_timeout():
                await self._client.execute_command("HDEL", self._key, *fields)  # type: ignore[no-untyped-call]


class Running:
    """An operation that this process runs."""

    def __init__(self, client: Client, key: str, operation: Operation) -> None:
        self.operation = operation
        self._client = client
        self._key = key
        self._owner = token_hex(8)
        self._writing = asyncio.Lock()

    async def take(self) -> None:
        """Becomes the process that works on it; an earlier one is refused from now on.

        Raises:
            OperationError: another process works on it or has taken it meanwhile, or another operation holds the target.
        """
        await self._write({}, "take")

    async def save(self, position: Mapping[str, Any] | None = None, counts: Mapping[str, int] | None = None) -> None:
        """Saves how far it is: all that lies before ``position`` is done. At least every `STALE_SECONDS`.

        Raises:
            OperationError: another process has resumed it, or another operation holds the target.
        """
        changes = {"position": position, "counts": counts}
        await self._write({name: value for name, value in changes.items() if value is not None}, "save")

    async def mark(self, state: State) -> None:
        """Shows another state while it runs."""
        await self._write({"state": state}, "save")

    async def pause(self, error: str = "") -> None:
        """Ends this process' part: the operation can be resumed at once."""
        await self._write({"state": State.PAUSED, "error": error}, "release")

    async def finish(self, state: State = State.DONE, error: str = "") -> None:
        """Ends the operation."""
        await self._write({"state": state, "error": error}, "release")

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, while which the operation is saved each second, so that no other process takes it over.

        Raises:
            OperationError: another process has taken it; the work is cancelled.
        """
        saving, working = asyncio.create_task(self._keep_saving()), asyncio.create_task(work)
        try:
            await asyncio.wait((saving, working), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await saving  # raises
            return await working
        finally:
            await cancel_all((saving, working))

    async def run_until(self, stop: asyncio.Event, work: Coroutine[Any, Any, bool | State]) -> bool:
        """Runs the work as `run` does, and ends this process' part; returns whether the work is done.

        Work that returns a state leaves the operation in that state, True stands for DONE. Work that returns False, fails, or
        is cancelled `STOP_SECONDS` after ``stop`` was set, can be resumed.

        Raises:
            OperationError: another process has taken the operation.
        """
        try:
            done = await run_until(stop, self.run(work), STOP_SECONDS)
        except OperationError:
            raise
        except Exception as error:
            with suppress(OperationError):
                await self._release(str(error) or repr(error))
            raise
        if not done:
            await self._release("")
            return False
        await self.finish(done if isinstance(done, State) else State.DONE)
        return True

    async def _release(self, error: str) -> None:
        # without Redis it counts as interrupted once it is stale
        with suppress(RedisError, OSError, TimeoutError):
            await self.pause(error)

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            # Redis may be away for a moment; who takes the operation over meanwhile is found by the next save
            with suppress(RedisError, OSError, TimeoutError):
                await self.save()

    async def _write(self, changes: Mapping[str, Any], mode: str) -> None:
        # one after the other: each writes the whole document
        async with self._writing:
            changed = replace(self.operation, **changes)
            read_at = str(changed.saved_ms) if changed.saved_ms else ""
            arguments = (changed.id, changed.target, self._owner, _pack(changed), int(STALE_SECONDS * 1000), mode, read_at)
            holder = (await self._call_script(arguments, mode)).decode()
            if holder == "owner":
                raise OperationError(
                    f"{changed.id} is run by another process, or by one that ended less than {STALE_SECONDS:.0f} s ago: "
                    "wait until it has ended, then repeat this"
                )
            if holder:
                raise OperationError(f"{holder} works on {changed.target}: wait until it has ended, or --abort it")
            self.operation = changed

    async def _call_script(self, arguments: tuple[Any, ...], mode: str) -> bytes:
        """What the script answers. A save is repeated while Redis does not: a pause of Redis does not end hours of work."""
        deadline = monotonic() + STALE_SECONDS
        while True:
            try:
                answer: bytes = await run(self._client, OPERATION, self._key, *arguments)
            except (ConnectionError, TimeoutError, RedisConnectionError, RedisTimeoutError):
                if mode != "save" or monotonic() > deadline:
                    raise
            else:
                return answer
            await asyncio.sleep(_RETRY_SECONDS)


def _pack(operation: Operation) -> bytes:
    document = operation.document()
    return orjson.dumps({name: value for name, value in document.items() if name != "savedAt"})


def _parse(packed: bytes, saved_at: bytes | None, now_ms: int) -> Operation:
    document, saved = orjson.loads(packed), int(saved_at or 0)
    state = State(document["state"])
    if state is State.RUNNING and now_ms - saved > STALE_SECONDS * 1000:
        state = State.PAUSED
    return Operation(
        document["id"],
        document["command"],
        document["target"],
        state,
        document["request"],
        document["position"],
        document["end"],
        document["counts"],
        document.get("error", ""),
        document["startedAt"],
        saved,
    )


def _new_id(command: str) -> str:
    return f"{command.replace(' ', '-')}-{strftime('%Y%m%d-%H%M%S', gmtime())}-{token_hex(2)}"


def _now() -> int:
    return time_ns() // 1000
