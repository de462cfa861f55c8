"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.programs import JAVA_PROJECT, QUIX_PACKAGES
from tests.support.services.kafka_jars import kafka_jars
from tests.support.services.processes import run_tool

_PACKAGES = {"faust": "faust-streaming", "aiokafka": "aiokafka", "orjson": "orjson", "redis-py": "redis"}


def describe(redis_info: dict[str, Any]) -> dict[str, str]:
    """Processor, cores, load before the run, and the versions of everything that takes part.

    Args:
        redis_info: what INFO answers.
    """
    kafka = next((jar.stem.rpartition("-")[2] for jar in kafka_jars().glob("kafka_2*.jar")), "unknown")
    return {**alone(redis_info), "kafka": kafka, **peer_versions()}


def alone(redis_info: dict[str, Any]) -> dict[str, str]:
    """The same of what takes part without Kafka."""
    server = "valkey" if "valkey_version" in redis_info else "redis"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        server: str(redis_info[f"{server}_version"]),
        **{name: version(package) for name, package in _PACKAGES.items()},
    }


def peer_versions() -> dict[str, str]:
    """Versions of what peers have in environments of their own, as pinned there, and of the Java that runs Kafka too."""
    quix = re.search(r"^quixstreams==(\S+)", QUIX_PACKAGES.read_text(), re.MULTILINE)
    streams = re.search(r"<artifactId>kafka-streams</artifactId><version>([^<]+)", (JAVA_PROJECT / "pom.xml").read_text())
    assert quix is not None
    assert streams is not None
    java = run_tool(["java", "-version"], timeout=30.0).splitlines()[0].partition('"')[2].partition('"')[0]
    return {"quixstreams": quix[1], "kafka-streams": streams[1], "java": java}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
