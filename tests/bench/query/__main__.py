"""`python -m tests.bench.query`: what queries of a million attendances cost; prints tables, writes query-latest.json."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from redis.asyncio import Redis
from rich.console import Console

from tests.bench import machine
from tests.bench.process import BenchFailed
from tests.bench.query import dataset, filling, http, report
from tests.bench.query.asking import Asking, Progress
from tests.bench.query.attacks import ATTACKS
from tests.bench.query.classes import CLASSES, FIELDS, PAIRS, Asked
from tests.bench.query.report import Found
from tests.bench.query.server import Pinging, Server
from tests.support.services import RedisServer, ServiceError
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.settings import load_settings

SIZE, PARTITIONS, SEED = 1_000_000, 16, 7
GETS = 2000
_SINGLE, _DOUBLE, _COUNT = Progress(0.3), Progress(0.15, 50), Progress(0.3)

_progress = Console(stderr=True, highlight=False)


def main() -> int:
    """Exit code: 0, 1 where something could not be measured or an answer was wrong, 130 for Ctrl-C."""
    options = _options()
    # a topic just made has no leader for a moment; clients warn of each retry
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        with ExitStack() as stack:
            url = options.redis or stack.enter_context(RedisServer()).url
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found = asyncio.run(_run(url, folder, options))
            if options.http:
                _progress.print("asking over HTTP")
                found.http = asyncio.run(http.measure(folder))
    except (ServiceError, BenchFailed) as error:
        print(f"bench-query: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.judge(found)
    report.write(found)
    report.show(found)
    return 0


async def _run(url: str, folder: Path, options: argparse.Namespace) -> Found:
    async with create_redis(load_settings(_env_file=None, redis=url)) as client:
        assert isinstance(client, Redis)
        here = machine.alone(await client.info())
        _progress.print(f"making {options.size:,} attendances")
        data = dataset.make(options.size, options.ids, options.seed)
        about = {
            "attendances": len(data),
            "bookings": len(data.bookings),
            "booking ids": options.ids,
            "sessions": len(data.sessions),
            "large sessions": data.large,
            "partitions": options.partitions,
        }
        found = Found(about, here)
        _progress.print("filling Redis")
        mark = f"{options.size} {options.ids} {options.seed}"
        used = await filling.fill(client, data, options.partitions, mark)
        found.bytes_per_attendance = used / len(data)
        server = Server(client)
        await server.prepare()
        asking = Asking(AttendanceReader(client, filling.BASE), data, server, options.seed)
        # the bench holds much that the processes which ask have not: no collection is to walk it meanwhile
        gc.collect()
        gc.freeze()
        with Pinging(url, folder) as pinging:
            await _ask(asking, options, found)
        found.ping = pinging.waits
    return found


async def _ask(asking: Asking, options: argparse.Namespace, found: Found) -> None:
    single = [(direction + field,) for field in FIELDS if field in options.sorts for direction in ("", "-")]
    double = [(one + first, other + second) for (first, second), (one, other) in zip(PAIRS, _directions(), strict=True)]
    double = [pair for pair in double if pair[0].lstrip("-") in options.sorts]
    found.gets = await asking.gets(GETS)
    for asked in options.cells:
        sorts = [*single, *(double if asked.pairs and options.pairs else ())]
        _progress.print(f"asking: {asked.name}")
        cells, found.blocks[asked.name] = await asking.sorts(asked, single, _SINGLE)
        found.cells += cells
        if len(sorts) > len(single):
            cells, found.blocks[f"{asked.name}, two fields"] = await asking.sorts(asked, double, _DOUBLE)
            found.cells += cells
        found.counts[asked.name] = await asking.counts(asked, _COUNT)


def _directions() -> Sequence[tuple[str, str]]:
    """Of each pair of fields: ways in turn."""
    ways = (("", ""), ("-", ""), ("", "-"), ("-", "-"))
    return [ways[number % len(ways)] for number in range(len(PAIRS))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.query", description=__doc__)
    parser.add_argument("--size", type=int, default=SIZE, help="attendances (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help="(default: %(default)s)")
    parser.add_argument("--ids", choices=dataset.IDS, default="mixed", help="of bookings: GUIDs, BK-000123, half of each")
    parser.add_argument(
        "--cells", type=_classes, default=[*CLASSES, *ATTACKS], help="classes of filters by parts of their names"
    )
    parser.add_argument("--sorts", type=_fields, default=list(FIELDS), help=f"of {', '.join(FIELDS)}; parts of a name do")
    parser.add_argument("--no-pairs", dest="pairs", action="store_false", help="no sorts by two fields")
    parser.add_argument("--no-http", dest="http", action="store_false", help="nothing over HTTP")
    parser.add_argument("--redis", metavar="URL", help="a running Redis, FLUSHED unless an earlier run has filled it so")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    return parser.parse_args()


def _classes(text: str) -> list[Asked]:
    every = [*CLASSES, *ATTACKS]
    return [asked for asked in every if any(word in asked.name for word in _words(text, [each.name for each in every]))]


def _fields(text: str) -> list[str]:
    return [field for field in FIELDS if any(word in field for word in _words(text, FIELDS))]


def _words(text: str, known: Sequence[str]) -> list[str]:
    words = text.split(",")
    for word in words:
        if not any(word in name for name in known):
            raise argparse.ArgumentTypeError(f"{word}: part of one of {'; '.join(known)}")
    return words


if __name__ == "__main__":
    sys.exit(main())
