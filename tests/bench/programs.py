"""What runs each peer; what is not this project's own environment is made once, in the cache folder of the test services.

Quix Streams wants other versions than those this project pins (pydantic among them), so it has a virtualenv of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.process import BenchFailed
from tests.support.services.cache import cache_root, locked
from tests.support.services.errors import ToolFailed
from tests.support.services.processes import run_tool

#: In the order in which they run.
PEERS = ("raw_aiokafka", "kafka_streams", "quix_streams", "stock_faust")

_FOLDER = Path(__file__).with_name("peers")
#: Pinned, as `pip freeze` wrote it.
QUIX_PACKAGES = _FOLDER / "quix_streams.txt"
JAVA_PROJECT = _FOLDER / "kafka_streams"

_JAVA_MAIN = "attendance.bench.KafkaStreamsPeer"
#: Several times what it needs; without a bound the heap would grow with the machine.
_JAVA_FLAGS = ("-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
_BUILD_TIMEOUT_S = 300.0


def command(peer: str) -> Sequence[str]:
    """The command line of a peer, less its workplace.

    Raises:
        BenchFailed: what it needs cannot be made.
    """
    if peer == "kafka_streams":
        return ["java", *_JAVA_FLAGS, "-cp", f"{_kafka_streams()}/*", _JAVA_MAIN]
    python = _quix_python() if peer == "quix_streams" else sys.executable
    return [str(python), "-m", f"tests.bench.peers.{peer}"]


def _kafka_streams() -> Path:
    """The folder with the jar built from the sources as they are now, and all that it needs."""
    sources = [JAVA_PROJECT / "pom.xml", *sorted(JAVA_PROJECT.rglob("src/**/*.java"))]
    folder = cache_root() / f"kafka-streams-peer-{_digest(sources)}"
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    target = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    jars = target / "jars"
    maven = ["mvn", "-q", "-B", "-f", str(JAVA_PROJECT / "pom.xml"), f"-Dtarget={target}"]
    goals = ["package", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
    try:
        run_tool([*maven, *goals], timeout=_BUILD_TIMEOUT_S)
        (jar,) = target.glob("*.jar")
        shutil.move(jar, jars)
        jars.rename(folder)
    except ToolFailed as failed:
        raise BenchFailed(f"kafka_streams could not be built (it needs Maven and a JDK 17): {failed}") from failed
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _quix_python() -> Path:
    folder = cache_root() / f"quix-streams-{_digest([QUIX_PACKAGES])}-{sys.version_info.major}.{sys.version_info.minor}"
    python, whole = folder / "bin" / "python", folder / "whole"
    with locked(folder.with_suffix(".lock")):
        if not whole.exists():
            try:
                run_tool([sys.executable, "-m", "venv", "--clear", str(folder)], timeout=_BUILD_TIMEOUT_S)
                pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                run_tool([*pip, "-r", str(QUIX_PACKAGES)], timeout=_BUILD_TIMEOUT_S)
            except ToolFailed as failed:
                raise BenchFailed(f"quix_streams could not be installed: {failed}") from failed
            whole.touch()
    return python


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
