"""A tenant with workers and an API, which a Prometheus scrapes whose rules have shortened durations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.support.prometheus import ROOT, Alert, Prometheus, deployed_alerts
from tests.support.services import Broker, Redis
from tests.support.services.ports import ReservedPort
from tests.support.services.processes import wait_until
from tests.support.serving import Api
from tests.support.system import WORKER, System, WorkerProcess

RUNBOOK = "deploy/README.md"
Program = Callable[[str, str], Path]
#: An hour is two minutes, the minute of the objective 2 s; Prometheus scrapes twice a second.
FACTOR = 30
LATE = {"AttendanceFreshnessBurnFast", "AttendanceFreshnessBurnSlow"}
"""May fire beside every cause that keeps readers from seeing new events."""


class Observed:
    """A tenant with workers and an API, and the Prometheus that scrapes them."""

    def __init__(
        self, system: System, api: Api, workers: list[tuple[WorkerProcess, ReservedPort]], prometheus: Prometheus
    ) -> None:
        self.system, self.api, self.workers, self.prometheus = system, api, workers, prometheus

    @property
    def worker(self) -> WorkerProcess:
        return self.workers[-1][0]

    def restart_worker(self, command: Sequence[str] = WORKER) -> None:
        """Another worker at the port of the last one, as a supervisor would start it."""
        _, port = self.workers[-1]
        self.workers[-1] = (self.system.start_worker(command, ATTENDANCE_METRICS_BIND=port.address), port)

    def until_firing(self, name: str, timeout: float) -> Alert:
        """Waits for an alert; its annotations name its section of the runbook and have no empty value."""
        assert wait_until(lambda: name in self.names(), timeout, step=0.2), self.described(name)
        (alert, *_) = [each for each in self.prometheus.firing() if each.name == name]
        assert alert.annotations["runbook"] == f"{RUNBOOK}#{name.lower()}"
        assert f"\n#### {name}\n" in (ROOT / RUNBOOK).read_text()
        assert {"summary", "description"} < alert.annotations.keys()
        assert "<no value>" not in " ".join(alert.annotations.values())
        return alert

    def until_quiet(self, timeout: float, *, beside: set[str] = LATE) -> None:
        """Waits until no alert fires but these."""
        assert wait_until(lambda: self.names() <= beside, timeout, step=0.2), self.described("none")

    def names(self) -> set[str]:
        return {each.name for each in self.prometheus.firing()}

    def others(self, *expected: str) -> set[str]:
        """Alerts that fired at some time and are none of these."""
        return self.prometheus.have_fired() - {*expected} - LATE

    def described(self, name: str) -> str:
        alerts = [(each["labels"]["alertname"], each["state"]) for each in self.prometheus.ask("alerts")["alerts"]]
        expression = deployed_alerts().get(name, {"expr": "up"})["expr"]
        logs = "\n".join(worker.said()[-3000:] for worker, _ in self.workers)
        return f"expected {name}, seen {alerts}\nup: {self.prometheus.query('up')}\n{expression}\n{logs}"


@contextmanager
def observed(
    kafka: Broker,
    redis: Redis,
    folder: Path,
    program: Program,
    *,
    workers: int = 1,
    command: Sequence[str] = WORKER,
    factor: int = FACTOR,
) -> Iterator[Observed]:
    path = program("prometheus", "prometheus")
    with ExitStack() as stack:
        system = stack.enter_context(System(kafka, redis))
        started = []
        for _ in range(workers):
            port = ReservedPort()
            stack.callback(port.release)
            started.append((system.start_worker(command, ATTENDANCE_METRICS_BIND=port.address), port))
        system.until_serving()
        api = stack.enter_context(Api(system, folder))
        host, number = api.address
        targets = {"attendance-api": [f"{host}:{number}"], "attendance-worker": [port.address for _, port in started]}
        prometheus = stack.enter_context(closing(Prometheus(path, targets, factor)))
        prometheus.start()
        found = Observed(system, api, started, prometheus)
        # it takes up its targets seconds after its start: without them, all is absent
        up = f"count(up == 1) == {workers + 1}"
        assert wait_until(lambda: bool(prometheus.query(up)) and not found.names(), 30), found.described("none")
        prometheus.forget()
        yield found
