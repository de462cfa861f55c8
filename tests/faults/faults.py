"""How each kind of fault is done to a round, and undone."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults import group
from tests.faults.crew import Crew
from tests.faults.schedule import AT_WORK, Fault, Kind
from tests.support.services import KafkaCluster, KafkaNode, KafkaProxy, RedisServer
from tests.support.system import System

#: How long the proxy holds back an answer to OffsetFetch, seconds; less than the session timeout.
SLOW = 3.0


@dataclass
class Scene:
    """What faults are done to."""

    system: System
    crew: Crew
    cluster: KafkaCluster
    proxy: KafkaProxy | None
    redis: RedisServer
    redis_frozen: bool = False
    starting: list[KafkaNode] = field(default_factory=list)
    """Brokers that were started and may not serve yet."""
    killed: dict[Fault, list[int]] = field(default_factory=dict)
    """The slots that a fault emptied or stopped, for its end."""


@contextmanager
def batches_in_flight(scene: Scene, fault: Fault) -> Iterator[bool]:
    """Has the workers keep what they begin within, where the fault is to meet them so: Redis does not answer meanwhile."""
    held = fault.kind in AT_WORK and fault.abrupt and scene.redis.running and not scene.redis_frozen
    if held:
        scene.redis.pause()
    try:
        yield held
    finally:
        if held:
            scene.redis.resume()


def begin(scene: Scene, fault: Fault) -> None:
    """Does the harm."""
    _BEGIN[fault.kind](scene, fault)


def end(scene: Scene, fault: Fault) -> None:
    """Ends a fault that lasts."""
    _END.get(fault.kind, _nothing)(scene, fault)


def has_kafka(scene: Scene) -> bool:
    """Whether every broker is up, or was when somebody last looked."""
    return not scene.starting and all(node.running for node in scene.cluster.nodes)


def await_brokers(scene: Scene) -> None:
    """Until every broker that was started again serves."""
    while scene.starting:
        scene.starting.pop().wait_ready()


def _nothing(scene: Scene, fault: Fault) -> None:
    """Of a fault that is over when it is done."""


def _on_one(harm: Callable[[Crew, int], None]) -> Callable[[Scene, Fault], None]:
    def harming(scene: Scene, fault: Fault) -> None:
        slot = scene.crew.choose(fault.target)
        scene.killed[fault] = [] if slot is None else [slot]
        if slot is not None:
            harm(scene.crew, slot)

    return harming


def _kill_all(scene: Scene, fault: Fault) -> None:
    scene.killed[fault] = scene.crew.living
    for slot in scene.crew.living:
        scene.crew.kill(slot)


def _kill_and_lose_folder(crew: Crew, slot: int) -> None:
    crew.kill(slot)
    crew.lose_folder(slot)


def _start_again(scene: Scene, fault: Fault) -> None:
    for slot in scene.killed[fault]:
        scene.crew.start(slot)


def _go_on(scene: Scene, fault: Fault) -> None:
    for slot in scene.killed[fault]:
        scene.crew.go_on(slot)


def _join(scene: Scene, fault: Fault) -> None:
    slot = scene.crew.free_slot()
    if slot is not None:
        scene.crew.start(slot)


def _slow(scene: Scene, fault: Fault) -> None:
    assert scene.proxy is not None
    scene.proxy.delay = SLOW


def _fast(scene: Scene, fault: Fault) -> None:
    assert scene.proxy is not None
    scene.proxy.delay = 0.0


def _end_broker(scene: Scene, fault: Fault) -> None:
    node = _broker(scene, fault)
    if fault.abrupt or fault.kind is Kind.BROKER_KILLED:
        node.kill()
    else:
        node.ask_to_end()


def _start_broker(scene: Scene, fault: Fault) -> None:
    """Without waiting until it serves: other faults go on meanwhile."""
    if not (fault.kind is Kind.BROKER_KILLED and fault.abrupt):  # else it stays away until the round is over
        node = _broker(scene, fault)
        node.await_end()
        node.launch()
        scene.starting.append(node)


def _broker(scene: Scene, fault: Fault) -> KafkaNode:
    return scene.cluster.nodes[fault.target % len(scene.cluster.nodes)]


def _end_redis(scene: Scene, fault: Fault) -> None:
    if fault.abrupt:
        scene.redis.kill()
    else:
        scene.redis.stop()
    if fault.kind is Kind.REDIS_LOST:
        shutil.rmtree(scene.redis.folder / "appendonlydir")


def _freeze_redis(scene: Scene, fault: Fault) -> None:
    scene.redis.pause()
    scene.redis_frozen = True


def _thaw_redis(scene: Scene, fault: Fault) -> None:
    scene.redis.resume()
    scene.redis_frozen = False


def _start_redis(scene: Scene, fault: Fault) -> None:
    scene.redis.start()


def _flush(scene: Scene, fault: Fault) -> None:
    assert scene.redis.ask("FLUSHALL") == "+OK"


def _compact(scene: Scene, fault: Fault) -> None:
    await_brokers(scene)
    group.set_compaction(scene.system, eager=True)


_Do = Callable[[Scene, Fault], None]
_BEGIN: dict[Kind, _Do] = {
    Kind.KILL: _on_one(Crew.kill),
    Kind.TERM: _on_one(Crew.terminate),
    Kind.ZOMBIE: _on_one(Crew.stop),
    Kind.JOIN: _join,
    Kind.LEAVE: _on_one(Crew.terminate),
    Kind.BLACKOUT: _kill_all,
    Kind.FOLDER_LOST: _on_one(_kill_and_lose_folder),
    Kind.SLOW_OFFSETS: _slow,
    Kind.BROKER_RESTART: _end_broker,
    Kind.BROKER_KILLED: _end_broker,
    Kind.REDIS_RESTART: _end_redis,
    Kind.REDIS_LOST: _end_redis,
    Kind.REDIS_FLUSHED: _flush,
    Kind.REDIS_AWAY: _end_redis,
    Kind.REDIS_FROZEN: _freeze_redis,
    Kind.COMPACTION: _compact,
}
_END: dict[Kind, _Do] = {
    Kind.KILL: _start_again,
    Kind.TERM: _start_again,
    Kind.ZOMBIE: _go_on,
    Kind.BLACKOUT: _start_again,
    Kind.FOLDER_LOST: _start_again,
    Kind.SLOW_OFFSETS: _fast,
    Kind.BROKER_RESTART: _start_broker,
    Kind.BROKER_KILLED: _start_broker,
    Kind.REDIS_RESTART: _start_redis,
    Kind.REDIS_LOST: _start_redis,
    Kind.REDIS_AWAY: _start_redis,
    Kind.REDIS_FROZEN: _thaw_redis,
}
