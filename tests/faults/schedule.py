"""Which faults a seed brings, and when: pure, so that the coverage of many seeds can be asserted without running them."""

import random
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    KILL = "kill -9"
    TERM = "SIGTERM"
    ZOMBIE = "SIGSTOP beyond the session"
    JOIN = "join"
    LEAVE = "leave"
    BLACKOUT = "all workers killed"
    FOLDER_LOST = "store folder lost"
    SLOW_OFFSETS = "slow OffsetFetch"
    BROKER_RESTART = "broker restart"
    BROKER_KILLED = "one of three brokers killed"
    REDIS_RESTART = "Redis restart"
    REDIS_LOST = "Redis restart without its data"
    REDIS_FLUSHED = "FLUSHALL"
    REDIS_AWAY = "Redis stopped"
    REDIS_FROZEN = "Redis frozen"
    COMPACTION = "changelogs compacted"


#: Faults of workers, which strike one that works rather than one that is just starting.
AT_WORK = {Kind.KILL, Kind.TERM, Kind.ZOMBIE, Kind.LEAVE, Kind.BLACKOUT, Kind.FOLDER_LOST}
MAX_WORKERS = 4
#: The seed whose Redis is away for a whole minute.
MINUTE_SEED = 13
_KINDS = list(Kind)
#: Faults that cannot overlap, because they are done to the same thing.
_REDIS = {Kind.REDIS_RESTART, Kind.REDIS_LOST, Kind.REDIS_FLUSHED, Kind.REDIS_AWAY, Kind.REDIS_FROZEN}
_BROKER = {Kind.BROKER_RESTART, Kind.BROKER_KILLED, Kind.COMPACTION}
#: With three brokers there is no proxy, and one broker at a time may be away.
_ONE_BROKER_ONLY = {Kind.SLOW_OFFSETS, Kind.BROKER_RESTART}
_MOVES = [Kind.KILL, Kind.TERM, Kind.JOIN, Kind.BLACKOUT]
#: A zombie's late rows are lost to a compaction that does not wait for their mending: that is what
#: min.compaction.lag.ms is for, which a compaction here takes away.
_APART = {Kind.COMPACTION: {Kind.ZOMBIE}, Kind.ZOMBIE: {Kind.COMPACTION}}


class Fault(NamedTuple):
    """One fault. `at` and `lasts` are seconds, from the start of the publishing."""

    kind: Kind
    at: float
    lasts: float
    target: int
    """Which worker (of those that live then) or broker."""
    abrupt: bool
    """SIGKILL instead of SIGTERM for a service; a killed broker that stays away; a worker met with batches in flight."""

    def __str__(self) -> str:
        return f"{self.at:.1f} s: {self.kind}" + (f" for {self.lasts:.1f} s" if self.lasts else "")


class Plan(NamedTuple):
    """One round."""

    seed: int
    brokers: int
    workers: int
    small_batches: bool
    """Workers that poll 30 records and write chunks of 3, so that a fault meets them in the middle of something."""
    backlog: float
    """The share of records that are there before the first worker."""
    eager: bool
    """Whether the faults begin before the workers serve, and go on without regard to who works."""
    faults: list[Fault]

    @property
    def span(self) -> float:
        """Seconds from the first record to the end of the last fault."""
        return max(fault.at + fault.lasts for fault in self.faults)

    @property
    def kinds(self) -> set[Kind]:
        return {fault.kind for fault in self.faults}


def plan(seed: int) -> Plan:
    """The round of a seed; a run of `len(Kind)` seeds in a row has every kind at least once."""
    chance = random.Random(f"schedule {seed}")
    main = _KINDS[seed % len(_KINDS)]
    kinds = _company(chance, main)
    chance.shuffle(kinds)
    floor = 2 if {Kind.LEAVE, Kind.ZOMBIE} & {*kinds} else 1
    return Plan(
        seed,
        brokers=3 if Kind.BROKER_KILLED in kinds else 1,
        workers=chance.randrange(floor, MAX_WORKERS),
        small_batches=chance.random() < 0.85,
        backlog=chance.choice([0.0, 0.0, 0.3]),
        eager=chance.random() < 0.3,
        faults=_timed(chance, kinds, seed),
    )


def _company(chance: random.Random, main: Kind) -> list[Kind]:
    """The main fault and one to three that go with it."""
    kinds = [main]
    if main is Kind.SLOW_OFFSETS:
        kinds.append(chance.choice(_MOVES))  # nobody fetches offsets where nobody comes or goes
    wanted = chance.randrange(2, 5)
    while len(kinds) < wanted:
        kind = chance.choice([each for each in _KINDS if each is not Kind.BROKER_KILLED])
        twice = kind in kinds and kind is not Kind.KILL
        apart = _APART.get(kind, set()) & {*kinds}
        if not (twice or apart or (main is Kind.BROKER_KILLED and kind in _ONE_BROKER_ONLY)):
            kinds.append(kind)
    return kinds


def _timed(chance: random.Random, kinds: list[Kind], seed: int) -> list[Fault]:
    """Faults in the order of their kinds, overlapping where they are done to different things."""
    faults: list[Fault] = []
    at = chance.uniform(0.2, 1.5)
    for kind in sorted(kinds, key=lambda kind: kind is not Kind.SLOW_OFFSETS):  # which holds for all that follow
        lasts = _duration(chance, kind)
        if kind is Kind.REDIS_AWAY and seed == MINUTE_SEED:
            lasts = 60.0
        for same in (_REDIS, _BROKER):
            if kind in same:
                at = max([at, *(each.at + each.lasts + 1 for each in faults if each.kind in same)])
        abrupt = chance.random() < (0.7 if kind in AT_WORK else 0.5)
        faults.append(Fault(kind, round(at, 1), round(lasts, 1), chance.randrange(MAX_WORKERS), abrupt))
        at += chance.choice([0.3, 1.0, 2.5])
    return faults


def _duration(chance: random.Random, kind: Kind) -> float:
    match kind:
        case Kind.KILL | Kind.TERM | Kind.BLACKOUT | Kind.FOLDER_LOST:
            return chance.uniform(0.2, 2.5)
        case Kind.ZOMBIE:
            return chance.uniform(6.8, 9.0)
        case Kind.BROKER_RESTART | Kind.REDIS_RESTART | Kind.REDIS_LOST:
            return chance.uniform(0.0, 3.0)
        case Kind.BROKER_KILLED | Kind.REDIS_AWAY | Kind.REDIS_FROZEN:
            return chance.uniform(6.5, 8.5)
        case Kind.SLOW_OFFSETS:
            return 12.0
        case Kind.JOIN | Kind.LEAVE | Kind.REDIS_FLUSHED | Kind.COMPACTION:
            return 0.0
