"""A running `attendance api` beside a tenant's worker, and requests to it."""

import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prometheus_client.parser import text_string_to_metric_families

from schemas.attendance import attendance_id, guid
from schemas.times import format_exact_time
from tests.support.services import Broker, Redis
from tests.support.services.processes import wait_until
from tests.support.system import System, WorkerProcess, running
from worker.web.auth import Scope, create_token

API = (sys.executable, "-m", "worker", "api")
MINUTE = 60_000_000


class Api:
    """One `attendance api` with its own tokens; use as a context manager."""

    def __init__(
        self,
        system: System,
        folder: Path,
        *arguments: str,
        tokens: bool = True,
        command: Sequence[str] = API,
        **environment: str,
    ) -> None:
        self.system = system
        self.tokens: dict[str, str] = {}
        given = {**system.environment, "ATTENDANCE_API_BIND": "127.0.0.1:0", **environment}
        self.tokens_file = folder / f"tokens-{uuid4().hex[:8]}.json"
        if tokens:
            given["ATTENDANCE_API_TOKENS"] = str(self.tokens_file)
            for name, scopes in (("all", list(Scope)), *((str(scope), [scope]) for scope in Scope)):
                self.tokens[name] = create_token(self.tokens_file, scopes, name, None, time.time())
        self._command, self._environment = (*command, *arguments), {**os.environ, **given}
        self._folder = folder
        self.process = self._start()
        self.client = httpx.Client()

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self._command, self._environment, self._folder / f"api-{uuid4().hex[:8]}.log")

    def stop(self) -> None:
        """Ends the process; `start` starts another one at the same address, with the same tokens."""
        self._environment["ATTENDANCE_API_BIND"] = "{}:{}".format(*self.address)
        assert self.process.terminate() == 0

    def start(self) -> None:
        """Starts a process after `stop`."""
        self.process = self._start()
        assert wait_until(self._serves, 30), self.process.said()

    def __enter__(self) -> "Api":
        try:
            assert wait_until(self._serves, 30), self.process.said()
        except BaseException:
            self.__exit__()
            raise
        self.client = self.client_of("all")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.kill()

    @property
    def url(self) -> str:
        found = re.search(r"address=(http://\S+)", self.process.said())
        return found[1] if found else ""

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def _serves(self) -> bool:
        if not self.process.running:
            return True
        with contextlib.suppress(httpx.HTTPError):
            return bool(self.url) and httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200
        return False

    def client_of(self, token: str) -> httpx.Client:
        """A client with one of the tokens: all, read, manage or publish."""
        headers = {"authorization": f"Bearer {self.tokens[token]}"} if self.tokens else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def set(self, booking: str, session: str, status: str, number: int | None = None, **more: Any) -> httpx.Response:
        attendance: dict[str, Any] = {"bookingId": booking, "sessionId": session, "status": status}
        if number is not None:
            attendance["numberOfAttendees"] = number
        return self.client.post("/bookings/v2/attendance/set", json={"attendance": attendance, **more})

    def get(self, booking: str, session: str) -> httpx.Response:
        return self.client.get(f"/bookings/v2/attendance/{identity(booking, session)}")

    def delete(self, booking: str, session: str) -> httpx.Response:
        return self.client.delete(f"/bookings/v2/attendance/{identity(booking, session)}")

    def query(self, **query: Any) -> httpx.Response:
        return self.client.post("/bookings/v2/attendance/query", json={"query": query})

    def gauges(self) -> dict[tuple[str, ...], float]:
        """What `/metrics` says of the partitions: values by name and label values."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        assert len({(each.name, *each.labels.items()) for each in samples}) == len(samples), "each series once"
        return {(e.name, *e.labels.values()): e.value for e in samples if not e.name.startswith("attendance_api_")}

    def raw(self, *parts: bytes, timeout: float = 20) -> bytes:
        """What the server says to these bytes until it closes the connection, or has been silent for a while."""
        with socket.create_connection(self.address, timeout) as connection:
            for part in parts:
                connection.sendall(part)
            said = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while more := connection.recv(65536):
                    said += more
            return said


def identity(booking: str, session: str) -> str:
    return guid(attendance_id(booking, session))


def booking_name() -> str:
    """A booking that no other test has."""
    return f"BK-{uuid4().hex[:12]}"


def event(kind: str, booking: str, session: str, at: int | None = None, **data: Any) -> dict[str, Any]:
    """A device's event; ``at`` in microseconds, now where left out."""
    moment = time.time_ns() // 1000 if at is None else at
    said = {"bookingId": booking, "sessionId": session, **data}
    return {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/devices/kiosk-7",
        "type": f"attendance.{kind}",
        "time": format_exact_time(moment),
        "data": said,
    }


def upserted(booking: str, participants: int, sessions: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The booking system's record of a booking."""
    document = event("x", booking, "", numberOfParticipants=participants, sessions=list(sessions), **more)
    del document["data"]["sessionId"]
    return {**document, "type": "booking.upserted", "source": "/bookings"}


@contextlib.contextmanager
def served(kafka: Broker, redis: Redis, folder: Path, **settings: Any) -> Iterator[Api]:
    """A tenant with a worker and an API."""
    with running(System(kafka, redis, **settings)) as system, Api(system, folder) as api:
        yield api
