"""A slot of a Redis Cluster on its way from one master to another, step by step."""

from redis import Redis
from redis.crc import key_slot

from tests.support.services import RedisCluster, RedisServer


class MovingSlot:
    """The slot of a key, to be handed to another master."""

    def __init__(self, cluster: RedisCluster, key: str) -> None:
        self.slot = key_slot(key.encode())
        self._cluster = cluster
        self.source = owner_of(cluster, key)
        self.target = next(node for node in cluster.nodes if node is not self.source)

    def begin(self) -> None:
        """From here on the source sends whoever wants a key that it does not have to the target."""
        self._set(self.target, "IMPORTING", _id(self.source))
        self._set(self.source, "MIGRATING", _id(self.target))

    def take(self, key: str) -> None:
        """Hands one key over."""
        said = self.source.ask("MIGRATE", "127.0.0.1", str(self.target.port), key, "0", "5000")
        assert said == "+OK", said

    def finish(self) -> None:
        """Hands over what is left; the target is the slot's master then."""
        while int(self.source.ask("CLUSTER", "COUNTKEYSINSLOT", str(self.slot))[1:]):
            for key in self._keys():
                self.take(key)
        for node in (self.target, self.source, *self._cluster.nodes):
            self._set(node, "NODE", _id(self.target))

    def _keys(self) -> list[str]:
        with Redis.from_url(self.source.url) as client:
            return list(client.execute_command("CLUSTER GETKEYSINSLOT", self.slot, 1000))

    def _set(self, node: RedisServer, *what: str) -> None:
        said = node.ask("CLUSTER", "SETSLOT", str(self.slot), *what)
        assert said == "+OK", said


def owner_of(cluster: RedisCluster, key: str) -> RedisServer:
    """The master that has the key's slot now."""
    return next(node for node in cluster.nodes if not node.ask("EXISTS", key).startswith(("-MOVED", "-ASK")))


def _id(node: RedisServer) -> str:
    return node.ask("CLUSTER", "MYID")
