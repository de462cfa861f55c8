"""The guide's programs as processes, installed and run by the commands of the guide."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from tests.guide.document import ROOT, commands, run_command
from tests.support.programs import Program
from tests.support.services.processes import die_with_parent, tail_of_file, wait_until


class Language(NamedTuple):
    """A language of the guide: its heading, and the files that its section names."""

    heading: str
    sources: Sequence[str]

    @property
    def folder(self) -> Path:
        return ROOT / "schemas/guide" / self.heading.lower()

    def program(self) -> Program:
        """Python's libraries are those of the tests, and a shell has none."""
        install = [block.strip() for block in commands(self.heading)[:-1]] if self.heading not in ("Python", "Shell") else []
        sources = [self.folder / name for name in self.sources]
        return Program(f"kiosk-{self.folder.name}", sources, install[:1], install[1:])


LANGUAGES = {
    each.heading: each
    for each in (
        Language("Python", ["kiosk.py"]),
        Language("JavaScript", ["package.json", "package-lock.json", "kiosk.js"]),
        Language("Java", ["pom.xml", "Kiosk.java"]),
        Language("Go", ["go.mod", "go.sum", "main.go"]),
        Language("Shell", ["kiosk.sh"]),
    )
}


class Kiosk:
    """A program that runs. Use as a context manager: leaving it kills the program."""

    def __init__(self, language: Language, place: Path, spool: Path, *before: str, **variables: object) -> None:
        """``place`` is the folder of the installed program; ``before`` a command that runs it."""
        self.spool = spool
        self._out, self._err = spool.with_suffix(".out"), spool.with_suffix(".err")
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **{name: str(value) for name, value in variables.items()},
        }
        command = [*before, *run_command(language.heading, spool)]
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=place,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def scan(self, *lines: str) -> None:
        assert self._process.stdin
        self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self._process.stdin.flush()

    def end_input(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()

    def kill(self) -> None:
        """SIGKILL to the program and to those that it started, as a machine that loses its power."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def terminate(self, timeout: float) -> int:
        """SIGTERM to the program alone; its exit code."""
        self._process.terminate()
        return self._process.wait(timeout)

    def wait(self, timeout: float) -> int:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runs after {timeout} s, with {self.waiting()}\n{self.errors()}") from None

    def taken(self) -> list[str]:
        """The ids of the scans that were reported as taken, by all runs on this spool."""
        lines = self._out.read_text().split("\n")[:-1]  # a kill may have cut the last one
        assert all(line.startswith("taken ") for line in lines), lines
        return [line.removeprefix("taken ") for line in lines]

    def until_taken(self, number: int) -> None:
        self.until(lambda: len(self.taken()) >= number, f"{number} scans taken")

    def errors(self) -> str:
        return tail_of_file(self._err, 1000)

    def waiting(self) -> list[str]:
        """Names of the spooled events."""
        return sorted(path.name for path in self.spool.glob("*.json"))

    def spooled(self) -> set[bytes]:
        """The spooled events of a program that sends nothing now."""
        return {path.read_bytes() for path in self.spool.glob("*.json")}

    def seen_from_inside(self, pattern: str) -> list[Path]:
        """Files of the spool as the program sees it, where it has a disk of its own there."""
        return sorted(Path(f"/proc/{self._process.pid}/root{self.spool}").glob(pattern))

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        assert wait_until(condition, timeout), f"not {what}; taken: {len(self.taken())}; {self.waiting()}\n{self.errors()}"
