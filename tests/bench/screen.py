"""`python -m tests.bench.screen`: how long an event takes from its sending to Kafka until a browser shows it."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

from playwright.sync_api import Page, expect

from tests.screen.stage import Stage, listed, path_of
from tests.screen.visiting import is_live, visiting
from tests.support.browser import Chromium, aside
from tests.support.services import KafkaCluster, RedisServer, ServiceError
from tests.support.services.debian import debian_program
from tests.support.serving import MINUTE, event, served, upserted
from tests.support.system import Record, System
from worker.kafka import create_producer

SESSION = "measured"
#: Notes for each number of bookings that came when the browser first painted it, milliseconds since the epoch.
_WATCH = """() => {
    window.painted = {};
    const note = () => requestAnimationFrame(() => {
        const came = Number(document.querySelector("[data-testid=came]").textContent.replaceAll(",", ""));
        window.painted[came] ??= performance.timeOrigin + performance.now();
    });
    new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def main() -> int:
    """Exit code: 0, 1 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.screen", description=__doc__)
    parser.add_argument("--events", type=int, default=200, help="how many events, one after the other")
    parser.add_argument("--pause", type=float, default=0.25, help="mean pause between two events, seconds")
    parser.add_argument("--bookings", type=int, default=1000, help="bookings of the session")
    options = parser.parse_args()
    try:
        with (
            KafkaCluster() as kafka,
            RedisServer() as redis,
            tempfile.TemporaryDirectory() as folder,
            served(kafka, redis, Path(folder)) as api,
        ):
            delays = _measure(Stage(api), options)
    except ServiceError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    cuts = quantiles(delays, n=100)
    print(f"{len(delays)} events: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, max {max(delays):.0f} ms")
    return 0


def _measure(stage: Stage, options: argparse.Namespace) -> list[float]:
    """The delay of each event, milliseconds."""
    now = time.time_ns() // 1000
    sessions = [listed(SESSION, now - 10 * MINUTE, now + 50 * MINUTE)]
    names = [f"M-{number:06d}" for number in range(max(options.bookings, options.events))]
    stage.publish(upserted(name, 1, sessions) for name in names)
    stage.api.system.until_applied(120)
    with (
        Chromium(debian_program("chromium", "chromium")) as chromium,
        visiting(chromium, stage.api, path_of("session", id=SESSION)) as visit,
    ):
        page = visit.page
        is_live(page)
        page.evaluate(_WATCH)
        chosen = random.Random(1).sample(names, options.events)
        sent = aside(lambda: asyncio.run(_send(stage.api.system, chosen, options.pause)))
        expect(page.get_by_test_id("came")).to_have_text(f"{len(sent):,}", timeout=30_000)
        return _delays(page, sent)


def _delays(page: Page, sent: list[float]) -> list[float]:
    """An event is shown with the first painted number that counts it: several may come in one message."""
    page.wait_for_timeout(500)
    painted = sorted((int(number), at) for number, at in page.evaluate("window.painted").items())
    return [min(at for number, at in painted if number >= place) - at_start for place, at_start in enumerate(sent, 1)]


async def _send(system: System, names: list[str], pause: float) -> list[float]:
    """Sends a check-in of each booking; when each was sent, milliseconds since the epoch."""
    producer, chance, sent = create_producer(system.settings), random.Random(2), list[float]()
    await producer.start()
    try:
        for name in names:
            record: Record = system.event(event("check_in", name, SESSION))
            sent.append(time.time() * 1000)
            await producer.send_and_wait(record.topic, key=record.key, value=record.value, partition=record.partition)
            await asyncio.sleep(chance.uniform(0, 2 * pause))
    finally:
        await producer.stop()
    return sent


if __name__ == "__main__":
    sys.exit(main())
