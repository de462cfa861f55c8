"""Chooses the core of the partitions: the native one where it is installed, otherwise the one in Python."""

import os

from worker.stream.core import Core, CoreOptions


def create_core(options: CoreOptions) -> Core:
    """The core of a partition."""
    if os.environ.get("ATTENDANCE_CORE") != "python":
        from worker.stream.native_core import NativeCore

        return NativeCore(options)
    from worker.stream.python_core import PythonCore

    return PythonCore(options)
