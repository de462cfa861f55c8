"""The command `mirror`."""

import asyncio

from worker.cli.services import service_settings
from worker.cli.show import fail
from worker.cli.signals import run_until_stopped
from worker.logs import configure_logs
from worker.ops import mirror as ops
from worker.settings import Settings
from worker.stream.group_topic import find_mirrored
from worker.stream.retry import SILENCE_SECONDS, until_done
from worker.tasks import run_until


def mirror() -> None:
    """Copy records between these topics and those they replace, until Ctrl-C; workers start it when a rebuild needs it."""
    settings = service_settings()
    configure_logs(settings)
    run_until_stopped(lambda stop: _run(settings, stop))


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    mirrored = await until_done(
        "kafka", lambda: find_mirrored(settings), silence=SILENCE_SECONDS, address=settings.kafka_address
    )
    if mirrored is None:
        fail(f"{settings.topic_prefix}.* are not mirrored: `attendance rebuild --refold --from-prefix` begins it")
    await run_until(stop, ops.mirror(settings, ops.other_side(settings, mirrored)))
