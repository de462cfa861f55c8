"""`attendance …` of the first release, from its archive, with today's interpreter and libraries."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.first_release import DATA
from tests.support.serving import Api
from tests.support.system import System, WorkerProcess

#: Without the current folder on the path, which has the code of today.
ATTENDANCE = (sys.executable, "-P", "-m", "worker")


class FirstRelease:
    """Starts processes of the first release for a tenant. What it starts is ended with the tenant's workers."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the code is unpacked there.
        """
        self._folder = folder
        self.environment = {"PYTHONPATH": str(folder / "code")}
        with zipfile.ZipFile(DATA / "code.zip") as archive:
            archive.extractall(folder / "code")

    def start_worker(self, system: System) -> WorkerProcess:
        """One worker; its tables are not those of a worker of today."""
        store = f"rocksdb://{self._folder}/rows"
        return system.start_worker((*ATTENDANCE, "worker"), **self.environment, ATTENDANCE_STORE=store)

    def api(self, system: System) -> Api:
        """An API for this machine, without tokens; use as a context manager."""
        return Api(system, self._folder, tokens=False, command=(*ATTENDANCE, "api"), **self.environment)

    def run(self, system: System, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command that ends by itself, with its output."""
        environment: Mapping[str, str] = {**system.environment, **self.environment}
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), *ATTENDANCE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
