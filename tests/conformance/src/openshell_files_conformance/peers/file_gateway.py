"""A gateway towards an SDK: serves the file methods from a sandbox in memory, and fails as a case tells it.

It is correct by default. A case changes `settings`, puts files into `sandbox`, plans `faults`, and afterwards reads in `book` what the SDK did. Rules for
callers are checked when a message arrives, and recorded with their clause.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final, Self, cast

import grpc
import grpc.aio

from openshell_files_conformance.checks import Transcript
from openshell_files_conformance.peers.file_calls import RFC_METHODS
from openshell_files_conformance.peers.file_core import Core, Served
from openshell_files_conformance.peers.file_downloads import DownloadCalls
from openshell_files_conformance.peers.file_trees import TreeCalls
from openshell_files_conformance.peers.file_uploads import UploadCalls

_SERVICE: Final = "/openshell.v1.OpenShell/"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", (1 << 20) + (64 << 10)),
    ("grpc.max_metadata_size", 1 << 17),
)


class FileGateway(Core):
    """Serves on a free loopback port while its context lasts.

    Attributes:
        trees: how it treats trees.
        endpoint: host and port.
    """

    def __init__(self, transcript: Transcript) -> None:
        super().__init__(transcript)
        self.trees = TreeCalls(self)
        self.endpoint = ""
        self.disconnect = self._disconnect
        self._server: grpc.aio.Server | None = None
        self._replaced = set[asyncio.Task[None]]()
        served = Served(self)
        uploads, downloads = UploadCalls(self), DownloadCalls(self)
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            **{
                name: served.single(name, body)
                for name, body in {**uploads.methods(), **downloads.methods()}.items()
            },
            **{
                name: served.streamed(name, body)
                for name, body in {**downloads.streams(), **self.trees.streams()}.items()
            },
        }

    async def __aenter__(self) -> Self:
        self._server = await self._started("127.0.0.1:0")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._replaced:
            await asyncio.wait(self._replaced)
        if self._server is not None:
            await self._server.stop(None)

    async def _started(self, address: str) -> grpc.aio.Server:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_Methods(self),))
        port = server.add_insecure_port(address)
        self.endpoint = f"127.0.0.1:{port}"
        await server.start()
        return server

    def _disconnect(self) -> None:
        """Close all connections, each with GOAWAY, and take new ones at the same address."""

        async def replace(old: grpc.aio.Server) -> None:
            # The new one listens first, so that no caller finds the port closed.
            self._server = await self._started(self.endpoint)
            await old.stop(None)

        if self._server is not None:
            task = asyncio.create_task(replace(self._server))
            self._replaced.add(task)
            task.add_done_callback(self._replaced.discard)

    async def gone(self, seconds: float) -> bool:
        """Wait until no call runs; return whether that came about in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.quiet.wait()
        return self.quiet.is_set()

    def handler(self, method: str) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return the handler of a method; None if the gateway does not have it."""
        lacks = method in self.settings.lacks or (self.settings.rfc_only and method not in RFC_METHODS)
        return None if lacks else self._handlers.get(method)


class _Methods(grpc.GenericRpcHandler):
    """Finds handlers at each call, since a case may take methods away."""

    def __init__(self, gateway: FileGateway) -> None:
        self._gateway = gateway

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        details = cast(Any, handler_call_details)
        method = str(details.method).removeprefix(_SERVICE)
        handler = self._gateway.handler(method)
        if handler is None:
            call = self._gateway.begin(method, details.invocation_metadata or ())
            call.ended = "UNIMPLEMENTED"
        return handler
