"""One round: publish under faults, let the workers catch up, compare; then everything again from the changelogs alone."""

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import group, verdict
from tests.faults.crew import Crew
from tests.faults.evidence import keep
from tests.faults.faults import Scene, await_brokers, batches_in_flight, begin, end, has_kafka
from tests.faults.publisher import Publisher
from tests.faults.schedule import AT_WORK, Fault, Kind, Plan
from tests.faults.stage import Stage, delete_topics
from tests.faults.world import World
from tests.support.oracle import Outcome
from tests.support.services import RedisServer
from tests.support.services.processes import wait_until
from tests.support.system import System

PARTITIONS = 6
#: Where wrong rounds leave what can be looked at later.
EVIDENCE = Path(tempfile.gettempdir()) / "attendance-faults"
#: How long workers may take to catch up when the faults are over, seconds; well above what any pause adds up to.
CATCH_UP = 90.0
#: How long Kafka's log cleaner may take to come by, on a machine that does other things too.
_CLEANER = 60.0
#: How long a fault waits for a worker that works; less than a session, for all may have been killed.
_FIND_WORK = 5.0
_STEP = 0.05
#: How long a burst is on its way before anything else, seconds.
_ON_THEIR_WAY = 0.3
#: How long nothing moves when a fault is to meet batches in flight, seconds: two commit intervals of the workers.
_STILL = 1.0
#: How long that is waited for, seconds: whoever has no Kafka appends nothing either.
_STUCK = 4.0


@dataclass
class Report:
    """What became of a round. `wrong` is empty where all is well."""

    plan: Plan
    events: int
    happened: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    logs: str = ""
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds that each part of the round took, in their order."""

    def __str__(self) -> str:
        head = f"seed {self.plan.seed}: {self.plan.brokers} broker(s), {self.plan.workers} worker(s), {self.events} events"
        ended = [f"  {_first_and_last(each)}" for each in self.ended]
        phases = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.phases.items())
        said = [*(f"  {line}" for line in self.happened), *ended, f"  seconds: {phases}"]
        if self.wrong:
            said += [*(f"  WRONG {line}" for line in self.wrong), *self.ended, self.logs]
        return "\n".join([head, *said])


def _first_and_last(text: str) -> str:
    first, *rest = text.strip().splitlines()
    return f"{first}: {rest[-1]}" if rest else first


def run(plan: Plan, stage: Stage, evidence: Path = EVIDENCE, cores: Sequence[str] = ("auto",)) -> Report:
    """Runs the plan's round; what is wrong is in the report, also where the round could not be finished.

    What Kafka holds after a wrong one is kept in a folder of `evidence`. The workers fold with these cores in turn.
    """
    began = time.monotonic()
    cluster = stage.cluster(plan)
    up = time.monotonic()
    world = World(plan.seed)
    report = Report(plan, world.size)
    proxied = plan.brokers == 1 and Kind.SLOW_OFFSETS in plan.kinds
    report.phases["services"] = up - began
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(append_only=True))
        system = stack.enter_context(System(cluster, redis, partitions=PARTITIONS))
        stack.callback(delete_topics, system)
        broker_url = stage.proxy.url if proxied and stage.proxy else cluster.url
        crew = Crew(system, broker_url, small_batches=plan.small_batches, cores=cores)
        stack.callback(crew.close)
        scene = Scene(system, crew, cluster, stage.proxy, redis)
        try:
            _Round(scene, plan, world, report).run(stack)
        except Exception:  # noqa: BLE001 - whatever it is, it is this round's, and the others are to be run
            report.wrong.append(f"not finished:\n{traceback.format_exc()}")
        report.ended, report.logs = crew.ended, crew.logs()
        report.wrong += crew.faulty
        await_brokers(scene)
        for node in cluster.nodes:  # topics can only be deleted by a whole cluster
            if not node.running:
                node.start()
        if report.wrong:
            _keep(report, system, evidence)
    report.seconds = time.monotonic() - began
    return report


def _keep(report: Report, system: System, evidence: Path) -> None:
    folder = evidence / f"seed-{report.plan.seed}-{system.settings.topic_prefix}"
    try:
        keep(system, folder)
        report.wrong.append(f"evidence: {folder}")
    except Exception:  # noqa: BLE001 - what is wrong is to be said anyway
        report.wrong.append(f"evidence could not be kept:\n{traceback.format_exc()}")


class _Round:
    def __init__(self, scene: Scene, plan: Plan, world: World, report: Report) -> None:
        self._scene, self._plan, self._world, self._report = scene, plan, world, report
        self._system, self._crew = scene.system, scene.crew
        self._items = world.items(scene.system)
        self._clock = time.monotonic()

    def _phase(self, name: str) -> None:
        now = time.monotonic()
        self._report.phases[name] = self._report.phases.get(name, 0.0) + now - self._clock
        self._clock = now

    def run(self, stack: contextlib.ExitStack) -> None:
        records = [item.record for item in self._items]
        self._publisher = Publisher(self._system.settings, records)
        stack.callback(self._publisher.close)
        self._publisher.send(int(len(records) * self._plan.backlog))
        for slot in range(self._plan.workers):
            self._crew.start(slot)
        if not self._plan.eager:
            self._system.until_serving()
        self._phase("start")
        self._publisher.spread(self._plan.span + 1, keep=len(records) // 6)
        self._suffer(len(records) // 9)
        self._phase("faults")
        self._publisher.send(self._publisher.left - len(records) // 10)
        if Kind.COMPACTION in self._plan.kinds:
            self._await_the_cleaner()
        self._publisher.send(self._publisher.left)
        self._phase("rest")
        self._judge(self._world.outcome())
        self._phase("cold start")

    def _suffer(self, burst: int) -> None:
        """Each fault at its moment, a burst of records right before it."""
        start = time.monotonic()
        slipped = 0.0
        moments = [(fault.at, begin, fault) for fault in self._plan.faults]
        moments += [(fault.at + fault.lasts, end, fault) for fault in self._plan.faults]
        for at, do, fault in sorted(moments, key=lambda moment: moment[0]):
            while (now := time.monotonic() - start) < at + slipped:
                self._crew.supervise()
                time.sleep(min(_STEP, at + slipped - now))
            if do is begin and fault.kind in AT_WORK and not self._plan.eager:
                slipped += self._await_work()
            with batches_in_flight(self._scene, fault) if do is begin else contextlib.nullcontext() as held:
                if do is begin:
                    self._publisher.burst(burst)
                    time.sleep(_ON_THEIR_WAY)
                if held:
                    slipped += self._await_standstill()
                moment = time.monotonic() - start
                do(self._scene, fault)
                self._note(moment, do, fault)
        await_brokers(self._scene)

    def _await_work(self) -> float:
        """Waits a while for a worker that holds partitions; the seconds it took."""
        began = time.monotonic()
        wait_until(lambda: self._crew.supervise() or bool(self._crew.working), _FIND_WORK)
        return time.monotonic() - began

    def _await_standstill(self) -> float:
        """Waits until workers that cannot write to Redis append nothing more, and had time to commit; the seconds it took.

        Then each partition has a batch that was begun and one that was only taken, however slow the machine is.
        """
        began = still = time.monotonic()
        before = None
        while has_kafka(self._scene) and time.monotonic() - still < _STILL and time.monotonic() - began < _STUCK:
            ends = self._system.ends()
            written = [
                ends[topic] for topic in (self._system.topics.attendance_changelog, self._system.topics.bookings_changelog)
            ]
            if written != before:
                before, still = written, time.monotonic()
            time.sleep(4 * _STEP)
        return time.monotonic() - began

    def _note(self, moment: float, do: Callable[[Scene, Fault], None], fault: Fault) -> None:
        target = self._scene.killed.get(fault)
        where = f" (slots {target})" if target else ""
        stays_away = fault.kind is Kind.BROKER_KILLED and fault.abrupt
        if do is begin or (fault.lasts and not stays_away):
            self._report.happened.append(f"{moment:5.1f} s {'' if do is begin else 'end of '}{fault.kind}{where}")

    def _await_the_cleaner(self) -> None:
        """Goes on publishing, a little at a time, so that segments roll, until the cleaner has been there."""
        deadline = time.monotonic() + _CLEANER
        while not group.compacted(self._system):
            if time.monotonic() > deadline:
                self._report.wrong.append("harness: the log cleaner did not run")
                break
            self._publisher.send(min(20, max(0, self._publisher.left - 50)))
            self._crew.supervise()
            time.sleep(0.5)
        group.set_compaction(self._system, eager=False)

    def _judge(self, expected: Outcome) -> None:
        wrong, system = self._report.wrong, self._system
        if not self._caught_up():
            return
        self._phase("caught up")
        wrong += verdict.read_models(system, expected)
        wrong += verdict.commits(system)
        wrong += verdict.members(system, lambda: self._crew.size)
        wrong += verdict.alerts_topic(system, expected)
        wrong += verdict.dead_letters(system, self._items)
        self._phase("comparing")
        self._start_cold()
        if self._caught_up():
            wrong += [f"cold: {line}" for line in verdict.read_models(system, expected, step=10)]
            wrong += [f"cold: {line}" for line in verdict.alerts_topic(system, expected)]

    def _start_cold(self) -> None:
        """No worker, no folder, no Redis: what a new worker then shows comes from the changelogs alone."""
        self._crew.lose_everything()
        assert self._scene.redis.ask("FLUSHALL") == "+OK"
        group.forget_members(self._system)
        self._crew.start(0)

    def _caught_up(self) -> bool:
        deadline = time.monotonic() + CATCH_UP
        while time.monotonic() < deadline:
            self._crew.supervise()
            if self._crew.settled and verdict.applied(self._system):
                return True
            time.sleep(0.3)
        marks = self._system.read(lambda reader: reader.status())
        self._report.wrong.append(f"not applied after {CATCH_UP:.0f} s: {marks}")
        return False
