"""A Redis user that lacks a right a worker needs is told so, of one server and of each master of a cluster."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.services import RedisCluster, RedisServer
from worker.ops import doctor
from worker.ops.doctor import Finding
from worker.read_model import rights
from worker.settings import Settings

BASE = "rights"
#: The rights that deploy/README.md lists.
ENOUGH = (f"~{BASE}:*", "+@all", "-@dangerous", "+info")
SCRIPTS = ("apply", "heartbeat", "claim", "identity", "repair", "retire")


def found(redis: str, partitions: int = 4) -> Finding:
    settings = Settings(_env_file=None, redis=redis, topic_prefix=BASE, partitions=partitions)  # type: ignore[call-arg]
    findings = asyncio.run(doctor.examine_redis(settings))
    return next((each for each in findings if not each.ok), findings[-1])


def user(server: RedisServer, name: str, *rules: str) -> str:
    assert server.ask("ACL", "SETUSER", name, "reset", "on", ">pw", *rules) == "+OK"
    return f"redis://{name}:pw@{server.address}/0"


def test_every_command_of_the_scripts_that_write_is_tried() -> None:
    folder = Path(rights.__file__).parent / "lua"
    used = {name for script in SCRIPTS for name in re.findall(r"call\('([A-Z]+)'", (folder / f"{script}.lua").read_text())}
    assert used <= {words[0] for words in rights.trials("key")}


def test_a_user_with_just_the_rights_needed_is_enough(own_redis: RedisServer) -> None:
    own_redis.ask("SCRIPT", "FLUSH")
    finding = found(user(own_redis, "enough", *ENOUGH))
    assert finding.ok, finding
    assert own_redis.ask("DBSIZE") == ":0"


@pytest.mark.parametrize(
    "rule",
    ["-zadd", "-hset", "-unlink", "-eval", "-evalsha", "-hsetnx", "-multi", "-watch", "-info", "-time", "resetkeys ~other:*"],
)
def test_a_right_that_is_lacking_is_named(own_redis: RedisServer, rule: str) -> None:
    finding = found(user(own_redis, "few", *ENOUGH, *rule.split()))
    assert not finding.ok
    assert finding.detail.startswith("ATTENDANCE_REDIS: ")
    assert "the user lacks a right" in finding.detail
    if rule.startswith("-"):
        assert rule[1:] in finding.detail.lower()
    assert own_redis.ask("DBSIZE") == ":0"


def test_each_master_of_a_cluster_is_asked(redis_cluster: RedisCluster) -> None:
    for node in redis_cluster.nodes:
        user(node, "node", *ENOUGH)
    url = redis_cluster.url.replace("redis+cluster://", "redis+cluster://node:pw@")
    assert found(url, 64).ok
    for node in redis_cluster.nodes:
        user(node, "node", *ENOUGH, "-zadd")
        assert "ZADD" in found(url, 64).detail
        user(node, "node", *ENOUGH)


def test_a_full_redis_lacks_no_right(own_redis: RedisServer) -> None:
    """It is waited for, as one that is away."""
    own_redis.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        finding = found(own_redis.url)
        assert finding.what == "redis"
        assert "memory" in finding.detail
    finally:
        own_redis.ask("CONFIG", "SET", "maxmemory", "0")
