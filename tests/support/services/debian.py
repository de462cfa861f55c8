"""Programs of Debian's packages, installed when this is root on a Debian without them."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from .cache import cache_root, locked
from .errors import ServiceUnavailable, ToolFailed
from .processes import run_tool

_APT_TIMEOUT_S = 240.0


@functools.cache
def debian_program(name: str, package: str) -> Path:
    """The path of a program that a Debian package brings. Raises ServiceUnavailable where it cannot be had."""
    if found := shutil.which(name):
        return Path(found)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServiceUnavailable(
            f"no {name}: install it (Debian: apt-get install {package}), or run the tests as root on Debian"
        )
    # a package that brings a server starts it; at run level 1 it does not
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    try:
        with locked(cache_root() / "apt.lock"):
            if shutil.which(name) is None:
                run_tool(["apt-get", "update"], timeout=_APT_TIMEOUT_S, env=quiet)
                run_tool(["apt-get", "install", "-y", "--no-install-recommends", package], timeout=_APT_TIMEOUT_S, env=quiet)
    except ToolFailed as failed:
        raise ServiceUnavailable(f"no {name}, and apt-get does not install {package}: {failed}") from failed
    if found := shutil.which(name):
        return Path(found)
    raise ServiceUnavailable(f"Debian's package {package} brings no {name}")
