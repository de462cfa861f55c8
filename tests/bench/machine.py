"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.services.kafka_jars import kafka_jars

_PACKAGES = {"faust": "faust-streaming", "aiokafka": "aiokafka", "orjson": "orjson", "redis-py": "redis"}


def describe(redis_info: dict[str, Any]) -> dict[str, str]:
    """Processor, cores, load before the run, and the versions of everything that takes part.

    Args:
        redis_info: what INFO answers.
    """
    server = "valkey" if "valkey_version" in redis_info else "redis"
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "kafka": next((jar.stem.rpartition("-")[2] for jar in kafka_jars().glob("kafka_2*.jar")), "unknown"),
        server: str(redis_info[f"{server}_version"]),
        **{name: version(package) for name, package in _PACKAGES.items()},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
