"""Programs in other languages that tests run; each is installed once for each state of its sources.

The sources are copied into a folder of the cache, so that neither `node_modules` nor jars stand among them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.services.cache import cache_root, locked
from tests.support.services.errors import ServiceUnavailable, ToolFailed
from tests.support.services.processes import run_tool

_SECONDS = 300.0


class Program(NamedTuple):
    """A program, and how it is made ready: shell commands in a folder with copies of its files."""

    name: str
    sources: Sequence[Path]
    fetch: Sequence[str]
    """Commands that fetch libraries."""
    build: Sequence[str] = ()

    def installed(self) -> Path:
        """The folder in which it can be run.

        Raises ServiceUnavailable where its language is missing, or its libraries cannot be fetched; ToolFailed where it is
        wrong itself.
        """
        texts = [path.read_bytes() for path in self.sources]
        digest = hashlib.sha256(b"\0".join([*texts, *map(str.encode, (*self.fetch, *self.build))])).hexdigest()[:16]
        there = cache_root() / "programs" / f"{self.name}-{digest}"
        with locked(cache_root() / f"program-{self.name}.lock"):
            if not there.is_dir():
                self._install(there)
        return there

    def _install(self, there: Path) -> None:
        for tool in {command.split()[0] for command in (*self.fetch, *self.build)}:
            if shutil.which(tool) is None:
                raise ServiceUnavailable(f"{self.name} needs {tool}")
        there.parent.mkdir(exist_ok=True)
        sibling = Path(tempfile.mkdtemp(prefix=f"{there.name}.", dir=there.parent))
        try:
            for path in self.sources:
                shutil.copy(path, sibling)
            try:
                for command in self.fetch:
                    _run(command, sibling)
            except ToolFailed as failed:
                raise ServiceUnavailable(f"the libraries of {self.name} cannot be fetched: {failed}") from failed
            for command in self.build:
                _run(command, sibling)
            sibling.rename(there)
        finally:
            shutil.rmtree(sibling, ignore_errors=True)


def _run(command: str, folder: Path) -> None:
    run_tool(["env", "-C", str(folder), "sh", "-c", command], timeout=_SECONDS)
