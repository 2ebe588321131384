"""Both clients on the connection of the official SDK's `SandboxClient`.

By hand, beside the generated `_sync`: the official SDK is blocking only, so
the two flavours get to its channel in different ways. It is not imported, so
that this SDK works without it.
"""

from __future__ import annotations

from typing import TypeVar, cast
from weakref import WeakSet

import grpc
import grpc.aio

from openshell_files._async._calls import Connection as AsyncConnection
from openshell_files._async.client import AsyncFilesClient as EndpointAsyncFilesClient
from openshell_files._bridged_channel import BridgedChannel
from openshell_files._core.borrowed import CLOSED
from openshell_files._sync._calls import Connection, DownloadCall, Metadata, UploadCall
from openshell_files._sync.client import FilesClient as EndpointFilesClient
from openshell_files.options import RetryPolicy

_Call = TypeVar("_Call", UploadCall, DownloadCall)


def _channel_of(client: object) -> grpc.Channel:
    """Return the channel of an official client.

    Raises:
        TypeError: there is none.
    """
    channel: object = getattr(client, "_channel", None)
    if isinstance(channel, grpc.Channel):
        return channel
    raise TypeError(
        "client: an openshell.SandboxClient is expected, with its gRPC channel as `_channel`; "
        f"{type(client).__name__} has none"
    )


class FilesClient(EndpointFilesClient):
    """Connects to a gateway. Use it as a context manager, or call `close`.

    Nothing is sent before the first call. Many threads may use it. What it
    takes is said at `AsyncFilesClient`.
    """

    @classmethod
    def from_sandbox_client(
        cls,
        client: object,
        *,
        workspace: str = "default",
        timeout: float = 30.0,
        idle_timeout: float = 120.0,
        retry: RetryPolicy | None = None,
    ) -> FilesClient:
        """Return a client on the connection of an `openshell.SandboxClient`, with that one's identity.

        Endpoint, TLS and tokens are the official client's: its token is asked
        for at each call. It has to stay open as long as this client is used;
        closing this client ends what this client started, and nothing else.
        How soon a gateway that was away is found again is up to that channel:
        by gRPC's defaults it looks ever more seldom, every two minutes at last.

        The channel is the attribute `_channel`. That has no public name, but
        is what the official SDK's own further clients are made from
        (`WorkspaceClient.from_sandbox_client`), in version 0.1.5.

        Args:
            client: an `openshell.SandboxClient`.
            workspace: where sandbox names are looked up.
            timeout: for calls that carry no content, in seconds.
            idle_timeout: seconds in which nothing moves before a transfer's
                attempt is given up.
            retry: how often to try.

        Raises:
            TypeError: `client` has no gRPC channel.
            ValueError: a time limit is not positive.
        """
        return _Guest(_channel_of(client), workspace, timeout, idle_timeout, retry)


class _Guest(FilesClient):
    """A client whose connection is somebody else's."""

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
    """A channel that somebody else opened and will close. It is one connection."""

    most_lanes = 1

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__("", None, ())
        self._channel = channel
        self._running: WeakSet[UploadCall | DownloadCall] = WeakSet()

    def upload(
        self, path: str, metadata: Metadata, idle: float, timeout: float | None, lane: int = 0
    ) -> UploadCall:
        """Begin a call that takes many messages and gives one."""
        return self._noted(super().upload(path, metadata, idle, timeout, lane))

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a call that takes one message and gives many."""
        return self._noted(super().download(path, message, metadata, idle, timeout))

    def _noted(self, call: _Call) -> _Call:
        with self._lock:
            if not self._closed:
                self._running.add(call)
                return call
        call.cancel()
        raise RuntimeError(CLOSED)

    def close(self) -> None:
        """Cancel the transfers that are running; the channel stays open."""
        with self._lock:
            self._closed = True
            self._channel = None
            running = list(self._running)
        for call in running:
            call.cancel()


class AsyncFilesClient(EndpointAsyncFilesClient):
    """Connects to a gateway. Use it as a context manager, or call `aclose`.

    Nothing is sent before the first call. The client belongs to the event
    loop of its first call. What it takes is said at `FilesClient`.
    """

    @classmethod
    def from_sandbox_client(
        cls,
        client: object,
        *,
        workspace: str = "default",
        timeout: float = 30.0,
        idle_timeout: float = 120.0,
        retry: RetryPolicy | None = None,
    ) -> AsyncFilesClient:
        """Return a client on the connection of an `openshell.SandboxClient`, with that one's identity.

        As `FilesClient.from_sandbox_client`. The official client is blocking:
        its channel, and the function that it gets tokens from, are used in
        threads, one for each call that starts and one for each download that
        runs. The event loop is never blocked. For many transfers at a time a
        client of its own connection is faster.

        Args:
            client: an `openshell.SandboxClient`; keep it open as long as this one.
            workspace: where sandbox names are looked up.
            timeout: for calls that carry no content, in seconds.
            idle_timeout: seconds in which nothing moves before a transfer's
                attempt is given up.
            retry: how often to try.

        Raises:
            TypeError: `client` has no gRPC channel.
            ValueError: a time limit is not positive.
        """
        return _AsyncGuest(_channel_of(client), workspace, timeout, idle_timeout, retry)


class _AsyncGuest(AsyncFilesClient):
    """An asynchronous client whose connection is somebody else's."""

    def __init__(
        self,
        channel: grpc.Channel,
        workspace: str,
        timeout: float,
        idle_timeout: float,
        retry: RetryPolicy | None,
    ) -> None:
        self._use(_BridgedConnection(channel), None, workspace, timeout, idle_timeout, retry)


class _BridgedConnection(AsyncConnection):
    """A channel that somebody else opened and will close. It is one connection."""

    most_lanes = 1

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__("", None, ())
        self._borrowed = channel

    def _new_channel(self) -> grpc.aio.Channel:
        # Not earlier: what waits in it belongs to the event loop that runs now.
        return cast("grpc.aio.Channel", BridgedChannel(self._borrowed))
