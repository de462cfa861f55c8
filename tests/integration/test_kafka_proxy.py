"""The proxy leads clients of its listener through itself, and holds back the answers to OffsetFetch alone."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.support.services import KafkaCluster, KafkaProxy
from tests.support.services.records import create_topic


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[KafkaCluster, KafkaProxy]]:
    with contextlib.ExitStack() as stack:
        cluster, proxy = KafkaCluster(), KafkaProxy()
        proxy.target = cluster.nodes[0].advertise(proxy.port)
        stack.enter_context(cluster)
        yield cluster, stack.enter_context(proxy)


def test_offsets_wait_while_everything_else_goes_on(proxied: tuple[KafkaCluster, KafkaProxy]) -> None:
    cluster, proxy = proxied
    topic = create_topic(cluster.bootstrap)
    tp = TopicPartition(topic, 0)

    async def scenario() -> None:
        through = f"127.0.0.1:{proxy.port}"
        group = {"group_id": topic, "enable_auto_commit": False}
        async with (
            AIOKafkaProducer(bootstrap_servers=through) as producer,
            AIOKafkaConsumer(bootstrap_servers=through, **group) as writer,
            AIOKafkaConsumer(bootstrap_servers=through, **group) as reader,
        ):
            # A position of its own for each: without one, each asks for the committed offset by itself at some
            # later moment, and the proxy delays that request and what waits behind it on the same connection.
            for consumer in (writer, reader):
                consumer.assign([tp])
                consumer.seek(tp, 0)
            await writer.commit({tp: 1})
            assert await reader.committed(tp) == 1
            assert proxy.delayed == 0
            proxy.delay = 60.0
            asking = asyncio.create_task(reader.committed(tp))
            while not proxy.delayed:  # noqa: ASYNC110 - the proxy is in another thread
                await asyncio.sleep(0.01)
            await producer.send_and_wait(topic, b"1")
            await writer.commit({tp: 2})
            assert not asking.done()
            proxy.released = True
            assert await asking == 1, "what the broker said before the second commit"
            proxy.delay, proxy.released = 0.0, False
            assert await reader.committed(tp) == 2

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_clients_are_led_through_the_proxy(proxied: tuple[KafkaCluster, KafkaProxy]) -> None:
    cluster, proxy = proxied

    async def brokers(bootstrap: str) -> set[int]:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            await producer.client.force_metadata_update()
            return {broker.port for broker in producer.client.cluster.brokers()}

    assert asyncio.run(brokers(f"127.0.0.1:{proxy.port}")) == {proxy.port}
    assert asyncio.run(brokers(cluster.bootstrap)) == {cluster.nodes[0].port}


def test_a_broker_that_is_away_is_a_closed_connection() -> None:
    async def scenario() -> bytes:
        with KafkaProxy(target=1) as proxy:
            stream, out = await asyncio.open_connection("127.0.0.1", proxy.port)
            with contextlib.closing(out):
                return await asyncio.wait_for(stream.read(), 10)

    assert asyncio.run(scenario()) == b""
