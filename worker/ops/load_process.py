"""One process of a load: fills its share of the partitions. `load_child` starts it, as ``python -m worker.ops.load_process``.

Its settings are those of the new tables, from the environment. The share comes from stdin; what is done goes to stdout, see
`load_messages`. SIGTERM ends it early, after what it has begun.
"""

import asyncio
import logging
import signal
import sys
import traceback

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from worker.domain.row_codec import OtherFormat
from worker.engine.log_reader import LogUnreadable
from worker.logs import configure_logs
from worker.ops import doctor
from worker.ops.archive_format import ArchiveError
from worker.ops.coverage import LoadError
from worker.ops.load_messages import Failed, Loaded, Message, Reached, Share, decode_share, encode
from worker.ops.load_partitions import load_partitions
from worker.ops.topics import TopicsError
from worker.redis.client import create_redis
from worker.settings import Settings, SettingsError, load_settings
from worker.stream.errors import StreamError
from worker.stream.garbage import tune_garbage_collector

#: Errors whose message is for the user.
_USER_ERRORS = (ArchiveError, LoadError, LogUnreadable, OtherFormat, SettingsError, StreamError, TopicsError)


def main() -> None:
    """Loads what stdin says; exits with 1 after a `Failed`."""
    # client libraries log nothing: their errors are sent to the command
    logging.getLogger().addHandler(logging.NullHandler())
    share, settings = decode_share(sys.stdin.buffer.read()), load_settings()
    configure_logs(settings)
    tune_garbage_collector()
    try:
        asyncio.run(_load(settings, share))
    except Exception as error:  # noqa: BLE001 - whatever it is, the command prints it
        if settings.log_level == "DEBUG":
            traceback.print_exc()
        _send(Failed(asyncio.run(_described(settings, error))))
        sys.exit(1)


async def _load(settings: Settings, share: Share) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def reached(tp: TopicPartition, count: int) -> None:
        _send(Reached(tp.topic, tp.partition, count))

    client = create_redis(settings)
    try:
        await load_partitions(settings, client, share, stop, reached, lambda number: _send(Loaded(number)))
    finally:
        await client.aclose()


def _send(message: Message) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


async def _described(settings: Settings, error: Exception) -> str:
    """What the user is to know of an error."""
    if isinstance(error, _USER_ERRORS):
        return str(error)
    if isinstance(error, KafkaError):
        return await doctor.broker_failure(settings, error)
    if isinstance(error, RedisError | TimeoutError):
        return await doctor.redis_failure(settings, error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or repr(error)
    return f"internal error: {error!r}; ATTENDANCE_LOG_LEVEL=DEBUG shows the traceback"


if __name__ == "__main__":
    main()
