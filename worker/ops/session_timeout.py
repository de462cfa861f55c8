"""Checks that the brokers accept the session timeout of a worker: otherwise it cannot join the consumer group."""

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from worker.kafka import open_admin
from worker.settings import ENV_PREFIX, Settings

_MIN, _MAX = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
#: The largest timeout in a request (int32).
_MAX_MS = (1 << 31) - 1


async def problems(settings: Settings) -> list[str]:
    """A line with the fix if a broker would reject the timeout.

    A broker is skipped if it cannot be reached or does not return its limits (without the right DescribeConfigs on the
    cluster): it rejects the timeout when the worker joins, before the group rebalances.

    Raises:
        aiokafka.errors.KafkaError: no broker can be reached.
    """
    shortest, longest = await _limits(settings)
    timeout = round(settings.session_timeout.total_seconds() * 1000)
    if shortest <= timeout <= longest:
        return []
    allowed = f"{shortest / 1000:g}s to {longest / 1000:g}s ({_MIN}, {_MAX})"
    return [f"{ENV_PREFIX}SESSION_TIMEOUT is {timeout / 1000:g}s and the broker allows {allowed}: set a value in that range"]


async def _limits(settings: Settings) -> tuple[int, int]:
    """The strictest limits of all brokers that return theirs, ms."""
    shortest, longest = 0, _MAX_MS
    async with open_admin(settings) as admin:
        for broker in (await admin.describe_cluster())["brokers"]:
            limits = await _limits_of(admin, str(broker["node_id"]))
            shortest, longest = max(shortest, limits.get(_MIN, 0)), min(longest, limits.get(_MAX, _MAX_MS))
    return shortest, longest


async def _limits_of(admin: AIOKafkaAdminClient, broker: str) -> dict[str, int]:
    resource = ConfigResource(ConfigResourceType.BROKER, broker, configs={_MIN: "", _MAX: ""})
    try:
        answers = await admin.describe_configs([resource])
    except KafkaError:
        return {}
    entries = [entry for answer in answers for code, *_, config in answer.resources if not code for entry in config]
    return {entry[0]: int(entry[1]) for entry in entries if entry[0] in (_MIN, _MAX) and entry[1]}
