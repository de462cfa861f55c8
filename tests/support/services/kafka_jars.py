"""Where Apache Kafka's jars come from: fetched once by Maven into a cache outside the repository."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from .cache import cache_root, locked
from .errors import ServiceUnavailable, ToolFailed
from .processes import run_tool

KAFKA_VERSION = "4.1.1"
_POM = Path(__file__).with_name("pom.xml")
_FETCH_TIMEOUT_S = 300.0


def kafka_jars() -> Path:
    """The folder that holds the jars named by pom.xml and all they need, and nothing else.

    A complete folder is renamed into place under a lock, so a folder that exists is whole, and of several runners that
    want it at once one fetches. Its name carries the POM's hash: a changed POM is another folder.
    Raises ServiceUnavailable when Maven is missing or cannot fetch.
    """
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    folder = cache_root() / f"kafka-{KAFKA_VERSION}-{digest}"
    jars = folder / "jars"
    if not jars.is_dir():
        with locked(cache_root() / f"{folder.name}.lock"):
            if not jars.is_dir():
                _fetch(folder)
    return jars


def _fetch(folder: Path) -> None:
    sibling = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    goal = "dependency:copy-dependencies"
    maven = ["mvn", "-q", "-B", "-f", str(_POM), goal, f"-DoutputDirectory={sibling / 'jars'}"]
    try:
        run_tool([*maven, "-DincludeScope=runtime"], timeout=_FETCH_TIMEOUT_S)
        sibling.rename(folder)
    except ToolFailed as failed:
        advice = "Apache Kafka's jars need Maven and a Java 17 or later (Debian: default-jre-headless, maven)"
        raise ServiceUnavailable(f"{advice}: {failed}") from failed
    finally:
        shutil.rmtree(sibling, ignore_errors=True)
