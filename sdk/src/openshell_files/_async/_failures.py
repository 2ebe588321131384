"""Failures of gRPC calls of the asynchronous flavour, as errors of this SDK."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio

from openshell_files._error_mapping import error_from_status
from openshell_files.errors import FilesError

_CANCELLED: Final = 1


def closed_or_cancelled() -> BaseException:
    """Return the meaning of a call's CancelledError: the task was cancelled, or the client closed the call."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return error_from_status(_CANCELLED, "the client was closed", ())


def mapped(error: grpc.aio.AioRpcError) -> FilesError:
    """Convert the status of a failed call."""
    trailing = [(str(key), value) for key, value in error.trailing_metadata() or ()]
    return error_from_status(error.code().value[0], error.details() or "", trailing)
