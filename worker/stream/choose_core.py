"""Chooses the core of a worker's partitions: ``ATTENDANCE_CORE``."""

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import structlog

from worker.read_model.transactions import MakeCommands
from worker.settings import Settings, SettingsError, installed_version
from worker.stream.core import Core, CoreOptions
from worker.stream.python_core import PythonCore

log = structlog.get_logger(__name__)

NATIVE = "attendance-native"
#: How long the native core's allocator (mimalloc) keeps unused memory before it gives it back to the system, milliseconds. With
#: its 10 the memory of each batch came back as new pages: to fill them with zeros was a seventh of a busy worker's CPU.
_KEPT_MS = "1000"


class ChosenCore(NamedTuple):
    """The core of a process."""

    create: Callable[[CoreOptions], Core]
    """Creates that of a partition."""
    make_commands: MakeCommands | None = None
    """Makes the commands of transactions in Redis; None: a script applies everything."""


def choose_core(settings: Settings) -> ChosenCore:
    """The native core where it is installed and allowed, otherwise the one in Python; logs a line where that is second best.

    Raises:
        SettingsError: ``ATTENDANCE_CORE`` is ``native``, and the native core cannot be used.
    """
    if settings.core == "python":
        return ChosenCore(PythonCore)
    problem = native_problem()
    if problem:
        if settings.core == "native":
            raise SettingsError(f"ATTENDANCE_CORE: is native, but {problem}")
        log.info("folding in Python", reason=problem)
        return ChosenCore(PythonCore)
    # only here: it cannot be imported where it is not installed
    from worker.stream.native_core import NativeCore, create_transactions

    return ChosenCore(NativeCore, create_transactions())


def native_problem() -> str:
    """Why the native core of this worker cannot be used, and what to do; empty if it can."""
    wanted = installed_version()
    cure = f"install {NATIVE}=={wanted} (`make wheels` builds it where cargo is)"
    try:
        found = version(NATIVE)
    except PackageNotFoundError:
        return f"{NATIVE} is not installed: {cure}"
    if found != wanted:
        return f"{NATIVE} is {found} and the worker {wanted}: {cure}"
    # read when the library is loaded
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", _KEPT_MS)
    try:
        import attendance_native
    except ImportError as error:
        return f"{NATIVE} cannot be loaded ({error}): {cure}"
    if attendance_native.__version__ != wanted:
        return f"{NATIVE} has a library of {attendance_native.__version__} and the worker is {wanted}: {cure}"
    return ""
