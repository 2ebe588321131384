# ruff: noqa: N818 - what hooks raise are instructions, not errors
"""Failures of the fake gateway: exceptions that hooks raise, and the status that each becomes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import ERROR_DOMAIN

Context = grpc.ServicerContext


class Stall(Exception):
    """Raised by a hook: the server says nothing until the client leaves."""


class EndWithoutWord(Exception):
    """Raised by a hook: the server ends the stream with status OK."""


@dataclass
class PlainStatus(Exception):
    """Raised by a hook: a status without details, as gRPC itself or a proxy makes it."""

    code: grpc.StatusCode
    details: str = ""
    #: Of the trailing metadata, as they are.
    status: bytes = b""


class Failing:
    """Turns what hooks raise into how a call ends."""

    def __init__(self, stopping: threading.Event, context: Context) -> None:
        self._stopping = stopping
        self._context = context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, TransferError):
            self._context.set_trailing_metadata((("grpc-status-details-bin", details_of(error)),))
            self._context.abort(_grpc_code(error.code), error.message)
        if isinstance(error, PlainStatus):
            if error.status:
                self._context.set_trailing_metadata((("grpc-status-details-bin", error.status),))
            self._context.abort(error.code, error.details)
        if isinstance(error, Stall):
            left = threading.Event()
            if self._context.add_callback(left.set):
                while not left.wait(0.05) and not self._stopping.is_set():
                    pass
            self._context.abort(grpc.StatusCode.CANCELLED, "stalled")
        return isinstance(error, EndWithoutWord)


def _grpc_code(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)


def details_of(error: TransferError) -> bytes:
    """Return google.rpc.Status for an error, as the gateway sends it."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            domain=ERROR_DOMAIN, reason=error.reason.name, metadata=dict(error.metadata)
        )
    ]
    if error.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_delay * 1e9))
        details.append(retry)
    if error.field_violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.field_violations
                ]
            )
        )
    packed: list[AnyMessage] = []
    for detail in details:
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status = status_pb2.Status(code=int(error.code), message=error.message, details=packed)
    return status.SerializeToString()
