"""The connection of a request, found by its peer among the open files of this process.

Granian takes whatever a stream sends into a queue without a limit, and cannot end a connection. What the kernel has not
delivered yet shows whether a client reads; this works on Linux, elsewhere no client counts as slow.
"""

import os
import socket
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from termios import TIOCOUTQ

Peer = tuple[str, int]
_IS_LINUX = sys.platform == "linux"
#: File descriptors by peer, as the last scan found them; they may be closed, or of another connection, by now.
_descriptors: dict[Peer, int] = {}


class Connection:
    """A connection that may have ended.

    Args:
        peer: host and port of the client.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def unread(self) -> int:
        """Bytes that the kernel holds for the client; 0 where that is not known."""
        queued = array("i", [0])
        with suppress(OSError), _socket_of(self._peer) as connection:
            if connection is not None:
                ioctl(connection.fileno(), TIOCOUTQ, queued)
        return queued[0]

    def cut(self) -> None:
        """Ends the connection at once; what the client has not read is lost."""
        with suppress(OSError), _socket_of(self._peer) as connection:
            if connection is not None:
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _socket_of(peer: Peer) -> Iterator[socket.socket | None]:
    """The socket of a connection to a peer, not to be kept; None if there is none."""
    number = _descriptors.get(peer)
    if number is None or _peer_of(number) != peer:
        _scan()
        number = _descriptors.get(peer)
    if number is None:
        yield None
        return
    connection = _borrowed(number)
    try:
        yield connection
    finally:
        connection.detach()


def _scan() -> None:
    _descriptors.clear()
    if _IS_LINUX:
        for name in os.listdir("/proc/self/fd"):
            if (peer := _peer_of(int(name))) is not None:
                _descriptors[peer] = int(name)


def _peer_of(number: int) -> Peer | None:
    try:
        connection = _borrowed(number)
    except OSError:
        return None
    try:
        name = connection.getpeername()
    except OSError:
        return None
    finally:
        connection.detach()
    return (name[0], name[1]) if isinstance(name, tuple) else None


def _borrowed(number: int) -> socket.socket:
    """A socket object for a file descriptor of another owner: it has to be detached. The family fits IPv4 as well."""
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=number)
