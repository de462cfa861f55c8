"""The services of many rounds: one broker behind a proxy, or three where a round asks for them; a Redis per round."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient

from tests.faults.schedule import Plan
from tests.support.services import KafkaCluster, KafkaProxy
from tests.support.system import System

#: The cleaner looks at the changelogs twice a second instead of every 15 s.
_SETTINGS = {"log.cleaner.backoff.ms": "500"}


class Stage:
    """Starts a cluster when a round asks for it, which then serves the rounds that ask for the same; leaving it ends it.

    One cluster at a time: three brokers that nobody uses cost a third of a core.
    """

    def __init__(self) -> None:
        self._cluster: KafkaCluster | None = None
        self._open = contextlib.ExitStack()
        self.proxy: KafkaProxy | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def cluster(self, plan: Plan) -> KafkaCluster:
        """The plan's cluster, with every broker up."""
        cluster = self._cluster
        if cluster is None or len(cluster.nodes) != plan.brokers:
            self._open.close()
            self._cluster = self.proxy = None
            cluster = KafkaCluster(plan.brokers, settings=_SETTINGS)
            if plan.brokers == 1:
                self.proxy = self._proxied(cluster)
            self._cluster = self._open.enter_context(cluster)
        for node in cluster.nodes:
            if not node.running:
                node.start()
        return cluster

    def _proxied(self, cluster: KafkaCluster) -> KafkaProxy:
        # the broker's own port for the proxy must be known before the proxy's: two reservations that name each other
        proxy = KafkaProxy()
        proxy.target = cluster.nodes[0].advertise(proxy.port)
        return self._open.enter_context(proxy)


def delete_topics(system: System) -> None:
    """A broker with the topics of fifty rounds would be slow to restart."""

    async def deleting() -> None:
        admin: Any = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            await admin.delete_topics(list(system.topics))
        finally:
            await admin.close()

    asyncio.run(deleting())
