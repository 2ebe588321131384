"""The public client of the blocking flavour, and its variant on the official SDK's channel."""

from __future__ import annotations

from typing import TypeVar
from weakref import WeakSet

import grpc
from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files._core.borrowed_channel_errors import CLOSED
from openshell_files._official.channel import channel_of
from openshell_files._sync._calls import Cancellable, Connection, DownloadCall, Metadata, UploadCall
from openshell_files._sync.client import GatewayClient
from openshell_files.options import RetryPolicy

_Call = TypeVar("_Call", bound=Cancellable)


class FilesClient(GatewayClient):
    """Connects to a gateway. Use it as a context manager, or call `close`.

    Nothing is sent before the first call. Many threads may use one client. For
    the arguments see `GatewayClient`.
    """

    @classmethod
    def from_sandbox_client(
        cls,
        client: object,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        timeout: float = 30.0,
        idle_timeout: float = 120.0,
        retry: RetryPolicy | None = None,
    ) -> FilesClient:
        """Return a client on the connection and with the identity of an `openshell.SandboxClient`.

        Endpoint, TLS and tokens are those of the official client, which
        provides the token of each call. Keep it open as long as this client
        is used; closing this client ends only the calls of this client. The
        channel of the official client decides when to reconnect: by gRPC's
        defaults the pause grows to two minutes.

        The channel is the attribute `_channel`. It has no public name, but the
        official SDK uses it for its own further clients
        (`WorkspaceClient.from_sandbox_client`), in version 0.1.5.

        Args:
            client: an `openshell.SandboxClient`.
            workspace: of the sandbox names.
            timeout: of each call without content, in seconds.
            idle_timeout: seconds without movement after which an attempt of a
                transfer fails.
            retry: retries of each call.

        Raises:
            TypeError: `client` has no gRPC channel.
            ValueError: a time limit is not positive.
        """
        return _Guest(channel_of(client), workspace, timeout, idle_timeout, retry)


class _Guest(FilesClient):
    """A client on the connection of another owner."""

    def __init__(
        self,
        channel: grpc.Channel,
        workspace: str,
        timeout: float,
        idle_timeout: float,
        retry: RetryPolicy | None,
    ) -> None:
        self._use(_BorrowedConnection(channel), None, workspace, timeout, idle_timeout, retry)


class _BorrowedConnection(Connection):
    """A channel of another owner, who closes it. It is one connection, so there are no lanes."""

    most_lanes = 1

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__("", None, ())
        self._channel = channel
        self._running: WeakSet[Cancellable] = WeakSet()

    def upload(
        self, path: str, metadata: Metadata, idle: float, timeout: float | None, lane: int = 0
    ) -> UploadCall:
        """Begin a client-streaming call."""
        return self._noted(super().upload(path, metadata, idle, timeout, lane))

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a server-streaming call."""
        return self._noted(super().download(path, message, metadata, idle, timeout))

    def _noted(self, call: _Call) -> _Call:
        self.note(call)
        return call

    def note(self, call: Cancellable) -> None:
        """Note a running call for the end of this connection; cancel it if that has come."""
        with self._lock:
            if not self._closed:
                self._running.add(call)
                return
        call.cancel()
        raise RuntimeError(CLOSED)

    def close(self) -> None:
        """Cancel the running transfers; the channel stays open."""
        with self._lock:
            self._closed = True
            self._channel = None
            running = list(self._running)
        for call in running:
            call.cancel()
