"""Forwards the connections of another address to a service that listens elsewhere."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def forwarding(address: str, host: str, port: int) -> Iterator[int]:
    """A free port of this address of IPv6 whose connections go to a service of IPv4."""
    with socket.create_server((address, 0), family=socket.AF_INET6) as listener:
        threading.Thread(target=_accept, args=(listener, host, port), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener: socket.socket, host: str, port: int) -> None:
    with contextlib.suppress(OSError):  # it was closed
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((host, port))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
