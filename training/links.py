"""Connections between the processes of a run: they carry messages, and the system closes them with a process."""

import hmac
import ipaddress
import os
import pickle
import socket
import struct
import threading
import weakref
from contextlib import suppress
from typing import Any

TOKEN_BYTES = 32
HELLO_SECONDS = 5.0
# Where a host dies or the network does, nobody closes anything: the system asks after a minute of silence.
ASK_AFTER, ASK_EVERY, ASK_TIMES = 60, 15, 8

_open: weakref.WeakSet["Link"] = weakref.WeakSet()


class Link:
    """One end of a connection; messages are any values that can be pickled, as torch.distributed's objects are."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        connection.settimeout(None)
        for level, name, value in (
            (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE", ASK_AFTER),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL", ASK_EVERY),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT", ASK_TIMES),
        ):
            if hasattr(socket, name):
                connection.setsockopt(level, getattr(socket, name), value)
        _open.add(self)

    def send(self, *message: Any) -> None:
        """Send a message; nothing happens where the other end has gone, which its reader learns."""
        data = pickle.dumps(message)
        with self._sending, suppress(OSError):
            self.connection.sendall(struct.pack("!Q", len(data)) + data)

    def receive(self) -> tuple | None:
        """The next message; None once the other end has gone."""
        try:
            (n_bytes,) = struct.unpack("!Q", read(self.connection, 8))
            return pickle.loads(read(self.connection, n_bytes))
        except OSError:
            return None

    def close(self) -> None:
        """End the connection for both."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()


def _leave_to_parent() -> None:
    """In a process that decodes images: its copies of the connections would outlive the parent's death."""
    for link in list(_open):
        link.connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def read(connection: socket.socket, n_bytes: int) -> bytes:
    """Exactly so many bytes; OSError where the connection ends before."""
    data = bytearray()
    while len(data) < n_bytes:
        part = connection.recv(min(n_bytes - len(data), 1 << 20))
        if not part:
            raise ConnectionError("the other end has closed")
        data += part
    return bytes(data)


def listener(address: str) -> socket.socket:
    """A listening socket on a free port: of this host alone where the address of the meeting is."""
    with suppress(OSError):
        family, *_, (host, *_) = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        if ipaddress.ip_address(host).is_loopback:
            return socket.create_server((host, 0), family=family)
    with suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def accepted(server: socket.socket, token: bytes) -> Link | None:
    """The next who comes and knows the token, None for a stranger; TimeoutError as the server's time-out says."""
    connection, _ = server.accept()
    connection.settimeout(HELLO_SECONDS)
    with suppress(OSError):
        if hmac.compare_digest(read(connection, TOKEN_BYTES), token):
            return Link(connection)
    connection.close()
    return None


def linked(address: str, port: int, token: bytes) -> Link:
    """A connection to the main process; OSError."""
    connection = socket.create_connection((address, port), HELLO_SECONDS)
    connection.sendall(token)
    return Link(connection)
