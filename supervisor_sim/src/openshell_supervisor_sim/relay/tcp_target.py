"""Relay target `tcp`: connects a relay to a loopback port in the sandbox."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from types import TracebackType
from typing import Final, Self

from openshell_files_process.tasks import TaskScope

from openshell_supervisor_sim.relay.byte_stream import RelayByteStream, RelayLostError

#: Bytes that are read from the port at once. Upstream reads 16 KiB; a relay frame may have 1 MiB.
_READ_BYTES: Final = 256 * 1024

#: Timeout of a connection attempt, in seconds. A loopback port answers at once, unless the listener's
#: accept queue is full.
_CONNECT_SECONDS: Final = 5.0


def loopback_address(host: str, port: int) -> tuple[str, int]:
    """Return the address to connect to.

    Only literal loopback addresses and `localhost` are allowed: a file of the sandbox could resolve
    a name to any address, and any other address lies outside of the sandbox.

    Raises:
        ValueError: the host is not a loopback address, or the port is not from 1 to 65535.
    """
    if not 1 <= port <= 65535:
        raise ValueError("tcp target port must be between 1 and 65535")
    host = host.strip()
    if not host:
        raise ValueError("tcp target host is required")
    if host.lower() == "localhost":
        return "127.0.0.1", port
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("tcp target host must be loopback") from None
    if not address.is_loopback or getattr(address, "scope_id", None):
        raise ValueError("tcp target host must be loopback")
    return str(address), port


async def open_tcp_target(host: str, port: int) -> TcpTarget:
    """Connect to a loopback port in the sandbox.

    Raises:
        ValueError: see `loopback_address`.
        OSError: no process listens on the port, or none accepts within five seconds.
    """
    address, port = loopback_address(host, port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except TimeoutError:
        connection.close()
        raise TimeoutError(f"no connection to {address}:{port} within {_CONNECT_SECONDS:g} s") from None
    except OSError as error:
        connection.close()
        raise ConnectionError(
            f"no connection to {address}:{port}: {os.strerror(error.errno or 0)}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return TcpTarget(connection)


class TcpTarget:
    """Connection to a port in the sandbox; a context manager that closes it.

    Args:
        connection: a connected, non-blocking socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        #: Bytes copied in each direction.
        self.to_target = 0
        self.from_target = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def nodelay(self) -> bool:
        """True if small pieces are sent at once (TCP_NODELAY)."""
        return bool(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def serve(self, stream: RelayByteStream, /) -> None:
        """Copy bytes in both directions until both have ended.

        The end of one direction becomes a half-close at the other side. The other direction
        continues; the one towards the gateway ends with its call at the latest.

        Raises:
            RelayLostError: the relay's call broke.
        """
        async with TaskScope() as scope:
            up = scope.start(self._from_target(stream), "tcp-from-target")
            down = scope.start(self._to_target(stream), "tcp-to-target")
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_EXCEPTION)
        for task in (up, down):
            if not task.cancelled():
                task.result()

    async def _from_target(self, stream: RelayByteStream) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, _READ_BYTES)
            except OSError:
                data = b""  # the gateway sees a reset as the end of the stream
            if not data:
                await stream.end_sending()
                return
            self.from_target += len(data)
            try:
                await stream.send(data)
            except RelayLostError:
                if stream.ended:
                    return  # the gateway ended the call and does not read any more
                raise

    async def _to_target(self, stream: RelayByteStream) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await stream.receive():
                self.to_target += len(data)
                await loop.sock_sendall(self._socket, data)
            self._socket.shutdown(socket.SHUT_WR)
        except RelayLostError:
            raise
        except OSError as error:
            # The port does not read any more, but may still send: discard the gateway's bytes until
            # they end.
            if isinstance(error, ConnectionError):
                while await stream.receive():
                    pass
                return
            raise
