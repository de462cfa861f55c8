"""The first released format, restored from a snapshot: its own programs serve it as they did."""

from pathlib import Path

from tests.support.first_release.programs import FirstRelease
from tests.support.first_release.reading import all_attendances
from tests.support.first_release.snapshot import Restored, read, until_idle
from tests.support.services import Broker, RedisServer


def test_the_first_release_serves_its_snapshot(kafka: Broker, own_redis: RedisServer, tmp_path: Path) -> None:
    release, snapshot = FirstRelease(tmp_path), read()
    with Restored(kafka, own_redis, snapshot) as system:
        release.start_worker(system)
        until_idle(system)
        with release.api(system) as api:
            assert all_attendances(api) == snapshot.served
            system.publish_later(slice(50))
            until_idle(system)
            assert len(all_attendances(api)) > len(snapshot.served)
