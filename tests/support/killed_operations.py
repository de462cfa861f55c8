"""Operations of commands that are killed at seeded moments, and resumed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from tests.support.commands import Command, Commands
from tests.support.killing import Moment, kill_at
from tests.support.services.processes import wait_until
from tests.support.system import System
from worker.read_model.keys import operations_key
from worker.read_model.operations import ENDED, STALE_SECONDS, Operation, Operations, State
from worker.redis.client import create_redis
from worker.settings import Settings

T = TypeVar("T")


def reaches(after: Any, before: Any) -> bool:
    """Whether a position is not behind an earlier one."""
    if isinstance(before, Mapping):
        return all(name in after and reaches(after[name], each) for name, each in before.items())
    return set(after) >= set(before) if isinstance(before, list) else bool(after >= before)


class Case(NamedTuple):
    """A command, and the moments at which it is killed."""

    name: str
    command: str
    system: System
    arguments: Callable[[int], list[str]]
    """What follows the command, by the number of the operation."""
    requests: int
    """It is killed at one of so many requests to Redis; it sends more while it has its operation."""
    pause: float = 0.0
    """And up to so much later, seconds."""
    namespace: str = ""
    """``ATTENDANCE_NAMESPACE`` of all its operations; without it each has one of its own, so that all can run at once."""
    code: int = 0
    """Exit code of the one that ends it."""
    moments: tuple[Moment, ...] = ()
    """Where it is to be killed instead: the request and the pause are the largest."""
    reaches: Callable[[Any, Any], bool] = reaches
    """Whether a position of it is not behind an earlier one."""

    def moment(self, chance: random.Random) -> Moment:
        """A moment at which it has an operation."""
        most = chance.choice(self.moments or (Moment(self.requests, pause=self.pause),))
        request = chance.randint(1, most.request)
        arrives = request == 1 or chance.random() < 0.5
        return Moment(request, arrives, chance.uniform(0, most.pause), most.after)


class KilledOperation:
    """An operation of a command, under its namespace the newest one."""

    def __init__(self, commands: Commands, case: Case, number: int, seed: int) -> None:
        self.case = case
        self.number = number
        self.kills = 0
        """How often it was killed."""
        self.settings: Settings = case.system.settings.model_copy(
            update={"namespace": case.namespace or f"{case.system.settings.topic_prefix}-{case.name}-{number}-{seed}"}
        )
        self._commands = commands
        self._seed = seed
        self._chance = random.Random(f"{case.name} {number} {seed}")
        self._moments: list[Moment] = []

    def __repr__(self) -> str:
        return f"{self.case.name} {self.number} of seed {self._seed}, killed at {self._moments}"

    def kill(self, moment: Moment | None = None) -> None:
        """Begins or resumes it, and kills it at a moment, unless it ends before."""
        moment = moment or self.case.moment(self._chance)
        self._moments.append(moment)
        arguments = self._arguments()

        def start(redis: str) -> Command:
            return self._start(*arguments, ATTENDANCE_REDIS=redis)

        ended = kill_at(moment, start, self.case.system.environment["ATTENDANCE_REDIS"])
        assert ended.wait() in (self.case.code, -9), f"{self}: {ended.err}"
        self.kills += ended.wait() == -9

    def kill_again(self) -> None:
        """Kills it while it is resumed. Its position does not go back."""
        before = self.operation
        if before is None or before.state in ENDED:
            return
        self.kill()
        after = self.operation
        assert after is not None, self
        assert self.case.reaches(after.position, before.position), f"{self}: {before.position} became {after.position}"
        self.set_back()

    def finish(self) -> None:
        """Resumes it, or begins it if no operation was begun; it ends. Then it cannot be resumed any more."""
        if not self.is_ended:
            code, _, err = self.run(*self._arguments())
            assert code == self.case.code, f"{self}: {err}"
        operation = self.operation
        assert operation is not None, self
        assert operation.state is State.DONE, f"{self}: {operation}"
        if self.number == 0:
            self.is_refused(f"{operation.id} is DONE: there is nothing to resume")

    def is_refused(self, line: str) -> None:
        """It cannot be resumed, since …"""
        code, _, err = self.run(*self._arguments(resumes=True))
        assert code == 1, self
        assert err.splitlines()[-1].startswith(line), f"{self}: {err}"

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of ``attendance ARGUMENTS…``."""
        command = self._start(*arguments)
        return command.wait(), command.out, command.err

    def begin(self) -> tuple[int, str, str]:
        """Another operation that does the same."""
        return self.run(*self.case.command.split(), *self.case.arguments(self.number))

    @property
    def operation(self) -> Operation | None:
        """None if none was begun."""
        name = self.settings.redis_namespace
        return next(iter(with_redis(self.settings, lambda client: Operations(client, name).all())), None)

    @property
    def is_ended(self) -> bool:
        return (operation := self.operation) is not None and operation.state in ENDED

    def until_stale(self) -> None:
        """Until its process counts as gone, 15 s after it was killed."""

        def is_stale() -> bool:
            return (operation := self.operation) is None or operation.state is not State.RUNNING

        assert wait_until(is_stale, STALE_SECONDS + 5, step=0.2), self

    def set_back(self) -> None:
        """What Redis has of it becomes 15 s older, as if so much time had passed since: then it need not wait so long."""
        operation = self.operation
        assert operation is not None, self

        async def setting(client: Any) -> None:
            key, by = operations_key(self.settings.redis_namespace), int(STALE_SECONDS * 1000) + 1
            await client.hincrby(key, f"saved:{operation.id}", -by)
            if lock := await client.hget(key, f"lock:{operation.target}"):
                holder, owner, saved = json.loads(lock)
                await client.hset(key, f"lock:{operation.target}", json.dumps([holder, owner, saved - by]))

        with_redis(self.settings, setting)

    def _arguments(self, *, resumes: bool = False) -> list[str]:
        command, operation = self.case.command.split(), self.operation
        if operation is None or (operation.state in ENDED and not resumes):
            return [*command, *self.case.arguments(self.number)]
        return [*command, "--resume", operation.id, *(["--yes"] if self.case.command == "replay" else [])]

    def _start(self, *arguments: str, **environment: str) -> Command:
        own = {"ATTENDANCE_NAMESPACE": self.settings.redis_namespace}
        return self._commands.start(*arguments, **self.case.system.environment | own | environment)


def with_redis(settings: Settings, work: Callable[[Any], Awaitable[T]]) -> T:
    """The result of work with a client of Redis."""

    async def working() -> T:
        client = create_redis(settings)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(working())
