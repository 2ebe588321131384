"""The initial metadata of a call, sent so that the call can still be refused."""

from __future__ import annotations

from typing import Any

import grpc
from openshell_files_process.tasks import to_the_end


async def send_headers(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Send the initial metadata of a call whose answers may be cut off.

    grpc.aio sends them with the first message. It forgets that it did so if
    that write is cancelled, sends them again with the status, and gRPC refuses
    both: the caller would never hear of the end. Sent alone they are always
    sent whole, since no window holds them back.

    Raises:
        BaseError: of grpc.aio; the call is over.
        CancelledError: the caller was cancelled; the headers are sent.
    """
    await to_the_end(context.send_initial_metadata(()))
