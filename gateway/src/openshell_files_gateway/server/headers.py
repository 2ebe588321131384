"""Sends the initial metadata of a call in a way that the call can still be refused afterwards."""

from __future__ import annotations

from typing import Any

import grpc
from openshell_files_process.tasks import to_the_end


async def send_headers(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Send the initial metadata of a call whose writes may be cancelled.

    By default grpc.aio sends it with the first message. If that write is
    cancelled, grpc.aio sends it again with the status, gRPC refuses both, and
    the caller never receives the status. Flow control does not apply to initial
    metadata, so a separate write always completes.

    Raises:
        BaseError: of grpc.aio; the call has ended.
        CancelledError: the caller was cancelled; the metadata is sent.
    """
    await to_the_end(context.send_initial_metadata(()))
