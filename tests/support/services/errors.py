"""What can go wrong with a service that tests start.

::

    ServiceError
    ├── ServiceUnavailable   not to be had on this machine: skip at home, fail in CI
    ├── ServiceStartFailed   it is here but did not come up: always a failure; carries the tail of its log
    ├── ServiceNotOurs       a fault was asked of a service that somebody else runs
    └── ToolFailed           a helper program (Maven, apt-get, Kafka's StorageTool) exited non-zero or hung
"""

from __future__ import annotations


class ServiceError(Exception):
    """Root of this package's errors."""


class ServiceUnavailable(ServiceError):
    """The service's program cannot be found, fetched or trusted here; the message says what to do."""


class ServiceStartFailed(ServiceError):
    """The process died while starting, or was not ready by its deadline; the message ends with its log's tail."""


class ServiceNotOurs(ServiceError):
    """start, stop, kill, pause or restart of a given service, which this harness must not touch."""


class ToolFailed(ServiceError):
    """A helper program failed; the message ends with the tail of what it printed."""
