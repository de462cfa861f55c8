"""The services of many rounds: one broker behind a proxy, three brokers when a round asks for them, a Redis per round."""

import asyncio
import contextlib
from types import TracebackType
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient

from tests.faults.schedule import Plan
from tests.integration.system import System
from tests.services import KafkaCluster, KafkaProxy

#: The cleaner looks at the changelogs twice a second instead of every 15 s.
_SETTINGS = {"log.cleaner.backoff.ms": "500"}


class Stage:
    """Starts a cluster when the first round asks for it; leaving it ends them."""

    def __init__(self) -> None:
        self._clusters: dict[int, KafkaCluster] = {}
        self._open = contextlib.ExitStack()
        self.proxy: KafkaProxy | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def cluster(self, plan: Plan) -> KafkaCluster:
        """The plan's cluster, with every broker up."""
        if plan.brokers not in self._clusters:
            cluster = KafkaCluster(plan.brokers, settings=_SETTINGS)
            if plan.brokers == 1:
                self.proxy = self._proxied(cluster)
            self._clusters[plan.brokers] = self._open.enter_context(cluster)
        cluster = self._clusters[plan.brokers]
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
