"""The Faust app of a worker. Faust provides topics, group and assignment; `worker.engine` the rest."""

import os
import ssl
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import faust

from worker.engine import faust_consumer
from worker.engine.faust_recovery import SafeTableManager
from worker.settings import Settings, client_id
from worker.topics import TopicNames

#: The larger a batch, the more of its events concern the same booking and become one write.
MAX_POLL_RECORDS = 12_000
_FETCH_BYTES = 4 * 1024 * 1024
_COMMIT_SECONDS = 1.0


def create_app(settings: Settings, consume: Callable[[Any], Coroutine[Any, Any, None]]) -> faust.App:
    """The Faust app, with ``consume`` as its only agent."""
    faust_consumer.register()
    topics = TopicNames.of(settings.topic_prefix)
    timeout = settings.session_timeout.total_seconds()
    app = faust.App(
        settings.group,
        broker=";".join(f"{faust_consumer.SCHEME}://{server}" for server in settings.bootstrap_servers),
        broker_credentials=_credentials(settings),
        broker_client_id=client_id(),
        # in Faust environment variables override arguments; none has this prefix
        env_prefix="ATTENDANCE_FAUST_INTERNAL_",
        TableManager=SafeTableManager,
        store="memory://",
        # Faust creates the folder but, without tables of its own, writes nothing there: all workers share one
        datadir=str(Path(tempfile.gettempdir()) / f"attendance-worker-{os.getuid()}"),
        web_enabled=False,
        topic_partitions=settings.partitions,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_FETCH_BYTES,
        broker_max_poll_records=MAX_POLL_RECORDS,
        broker_max_poll_interval=86_400,
        broker_commit_interval=_COMMIT_SECONDS,
        broker_session_timeout=timeout,
        broker_rebalance_timeout=timeout + faust_consumer.DRAIN_SECONDS,
        broker_heartbeat_interval=1.0,
    )
    schema = faust_consumer.RawSchema(key_type=bytes, value_type=bytes)
    # nothing is sent through Faust
    app.boot_strategy.enable_kafka_producer = False
    app.agent(app.topic(topics.events, topics.bookings, schema=schema), name="attendance")(consume)
    return app


def _credentials(settings: Settings) -> Any:
    if settings.broker_security == "PLAINTEXT":
        return None
    context = ssl.create_default_context(cafile=settings.broker_ca_file) if "SSL" in settings.broker_security else None
    if settings.broker_security == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=settings.broker_username,
        password=settings.broker_password.get_secret_value(),
        mechanism=settings.broker_sasl_mechanism,
        ssl_context=context,
    )
