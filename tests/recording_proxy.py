"""A proxy that forwards nothing and notes what it is sent, and the variables that name it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Every way in which an environment names a proxy.
VARIABLES = (
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "grpc_proxy",
    "GRPC_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "GRPC_ADDRESS_HTTP_PROXY",
)

#: Switches all of them off again, whatever the machine has.
EXCEPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


@dataclass
class RecordingProxy:
    """Counts connections, and keeps the first bytes of each."""

    address: str
    connections: int = 0
    received: list[bytes] = field(default_factory=list[bytes])
    asked: threading.Event = field(default_factory=threading.Event)

    def variables(self, name: str) -> Mapping[str, str]:
        """Return the environment that names this proxy by one variable."""
        if name == "GRPC_ADDRESS_HTTP_PROXY":
            return {name: self.address, "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8,::1/128"}
        return {name: f"http://{self.address}"}


@contextmanager
def recording_proxy() -> Generator[RecordingProxy]:
    """Run one on a free port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    proxy = RecordingProxy(f"{host}:{port}")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                proxy.connections += 1
                connection.settimeout(5)
                proxy.received.append(connection.recv(4096))
                proxy.asked.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
