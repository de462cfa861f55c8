"""Services that somebody else runs and the environment names."""

from __future__ import annotations

import socket
from typing import NoReturn
from urllib.parse import urlsplit

from .errors import ServiceNotOurs, ServiceStartFailed
from .processes import wait_until

_REACH_TIMEOUT_S = 10.0


class _GivenService:
    """Reached, not owned: start() only checks that it answers, and every fault raises ServiceNotOurs."""

    def __init__(self, name: str, addresses: list[tuple[str, int]]) -> None:
        self.name = name
        self._addresses = addresses

    @property
    def owned(self) -> bool:
        return False

    def start(self) -> None:
        """Wait up to 10 s until an address takes connections. Raises ServiceStartFailed."""
        if not wait_until(lambda: any(_takes_connections(*at) for at in self._addresses), _REACH_TIMEOUT_S):
            where = ", ".join(f"{host}:{port}" for host, port in self._addresses)
            raise ServiceStartFailed(f"the given {self.name} does not answer at {where}")

    def close(self) -> None:
        """Nothing: it goes on after the tests."""

    def stop(self) -> None:
        self._refuse("stop")

    def kill(self) -> None:
        self._refuse("kill")

    def pause(self) -> None:
        self._refuse("pause")

    def resume(self) -> None:
        self._refuse("resume")

    def restart(self) -> None:
        self._refuse("restart")

    def log_tail(self, lines: int = 40) -> str:
        return f"(the last {lines} lines of the given {self.name}'s log are with whoever runs it)"

    def _refuse(self, fault: str) -> NoReturn:
        raise ServiceNotOurs(f"{fault}: the {self.name} was given to the tests, they may not touch it")


class GivenBroker(_GivenService):
    """The broker of ATTENDANCE_TEST_BROKER: `host:port` or `kafka://host:port`, several joined by commas or semicolons.

    Raises ValueError for anything else.
    """

    def __init__(self, text: str) -> None:
        parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
        super().__init__("broker", [_address(part if "://" in part else f"kafka://{part}", "kafka") for part in parts])

    @property
    def bootstrap(self) -> str:
        return ",".join(_written(at) for at in self._addresses)

    @property
    def url(self) -> str:
        return ";".join(f"kafka://{_written(at)}" for at in self._addresses)


class GivenRedis(_GivenService):
    """The Redis of ATTENDANCE_TEST_REDIS: a `redis://` or `rediss://` URL. Raises ValueError for anything else."""

    def __init__(self, url: str) -> None:
        super().__init__("redis", [_address(url, "redis", "rediss", default_port=6379)])
        self.url = url


def _address(url: str, *schemes: str, default_port: int | None = None) -> tuple[str, int]:
    parts = urlsplit(url)
    port = parts.port or default_port
    if parts.scheme not in schemes or not parts.hostname or port is None:
        raise ValueError(f"{url!r} is not of the form {schemes[0]}://host:port")
    return parts.hostname, port


def _written(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _takes_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1.0):
            return True
    except OSError:
        return False
