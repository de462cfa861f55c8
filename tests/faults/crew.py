"""The workers of a round, in slots with a store folder each, and the supervisor that starts again what ended by itself."""

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from tests.faults.schedule import MAX_WORKERS
from tests.support.system import WORKER, System, WorkerProcess

#: Where workers keep their tables: each slot has a folder, which outlives its worker.
STORE = "rocksdb://{folder}"
#: A worker with small batches and small chunks.
BUSY = (sys.executable, "-m", "tests.support.dying_worker", "never", "any", "0")
#: How long a worker may take to end after SIGTERM, seconds.
_GRACE = 30.0


class Crew:
    """Up to four workers. `ended` tells of those that ended by themselves, `faulty` of SIGTERMs that were not obeyed."""

    def __init__(self, system: System, broker_url: str, *, small_batches: bool, cores: Sequence[str]) -> None:
        """
        Args:
            cores: with which workers fold: one after the other takes the next, and the first after the last.
        """
        self.ended: list[str] = []
        self.faulty: list[str] = []
        self._system = system
        self._command = BUSY if small_batches else WORKER
        self._broker = broker_url
        self._cores = cycle(cores)
        self._folder = Path(tempfile.mkdtemp(prefix="attendance-stores-"))
        self._slots: dict[int, WorkerProcess] = {}
        self._leaving: list[tuple[int, WorkerProcess, float]] = []
        self._stopped: set[int] = set()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def living(self) -> list[int]:
        """Slots whose worker should run and is not stopped."""
        return sorted(self._slots.keys() - self._stopped)

    @property
    def size(self) -> int:
        return len(self._slots)

    def free_slot(self) -> int | None:
        taken = {*self._slots, *(slot for slot, *_ in self._leaving)}
        return next((slot for slot in range(MAX_WORKERS) if slot not in taken), None)

    @property
    def working(self) -> list[int]:
        """Those of the living that hold partitions, as far as they have said."""
        return [slot for slot in self.living if "event=recovered" in self._slots[slot].said()]

    def choose(self, target: int) -> int | None:
        """A living worker's slot, of those that work if any does."""
        some = self.working or self.living
        return some[target % len(some)] if some else None

    def start(self, slot: int) -> None:
        """Starts a worker in a slot, once the one before has ended there."""
        while any(each == slot for each, *_ in self._leaving):
            self.supervise()
            time.sleep(0.05)
        if slot not in self._slots:
            store = STORE.format(folder=self._folder / f"slot-{slot}")
            environment = {"ATTENDANCE_STORE": store, "ATTENDANCE_BROKER": self._broker, "ATTENDANCE_CORE": next(self._cores)}
            self._slots[slot] = self._system.start_worker(self._command, **environment)

    def kill(self, slot: int) -> None:
        """SIGKILL; a stopped worker dies too."""
        if slot in self._slots:
            self._stopped.discard(slot)
            self._slots.pop(slot).kill()

    def lose_folder(self, slot: int) -> None:
        shutil.rmtree(self._folder / f"slot-{slot}", ignore_errors=True)

    def lose_everything(self) -> None:
        """SIGKILL to all, and no folder is left, those of slots without a worker included."""
        for slot in list(self._slots):
            self.kill(slot)
        for slot in range(MAX_WORKERS):
            self.lose_folder(slot)

    def terminate(self, slot: int) -> None:
        """SIGTERM; `supervise` sees to it that it ends."""
        if slot in self._slots:
            worker = self._slots.pop(slot)
            worker.signal(signal.SIGTERM)
            self._leaving.append((slot, worker, time.monotonic() + _GRACE))

    def stop(self, slot: int) -> None:
        """SIGSTOP."""
        self._slots[slot].signal(signal.SIGSTOP)
        self._stopped.add(slot)

    def go_on(self, slot: int) -> None:
        """SIGCONT, where the worker was not killed meanwhile."""
        if slot in self._stopped:
            self._stopped.discard(slot)
            self._slots[slot].signal(signal.SIGCONT)

    def supervise(self) -> None:
        """Starts again what ended by itself; ends what does not obey SIGTERM."""
        for slot, worker, deadline in list(self._leaving):
            if worker.running and time.monotonic() < deadline:
                continue
            self._leaving.remove((slot, worker, deadline))
            code = None if worker.running else worker.wait(0)
            # one that was only starting dies of the signal, or of the service that it did not find
            began = "event=assigned" in worker.said()
            if code != 0 and (began or code not in (1, -signal.SIGTERM)):
                worker.kill()
                self.faulty.append(f"worker in slot {slot} after SIGTERM: exit code {code}\n{worker.said()}")
        for slot, worker in list(self._slots.items()):
            if not worker.running:
                self.ended.append(f"worker in slot {slot} ended by itself: exit code {worker.wait(0)}\n{worker.said()}")
                self._stopped.discard(slot)
                del self._slots[slot]
                self.start(slot)

    @property
    def settled(self) -> bool:
        """Whether nobody is on the way out."""
        return not self._leaving

    def logs(self, lines: int = 25) -> str:
        """The last lines of every worker there was."""
        tails = ["\n".join(worker.said().splitlines()[-lines:]) for worker in self._system.workers]
        return "\n".join(f"--- worker {number}\n{tail}" for number, tail in enumerate(tails))
