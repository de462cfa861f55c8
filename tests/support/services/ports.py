"""Loopback ports that stay ours from the moment they are chosen, also while their service is down."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

# Below the kernel's range for outgoing connections (32768 and up): a client that keeps reconnecting to a service
# that is down would sooner or later be given that very port as its own end, and the restart could not bind it.
_LOWEST, _HIGHEST = 20_000, 32_000
_ATTEMPTS = 200


class ReservedPort:
    """A free TCP port of 127.0.0.1, kept from other test runs until `release()`.

    The reservation is a bound socket that never listens. It is bound exclusively, so two runners cannot take the
    same port, and only then marked SO_REUSEADDR, which lets the service (Kafka, Redis and Tansu all set that option)
    bind and listen beside it. A connection to a reserved port whose service is down is refused, as it should be.

    Raises OSError when no port could be bound in 200 tries.
    """

    def __init__(self) -> None:
        self._socket = _bind_any()
        self.number: int = self._socket.getsockname()[1]

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"{LOOPBACK}:{self.number}"

    def release(self) -> None:
        """Give the port back; harmless when repeated."""
        self._socket.close()


def _bind_any() -> socket.socket:
    dice = random.SystemRandom()  # a test's random.seed() must not make two runners try the same ports
    for _ in range(_ATTEMPTS):
        candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            candidate.bind((LOOPBACK, dice.randrange(_LOWEST, _HIGHEST)))
        except OSError:
            candidate.close()
            continue
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return candidate
    raise OSError(f"no free port on {LOOPBACK} between {_LOWEST} and {_HIGHEST} in {_ATTEMPTS} tries")
