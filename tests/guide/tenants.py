"""Addresses of the broker and of the API at which nobody listens until a test opens them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.support.services import KafkaCluster, KafkaProxy
from tests.support.services.ports import ReservedPort
from tests.support.serving import Api
from tests.support.system import System
from worker.web.auth import Scope, create_token


class BrokerDoor:
    """The broker, by a listener that advertises a proxy: who comes in here never learns another address."""

    def __init__(self, kafka: KafkaCluster) -> None:
        """Before the broker starts."""
        self._proxy = KafkaProxy()
        self._proxy.target = kafka.nodes[0].advertise(self._proxy.port)
        self.address = self._proxy.url.removeprefix("kafka://")

    def open(self) -> None:
        self._proxy.start()

    def close(self) -> None:
        self._proxy.close()


class ApiDoor:
    """The API, which starts when it is opened, and a token to publish."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system, self._folder = system, folder
        self._port = ReservedPort()
        self._api = contextlib.ExitStack()
        self.url = f"http://{self._port.address}"
        self.tokens = folder / f"tokens-{self._port.number}.json"
        self.token = create_token(self.tokens, [Scope.PUBLISH], "kiosk", None, time.time())

    def open(self) -> None:
        variables = {"ATTENDANCE_API_BIND": self._port.address, "ATTENDANCE_API_TOKENS": str(self.tokens)}
        self._api.enter_context(Api(self._system, self._folder, tokens=False, **variables))

    def close(self) -> None:
        self._api.close()
        self._port.release()
