"""What the engine leans on inside faust-streaming, mode and aiokafka: when an upgrade breaks one of these, this says which.

The last test reads the sources of the engine and of the stream: a private name that is not listed here fails it.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiokafka
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher as ClientFetcher
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState, TopicPartitionState
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy
from faust import Schema
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery, ServiceStopped
from faust.transport import consumer
from faust.transport.conductor import ConductorCompiler
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import Message, ack_lock
from mode.services import Service
from mode.threads import QueueServiceThread, ServiceThread, WorkerThread
from mode.utils.futures import notify
from mode.utils.queues import FlowControlEvent

from worker.engine import faust_consumer

ROOT = Path(__file__).parents[3]

METHODS = [
    (driver.Consumer._getmany, ["self", "active_partitions", "timeout"]),
    (driver.Consumer._seek, ["self", "partition", "offset"]),
    (driver.Consumer._commit, ["self", "offsets"]),
    (driver.Consumer._new_consumer_thread, ["self"]),
    (driver.Consumer._to_message, ["self", "tp", "record"]),
    (driver.Consumer.verify_event_path, ["self", "now", "tp"]),
    (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
    (driver.AIOKafkaConsumerThread._fetch_records, ["self", "consumer", "active_partitions", "timeout", "max_records"]),
    (driver.AIOKafkaConsumerThread._commit, ["self", "offsets"]),
    (driver.AIOKafkaConsumerThread.commit, ["self", "offsets"]),
    (driver.AIOKafkaConsumerThread._ensure_consumer, ["self"]),
    (driver.AIOKafkaConsumerThread.verify_event_path, ["self", "now", "tp"]),
    (driver.AIOKafkaConsumerThread.seek, ["self", "partition", "offset"]),
    (driver.AIOKafkaConsumerThread.position, ["self", "tp"]),
    (driver.AIOKafkaConsumerThread.seek_to_beginning, ["self", "partitions"]),
    (consumer.Consumer.__init__, None),
    (consumer.Consumer.getmany, ["self", "timeout"]),
    (consumer.Consumer.sleep, ["self", "n"]),
    (consumer.Consumer._wait_next_records, ["self", "timeout"]),
    (consumer.Consumer._add_gap, ["self", "tp", "offset_from", "offset_to"]),
    (consumer.Consumer._new_offset, ["self", "tp"]),
    (consumer.Consumer._should_commit, ["self", "tp", "offset"]),
    (consumer.Consumer._filter_tps_with_pending_acks, ["self", "topics"]),
    (consumer.Consumer._clean_unacked_messages, ["self"]),
    (consumer.Consumer._wait_for_ack, ["self", "timeout"]),
    (consumer.Consumer.on_buffer_full, ["self", "tp"]),
    (consumer.Consumer.on_buffer_drop, ["self", "tp"]),
    (consumer.Consumer.on_partitions_revoked, ["self", "revoked"]),
    (consumer.Consumer.wait_empty, ["self"]),
    (consumer.Consumer.perform_seek, ["self"]),
    (consumer.Consumer.ack, ["self", "message"]),
    (QueueServiceThread.call_thread, ["self", "fun", "args", "kwargs"]),
    (driver.AIOKafkaConsumerThread.on_thread_stop, ["self"]),
    (driver.AIOKafkaConsumerThread.close, ["self"]),
    (QueueServiceThread._start_thread, ["self"]),
    (QueueServiceThread.stop, ["self"]),
    (QueueServiceThread.on_crash, ["self", "msg", "fmt", "kwargs"]),
    (QueueServiceThread.set_shutdown, ["self"]),
    (WorkerThread.__init__, ["self", "service", "kwargs"]),
    (WorkerThread.stop, ["self"]),
    (Service.wait_first, ["self", "coros", "timeout"]),
    (Schema.compile, ["self", "app", "on_key_decode_error", "on_value_decode_error", "default_propagate"]),
    (FlowControlEvent.suspend, ["self"]),
    (FlowControlEvent.clear, ["self"]),
    (GroupCoordinator.check_errors, ["self"]),
    (GroupCoordinator._perform_assignment, ["self", "response"]),
    (AIOKafkaClient.force_metadata_update, ["self"]),
    (AIOKafkaClient.send, ["self", "node_id", "request", "group"]),
    (FetchResult.check_assignment, ["self", "tp"]),
    (FetchResult.has_more, ["self"]),
    (FetchResult.calculate_backoff, ["self"]),
    (FetchError.check_raise, ["self"]),
    (ClientFetcher.seek_to, ["self", "tp", "offset"]),
    (ClientFetcher._create_fetch_waiter, ["self"]),
    (ClientFetcher._notify, ["self", "future"]),
    (SubscriptionState.is_assigned, ["self", "tp"]),
    (SubscriptionState.fetch_context, ["self"]),
    (TopicPartitionState.consumed_to, ["self", "position"]),
    (Recovery._resume_streams, ["self", "generation_id"]),
    (Recovery._wait, ["self", "coro", "timeout"]),
    (TableManager.on_start, ["self"]),
    (TableManager._update_channels, ["self"]),
]
#: Attributes, and where they are made.
ATTRIBUTES: dict[str, Any] = {
    "_unacked_messages": consumer.Consumer,
    "_committed_offset": consumer.Consumer,
    "_active_partitions": consumer.Consumer,
    "_waiting_for_ack": consumer.Consumer,
    "_thread": consumer.ThreadDelegateConsumer,
    "_assignor": driver.AIOKafkaConsumerThread,
    "_recovery": TableManager,
    "recovery": TableManager,
    "_crashed": Service,
    "_partition_assignment_strategy": AIOKafkaConsumer,
    "_fetch_max_wait_ms": AIOKafkaConsumer,
    "_max_poll_records": AIOKafkaConsumer,
    "_topics": AIOKafkaClient,
    "_closed": AIOKafkaConsumer,
    "_coordinator": AIOKafkaConsumer,
    "_pending_exception": GroupCoordinator,
    "_fetcher": AIOKafkaConsumer,
    "_fetch_waiters": ClientFetcher,
    "_fetch_min_bytes": ClientFetcher,
    "_isolation_level": AIOKafkaConsumer,
    "_client": AIOKafkaConsumer,
    "_subscription": AIOKafkaConsumer,
    "_records": ClientFetcher,
    "_subscriptions": ClientFetcher,
    "_wait_consume_future": ClientFetcher,
    "_assignment": FetchResult,
    "_consumer_record": PartitionRecords,
    "_partition_records": FetchResult,
    "_error": FetchError,
    "_position": TopicPartitionState,
    "lso": TopicPartitionState,
    "highwater": TopicPartitionState,
    "timestamp": TopicPartitionState,
    "next_fetch_offset": PartitionRecords,
    "_next_slice": _MemoryRecordsPy,
    "_cache_next": _MemoryRecordsPy,
    "next_batch": _MemoryRecordsPy,
    "has_next": _MemoryRecordsPy,
    "_buffer": _DefaultRecordBatchPy,
    "_pos": _DefaultRecordBatchPy,
    "_num_records": _DefaultRecordBatchPy,
    "_decompressed": _DefaultRecordBatchPy,
    "_maybe_uncompress": _DefaultRecordBatchPy,
    "_read_msg": _DefaultRecordBatchPy,
    # what these two do is held by test_packing.py: batches made by them are read back
    "_builder": BatchBuilder,
    "_relative_offset": BatchBuilder,
    "thread_loop": ServiceThread,
    "is_stopped": WorkerThread,
}
#: What the engine's own subclasses add.
OWN = {
    "_wait_empty",
    "_room",
    "_needs_seek",
    "_polled",
    "_check_end",
    "_batch_message",
    "_message",
    "_log_start",
    "_take",
    "_with_moved",
}
OWN |= {"_asked_ends", "_end_offsets", "_topics_watch"}
OWN |= {"_batches", "_may_hold", "_next", "_search", "_search_group"}
#: Of the standard library.
STANDARD = {"_replace", "_exit"}


def test_versions_are_the_pinned_ones() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert aiokafka.__version__ == "0.14.0"


@pytest.mark.parametrize(("method", "parameters"), METHODS, ids=lambda each: getattr(each, "__qualname__", ""))
def test_overridden_and_called_methods_are_as_expected(method: Any, parameters: list[str] | None) -> None:
    assert parameters is None or list(inspect.signature(method).parameters) == parameters


@pytest.mark.parametrize(("name", "holder"), ATTRIBUTES.items())
def test_attributes_are_still_made_where_they_were(name: str, holder: Any) -> None:
    source = inspect.getsource(holder)
    assert any(f"{form}{name}" in source for form in ("self.", "    ", "def ")), holder


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (consumer.Consumer._drain_messages, ["getmany(timeout=1.0)", "await self.sleep(0)", "callback(message)"]),
        (consumer.Consumer.force_commit, ["_filter_tps_with_pending_acks", "_commit_tps"]),
        (consumer.Consumer._filter_committable_offsets, ["_new_offset", "_should_commit"]),
        (consumer.Consumer.on_partitions_revoked, ["self._on_partitions_revoked"]),
        (consumer.Consumer.perform_seek, ["_committed_offset"]),
        (Recovery, ["if not self.tables", "self._resume_streams"]),
        (Recovery._resume_streams, ["resume_partitions", "perform_seek", "flow_control.resume()"]),
        (AIOKafkaConsumer.__init__, ["_partition_assignment_strategy", "_fetch_max_wait_ms"]),
        # both are read anew for each request
        (ClientFetcher._get_actions_per_node, ["self._fetch_max_wait_ms", "self._fetch_min_bytes"]),
        (Message.ack, ["on_final_ack"]),
        (consumer.Consumer._commit_offsets, ["self._commit(committable_offsets)"]),
        (consumer.Consumer.commit, ["maybe_wait_for_commit_to_finish", "force_commit"]),
        (consumer.Consumer._get_active_partitions, ["return tps"]),
        (ConductorCompiler.build, ["consumer_on_buffer_full", "acquire_flow_control"]),
        (driver.ConsumerRebalanceListener.on_partitions_assigned, ["consumer_generation_id = generation"]),
        (driver.AIOKafkaConsumerThread.getmany, ["self._fetch_records", "active_partitions", "_max_poll_records"]),
        # what the engine takes in its place: fetches that are kept until they are taken, partition by partition
        (ClientFetcher.fetched_records, ["self._records", "_create_fetch_waiter", "reassignment_in_progress", "getall"]),
        (FetchResult.getall, ["check_assignment", "has_more", "in self._partition_records", "_update_position"]),
        # read when the first record is asked for
        (
            PartitionRecords._unpack_records,
            [
                "records = self._records",
                "records.next_batch()",
                "for record in next_batch:",
                "if record.offset < self.next_fetch_offset:",
                "self._consumer_record(tp, record)",
                "self.next_fetch_offset = record.offset + 1",
                "self.next_fetch_offset = next_batch.next_offset",
            ],
        ),
        (FetchResult._update_position, ["consumed_to(self._partition_records.next_fetch_offset)"]),
        # nothing is fetched of a partition with a fetch that nobody has taken, whatever that is
        (ClientFetcher._get_actions_per_node, ["if tp in self._records", "record.calculate_backoff()"]),
        # responses come from the client's `send`; error codes that it does not know are repeated at once
        (
            ClientFetcher._proc_fetch_request,
            ["self._client.send(node_id, request)", "in response.topics", "lso = part_data[0]"],
        ),
        (ClientFetcher._proc_fetch_request, ["tp_state.consumed_to(tp_state.position + 1)", "Unexpected error while fetching"]),
        (AIOKafkaConsumer.start, ["self._client,", "isolation_level=self._isolation_level"]),
        (ClientFetcher._create_fetch_waiter, ["self._fetch_waiters.add"]),
        (GroupCoordinator.check_errors, ["_coordination_task", "_pending_exception"]),
        # what the leader assigns from, and that it rebalances once it knows more
        (GroupCoordinator._perform_assignment, ["assignor.assign(self._cluster,", "self._metadata_snapshot ="]),
        (GroupCoordinator._handle_metadata_update, ["self._metadata_snapshot != metadata_snapshot", "_on_metadata_change()"]),
        # cancelling a commit leaves the request under way alone
        (GroupCoordinator.commit_offsets, ["asyncio.shield"]),
        (ServiceThread.start, ["self.Worker(self)"]),
        # records that go past `append` count, and are sent, as those that went through it
        (BatchBuilder.append, ["self._builder.append(\n            self._relative_offset,\n            timestamp,", "is None"]),
        (BatchBuilder.record_count, ["return self._relative_offset"]),
        (BatchBuilder._build, ["self._builder.build()"]),
        (TableManager.on_start, ["self.sleep(1.0)", "_update_channels", "self.recovery.start()"]),
    ],
)
def test_stock_code_still_goes_the_way_the_engine_relies_on(method: object, names: list[str]) -> None:
    source = inspect.getsource(method)  # type: ignore[arg-type]
    assert [name for name in names if name not in source] == []


def test_the_other_private_names_exist() -> None:
    faust_consumer.register()
    assert TRANSPORTS.aliases[faust_consumer.SCHEME] == "worker.engine.faust_consumer:Transport"
    assert issubclass(ServiceStopped, Exception)
    assert callable(notify)
    assert hasattr(ack_lock, "__enter__")


def test_the_compiled_streams_are_there() -> None:
    """Those of plain Python acknowledge events that they skip (research/faust.md, H7); `noack` alone keeps them off."""
    importlib.import_module("faust._cython.streams")


def _is_foreign(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("faust", "mode", "aiokafka")


def _names_of(path: Path) -> Iterator[str]:
    """Foreign names that a source file overrides, and private ones that it uses on anything but its own objects."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    tree = ast.parse(path.read_text())
    of_class = {node: kind for kind in ast.walk(tree) if isinstance(kind, ast.ClassDef) for node in ast.walk(kind)}
    for node in ast.walk(tree):
        kind = getattr(module, of_class[node].name) if node in of_class else object
        bases = [base for base in kind.__mro__[1:] if _is_foreign(base)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in vars(kind):
            yield from (node.name for base in bases[:1] if any(node.name in vars(each) for each in bases))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") and not bases
            if not own:
                yield node.attr


def test_every_private_name_that_the_engine_uses_is_held_here() -> None:
    held = {method.__name__ for method, _ in METHODS} | ATTRIBUTES.keys() | OWN | STANDARD
    sources = [*(ROOT / "worker/engine").glob("*.py"), *(ROOT / "worker/stream").glob("*.py")]
    used = {path.name: sorted({*_names_of(path)} - held) for path in sources}
    assert "_getmany" in {*_names_of(ROOT / "worker/engine/faust_consumer.py")}, "the scan finds nothing"
    assert {name: names for name, names in used.items() if names} == {}
