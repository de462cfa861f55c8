"""Whether the brokers take the session timeout of a worker: one that they refuse never gets into the group."""

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from worker.settings import ENV_PREFIX, Settings

_LEAST, _MOST = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
#: What a request can carry.
_MOST_MS = (1 << 31) - 1
_ASK_MS = 5_000


async def problems(settings: Settings) -> list[str]:
    """A line with the cure where a broker would refuse it.

    A broker that is away, or does not say its limits (the right DescribeConfigs of the cluster is lacking), is passed over:
    it refuses when the worker joins, before anybody rebalances.

    Raises:
        aiokafka.errors.KafkaError: no broker can be reached.
    """
    least, most = await _limits(settings)
    found = round(settings.session_timeout.total_seconds() * 1000)
    if least <= found <= most:
        return []
    allowed = f"{least / 1000:g}s to {most / 1000:g}s ({_LEAST}, {_MOST})"
    return [f"{ENV_PREFIX}SESSION_TIMEOUT is {found / 1000:g}s and the broker allows {allowed}: set one of those"]


async def _limits(settings: Settings) -> tuple[int, int]:
    """The strictest limits of all brokers that say theirs, ms."""
    least, most = 0, _MOST_MS
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=_ASK_MS)
    try:
        await admin.start()
        for broker in (await admin.describe_cluster())["brokers"]:
            limits = await _limits_of(admin, str(broker["node_id"]))
            least, most = max(least, limits.get(_LEAST, 0)), min(most, limits.get(_MOST, _MOST_MS))
    finally:
        await admin.close()
    return least, most


async def _limits_of(admin: AIOKafkaAdminClient, broker: str) -> dict[str, int]:
    asked = ConfigResource(ConfigResourceType.BROKER, broker, configs={_LEAST: "", _MOST: ""})
    try:
        answers = await admin.describe_configs([asked])
    except KafkaError:
        return {}
    entries = [entry for answer in answers for code, *_, found in answer.resources if not code for entry in found]
    return {entry[0]: int(entry[1]) for entry in entries if entry[0] in (_LEAST, _MOST) and entry[1]}
