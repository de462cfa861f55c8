"""`make screens`: pictures of the screen for the README, of simulated events on an `attendance dev` of its own."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.screen.stage import path_of
from tests.screen.visiting import is_live
from tests.support.browser import Chromium
from tests.support.services.debian import debian_program
from tests.support.services.processes import tail_of_file, wait_until
from tests.support.system import ROOT
from worker.ops.scenarios import ScenarioName

FOLDER = ROOT / "deploy/screens"
#: The rush is played so much faster, and shown after so many seconds.
_RUSH_SPEED, _RUSH_SECONDS = 2.5, 150
_PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "now-wall-dark": (path_of("now"), {"size": (1920, 1080), "scheme": "dark"}),
    "session-light": (path_of("session", id="concert-rush-1"), {"size": (1280, 900)}),
    "alerts-phone": (path_of("alerts"), {"size": (360, 740), "pixels": 2}),
}


def main() -> None:
    """Takes them all, which takes three minutes."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attendance-screens-") as folder, running(Path(folder)) as (url, environment):
        command = [sys.executable, "-m", "worker", "simulate"]
        scanner = [*command, ScenarioName.BROKEN_SCANNER, "--speed", "60"]
        subprocess.run(scanner, env=environment, cwd=ROOT, check=True, timeout=120)
        rush = [*command, ScenarioName.RUSH, "--speed", str(_RUSH_SPEED)]
        with subprocess.Popen(rush, env=environment, cwd=ROOT) as playing:
            try:
                take(url)
            finally:
                playing.kill()


def take(url: str) -> None:
    """Takes the pictures of a running API."""
    with Chromium(debian_program("chromium", "chromium")) as chromium:
        for number, (name, (path, display)) in enumerate(_PICTURES.items()):
            with chromium.visit(url, **display) as visit:
                page = visit.open(path)
                page.wait_for_timeout(_RUSH_SECONDS * 1000 if number == 0 else 1000)
                is_live(page)
                file = FOLDER / f"{name}.png"
                page.screenshot(path=file)
                print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """An `attendance dev`: the address of its screen, and the environment in which commands find it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTENDANCE_")}
    environment = {**kept, "TMPDIR": str(folder)}
    log = folder / "dev.log"
    with (
        log.open("wb") as sink,
        subprocess.Popen([sys.executable, "-m", "worker", "dev"], env=environment, cwd=ROOT, stderr=sink) as dev,
    ):
        try:
            assert wait_until(lambda: "ready after" in log.read_text() or dev.poll() is not None, 60), tail_of_file(log, 20)
            yield re.findall(r"screen and API on (\S+)", log.read_text())[0], environment
        finally:
            dev.terminate()


if __name__ == "__main__":
    main()
