"""Turns a TransferError into a gRPC status with `google.rpc` details."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from openshell_files_protocol.durations import duration_of
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import ERROR_DOMAIN

#: Limits in bytes of UTF-8. Statuses travel in trailers, and a gRPC client
#: replaces a status whose trailers exceed 8 KiB by RESOURCE_EXHAUSTED. The
#: message is sent percent-encoded, three bytes for each that is not ASCII
#: (3 KiB), and again in the details, which are sent in base64 (4 KiB).
MAX_MESSAGE_BYTES: Final = 1000
MAX_METADATA_BYTES: Final = 800
MAX_VIOLATIONS_BYTES: Final = 700
_MAX_TEXT_BYTES: Final = 200

#: Tags and lengths of one pair in the encoded details.
_PAIR_BYTES: Final = 8

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: TransferError, transfer_id: str) -> status_pb2.Status:
    """Return the status of an error, with ErrorInfo, BadRequest and RetryInfo."""
    metadata = dict(_cut(error.metadata.items(), MAX_METADATA_BYTES))
    metadata["transfer_id"] = transfer_id
    details = [error_details_pb2.ErrorInfo(reason=error.reason.name, domain=ERROR_DOMAIN, metadata=metadata)]
    packed = [_pack(detail) for detail in details]
    if error.field_violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=description)
            for name, description in _cut(
                ((v.field, v.description) for v in error.field_violations), MAX_VIOLATIONS_BYTES
            )
        ]
        packed.append(_pack(error_details_pb2.BadRequest(field_violations=violations)))
    if error.retry_delay is not None:
        packed.append(_pack(error_details_pb2.RetryInfo(retry_delay=duration_of(error.retry_delay))))
    message = _cut_text(error.message, MAX_MESSAGE_BYTES)
    return status_pb2.Status(code=error.code.value, message=message, details=packed)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: TransferError, transfer_id: str
) -> NoReturn:
    """End a call with an error.

    Uses `context.abort`, because tracing records `abort_with_status` as success.
    """
    status = status_of(error, transfer_id)
    await context.abort(
        _CODES[status.code],
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returned")


def _cut(pairs: Iterable[tuple[str, str]], max_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield the pairs that fit into `max_bytes` together; an agent may send any number."""
    for name, text in pairs:
        value = _cut_text(text, _MAX_TEXT_BYTES)
        max_bytes -= len(name.encode()) + len(value.encode()) + _PAIR_BYTES
        if max_bytes < 0:
            return
        yield name, value


def _cut_text(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode("utf-8", "ignore")


def _pack(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
