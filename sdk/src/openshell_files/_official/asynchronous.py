"""The public client of the asynchronous flavour, and its variant on the official SDK's channel."""

from __future__ import annotations

from typing import cast

import grpc
import grpc.aio
from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files._async._calls import Connection
from openshell_files._async.client import AsyncGatewayClient
from openshell_files._official.bridged_channel import BridgedChannel
from openshell_files._official.channel import channel_of
from openshell_files.options import RetryPolicy


class AsyncFilesClient(AsyncGatewayClient):
    """Connects to a gateway. Use it as a context manager, or call `aclose`.

    Nothing is sent before the first call. The client belongs to the event
    loop of its first call. For the arguments see `AsyncGatewayClient`.
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
    ) -> AsyncFilesClient:
        """Return a client on the connection and with the identity of an `openshell.SandboxClient`.

        See `FilesClient.from_sandbox_client`. The official client is blocking:
        threads use its channel and its token function, one for each call that
        begins and one for each running download. The event loop is never
        blocked. For many concurrent transfers a client with its own connection
        is faster.

        Args:
            client: an `openshell.SandboxClient`; keep it open as long as this one.
            workspace: of the sandbox names.
            timeout: of each call without content, in seconds.
            idle_timeout: seconds without movement after which an attempt of a
                transfer fails.
            retry: retries of each call.

        Raises:
            TypeError: `client` has no gRPC channel.
            ValueError: a time limit is not positive.
        """
        return _AsyncGuest(channel_of(client), workspace, timeout, idle_timeout, retry)


class _AsyncGuest(AsyncFilesClient):
    """An asynchronous client on the connection of another owner."""

    def __init__(
        self,
        channel: grpc.Channel,
        workspace: str,
        timeout: float,
        idle_timeout: float,
        retry: RetryPolicy | None,
    ) -> None:
        self._use(_BridgedConnection(channel), None, workspace, timeout, idle_timeout, retry)


class _BridgedConnection(Connection):
    """A channel of another owner, who closes it. It is one connection, so there are no lanes."""

    most_lanes = 1

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__("", None, ())
        self._borrowed = channel

    def _new_channel(self) -> grpc.aio.Channel:
        # At the first call, because grpc.aio binds the channel to the running event loop.
        return cast("grpc.aio.Channel", BridgedChannel(self._borrowed))
