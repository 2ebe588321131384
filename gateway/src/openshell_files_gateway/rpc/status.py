"""Turns an error of the table into a gRPC status with `google.rpc` details."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import ERROR_DOMAIN

#: Statuses travel in headers, which peers bound (8 KiB by default).
MAX_MESSAGE_CHARACTERS: Final = 1000

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: TransferError, transfer_id: str) -> status_pb2.Status:
    """Return the status of an error, with ErrorInfo, BadRequest and RetryInfo."""
    metadata = {key: value[:MAX_MESSAGE_CHARACTERS] for key, value in error.metadata.items()}
    metadata["transfer_id"] = transfer_id
    details = [error_details_pb2.ErrorInfo(reason=error.reason.name, domain=ERROR_DOMAIN, metadata=metadata)]
    packed = [_pack(detail) for detail in details]
    if error.field_violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description[:200])
            for v in error.field_violations[:10]
        ]
        packed.append(_pack(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_delay is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_delay * 1e9))
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=error.code.value, message=error.message[:MAX_MESSAGE_CHARACTERS], details=packed
    )


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: TransferError, transfer_id: str
) -> NoReturn:
    """End a call with an error.

    `context.abort` and not `abort_with_status`: tracing records the latter as
    success.
    """
    status = status_of(error, transfer_id)
    await context.abort(
        _CODES[status.code],
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returned")


def _pack(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
