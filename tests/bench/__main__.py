"""`python -m tests.bench`: measures the worker, its parts and its peers in one run, prints tables, writes latest.json."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from time import time

from rich.console import Console

from tests.bench import machine, million, report
from tests.bench.programs import PEERS
from tests.bench.rounds import PARTITIONS, PARTS, Order, Round, warm_up
from tests.bench.running import Ground
from tests.bench.workload import WORKLOADS
from tests.support.services import KafkaCluster, RedisServer, ServiceError
from worker.redis.client import create_redis
from worker.settings import SettingsError, load_settings
from worker.stream.choose_core import native_problem

LEAST_EVENTS = 20_000
LARGE = 10_000_000

_progress = Console(stderr=True, highlight=False)


def main() -> int:
    """Exit code: 0, 1 where something could not be measured, 130 for Ctrl-C."""
    options = _options()
    # a topic just made has no leader for a moment; clients warn of each retry
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    try:
        with KafkaCluster(optimised=True) as kafka, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            kept = {"store": f"{options.store}://{folder if options.store == 'rocksdb' else ''}"} if options.store else {}
            settings = load_settings(_env_file=None, broker=kafka.url, redis=redis.url, namespace="", **kept)
            ground = Ground(settings, [node.pid for node in kafka.nodes], Path(folder))
            failed = asyncio.run(_run(ground, options))
    except (ServiceError, SettingsError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


async def _run(ground: Ground, options: argparse.Namespace) -> list[str]:
    """What failed."""
    chosen, problem = options.only, native_problem()
    if problem:
        _progress.print(f"measuring the core in Python alone: {problem}", markup=False)
        chosen = [part for part in chosen if part != "worker_python"]
    ground = ground.with_core("python" if problem else "native")
    async with create_redis(ground.settings) as redis:
        told = {"store": ground.settings.store.partition(":")[0], "core": ground.settings.core}
        here = {**machine.describe(await redis.info()), **told}
    now = int(time() * 1e6)
    _progress.print(f"making {options.events:,} events")
    loads = {name: WORKLOADS[name](options.events, PARTITIONS, now, options.seed) for name in options.workloads}
    order = Order(chosen, loads, now, options.seed, options.peer_seconds, options.attendances)
    _progress.print("warming up Kafka")
    await warm_up(ground, now, options.seed)
    rounds = [Round(ground, order, number) for number in range(1, options.runs + 1)]
    for each in rounds:
        await each.run()
    found, about = [each.figures for each in rounds], [report.about(name, load) for name, load in loads.items()]
    failed = [what for each in rounds for what in each.failed]
    report.write(found, failed, about, here)
    report.show(found, about, here)
    for what in failed:
        print(f"bench: {what.splitlines()[0]}", file=sys.stderr)
    return failed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=600_000, help="events in the backlog (default: %(default)s)")
    parser.add_argument(
        "--workloads", type=_workloads, default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)} (default: all of them)"
    )
    parser.add_argument("--runs", type=int, default=1, help="how often all is measured; medians are reported")
    parser.add_argument("--only", type=_parts, default=list(PARTS), help=f"of {', '.join(PARTS)}; parts of a name do")
    for part in ("growth", "million", "peers"):
        parser.add_argument(f"--no-{part}", action="store_true", help="leave it out")
    parser.add_argument("--store", choices=("memory", "rocksdb"), help="where workers keep rows (default: the worker's own)")
    parser.add_argument("--peer-seconds", type=float, default=60.0, help="how long each peer may work (default: %(default)s)")
    parser.add_argument(
        "--attendances", type=int, default=million.ATTENDANCES, help="of the part `million` (default: %(default)s)"
    )
    parser.add_argument("--large", action="store_true", help="the same as --attendances 10000000")
    parser.add_argument("--seed", type=int, default=7, help="of the workload (default: %(default)s)")
    options = parser.parse_args()
    if options.events < LEAST_EVENTS:
        parser.error(f"--events: at least {LEAST_EVENTS}, or the start is all there is to measure")
    if options.large:
        options.attendances = LARGE
    most = min(options.attendances, million.ATTENDANCES)
    if options.attendances < million.UPDATES or options.attendances % most:
        parser.error(f"--attendances: at least {million.UPDATES}, and above a million whole millions")
    if options.runs < 1:
        parser.error("--runs: at least 1")
    left_out = {"growth": options.no_growth, "million": options.no_million, **dict.fromkeys(PEERS, options.no_peers)}
    options.only = [part for part in options.only if not left_out.get(part)]
    return options


def _workloads(text: str) -> list[str]:
    words = text.split(",")
    if unknown := [word for word in words if word not in WORKLOADS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: one of {', '.join(WORKLOADS)}")
    return words


def _parts(text: str) -> list[str]:
    chosen = []
    for word in text.split(","):
        found = [part for part in PARTS if word == part] or [part for part in PARTS if word in part]
        if len(found) != 1:
            raise argparse.ArgumentTypeError(f"{word}: one of {', '.join(PARTS)}")
        chosen += found
    return chosen


if __name__ == "__main__":
    sys.exit(main())
