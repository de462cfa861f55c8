"""What the engine leans on inside faust-streaming and aiokafka: when an upgrade breaks one of these, this says which."""

import inspect
from importlib.metadata import version

import aiokafka
import pytest
from aiokafka.consumer import AIOKafkaConsumer
from faust.tables.recovery import Recovery, ServiceStopped
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import Message, ack_lock
from mode.utils.futures import notify

from worker.engine import transport


def test_versions_are_the_pinned_ones() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert aiokafka.__version__ == "0.14.0"


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (driver.Consumer._getmany, ["self", "active_partitions", "timeout"]),
        (driver.Consumer._seek, ["self", "partition", "offset"]),
        (driver.Consumer._new_consumer_thread, ["self"]),
        (driver.Consumer._to_message, ["self", "tp", "record"]),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
        (faust_consumer.Consumer._wait_next_records, ["self", "timeout"]),
        (faust_consumer.Consumer._add_gap, ["self", "tp", "offset_from", "offset_to"]),
        (faust_consumer.Consumer._new_offset, ["self", "tp"]),
        (faust_consumer.Consumer._filter_tps_with_pending_acks, ["self", "topics"]),
        (faust_consumer.Consumer._clean_unacked_messages, ["self"]),
        (faust_consumer.Consumer._wait_for_ack, ["self", "timeout"]),
        (faust_consumer.Consumer.wait_empty, ["self"]),
        (faust_consumer.Consumer.perform_seek, ["self"]),
        (faust_consumer.Consumer.ack, ["self", "message"]),
        (Recovery._resume_streams, ["self", "generation_id"]),
        (Recovery._wait, ["self", "coro", "timeout"]),
    ],
)
def test_overridden_and_called_methods_are_as_expected(method: object, parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (faust_consumer.Consumer._drain_messages, ["getmany(timeout=1.0)", "callback(message)"]),
        (faust_consumer.Consumer.force_commit, ["_filter_tps_with_pending_acks", "_commit_tps"]),
        (faust_consumer.Consumer._filter_committable_offsets, ["_new_offset", "_should_commit"]),
        (faust_consumer.Consumer.on_partitions_revoked, ["self._on_partitions_revoked"]),
        (faust_consumer.Consumer.perform_seek, ["_committed_offset"]),
        (Recovery, ["if not self.tables", "self._resume_streams"]),
        (Recovery._resume_streams, ["resume_partitions", "perform_seek", "flow_control.resume()"]),
        (AIOKafkaConsumer.__init__, ["_partition_assignment_strategy", "_fetch_max_wait_ms"]),
        (Message.ack, ["on_final_ack"]),
    ],
)
def test_stock_code_still_goes_the_way_the_engine_relies_on(method: object, names: list[str]) -> None:
    source = inspect.getsource(method)  # type: ignore[arg-type]
    assert [name for name in names if name not in source] == []


def test_the_other_names_exist() -> None:
    transport.register()
    assert TRANSPORTS.aliases[transport.SCHEME] == "worker.engine.transport:Transport"
    assert issubclass(ServiceStopped, Exception)
    assert callable(notify)
    assert hasattr(ack_lock, "__enter__")
    assert {"_unacked_messages", "_committed_offset"} <= faust_consumer.Consumer.__annotations__.keys()
