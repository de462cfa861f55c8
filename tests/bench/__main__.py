"""`python -m tests.bench`: measures the worker, its parts and its peers in one run, prints tables, writes latest.json."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from time import time
from urllib.parse import urlsplit

from rich.console import Console

from tests.bench import against, machine, parts, report, subject, workload
from tests.bench.peers import Result, Workplace
from tests.bench.process import BenchFailed
from tests.services import KafkaCluster, RedisServer, ServiceError
from worker.read_model.client import create_redis
from worker.settings import Settings, load_settings
from worker.topics import TopicNames

PARTITIONS = 4
LEAST_EVENTS = 20_000

_progress = Console(stderr=True, highlight=False)


def main() -> int:
    """Exit code: 0, 1 where nothing could be measured, 130 for Ctrl-C."""
    options = _options()
    # a topic just made has no leader for a moment; clients warn of each retry
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    try:
        with KafkaCluster() as kafka, RedisServer() as redis, tempfile.TemporaryDirectory() as folder:
            settings = load_settings(
                _env_file=None, broker=kafka.url, redis=redis.url, partitions=PARTITIONS, topic_prefix="bench", namespace=""
            )
            asyncio.run(_run(settings, options, Path(folder)))
    except (BenchFailed, ServiceError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _run(settings: Settings, options: argparse.Namespace, folder: Path) -> None:
    async with create_redis(settings) as redis:
        here = machine.describe(await redis.info())
    now = int(time() * 1e6)
    _progress.print(f"making {options.events:,} events")
    load = workload.make(options.events, PARTITIONS, now, options.seed)
    _progress.print("measuring decode and fold")
    alone = parts.measure(settings, load, now)
    _progress.print("measuring the worker")
    measured = await subject.measure(settings, load, folder)
    peers = {peer: _against(peer, settings, options, folder) for peer in against.PEERS}
    found, about = report.figures(measured, alone, peers), report.about(load)
    report.write(found, about, here)
    report.show(found, about, here)


def _against(peer: str, settings: Settings, options: argparse.Namespace, folder: Path) -> Result:
    _progress.print(f"measuring {peer}")
    redis = urlsplit(settings.redis.get_secret_value())
    place = Workplace(
        broker=settings.bootstrap_servers[0],
        redis=redis._replace(path="/1").geturl(),
        topic=TopicNames.of(settings.topic_prefix).events,
        partitions=PARTITIONS,
        events=options.events,
        seconds=options.peer_seconds,
    )
    return against.measure(peer, place, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="events in the backlog (default: %(default)s)")
    parser.add_argument("--peer-seconds", type=float, default=20.0, help="how long each peer may work (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the workload (default: %(default)s)")
    options = parser.parse_args()
    if options.events < LEAST_EVENTS:
        parser.error(f"--events: at least {LEAST_EVENTS}, or the start is all there is to measure")
    return options


if __name__ == "__main__":
    sys.exit(main())
