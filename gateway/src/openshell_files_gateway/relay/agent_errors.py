"""Turns the error frames of file agents into TransferErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.reasons import Code, Reason, reason_named

if TYPE_CHECKING:
    from google.protobuf import duration_pb2
    from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

#: Substitutes for reasons that this gateway does not know, by their code, which
#: decides how a caller treats the error.
_REASON_BY_CODE = {
    Code.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    Code.NOT_FOUND: Reason.FILE_NOT_FOUND,
    Code.ALREADY_EXISTS: Reason.FILE_EXISTS,
    Code.PERMISSION_DENIED: Reason.ACCESS_DENIED,
    Code.RESOURCE_EXHAUSTED: Reason.QUOTA_EXCEEDED,
    Code.FAILED_PRECONDITION: Reason.CONDITION_FAILED,
    Code.UNIMPLEMENTED: Reason.METHOD_UNSUPPORTED,
    Code.UNAVAILABLE: Reason.RELAY_LOST,
}

#: Longest retry delay that is forwarded, in seconds.
_MAX_RETRY_SECONDS: Final = 86_400.0


def error_of(error: file_relay_pb2.FileRelayError) -> TransferError:
    """Return the exception for an error frame.

    An unknown reason is replaced by a known one of the same code; the metadata
    has the original as `agent_reason`.
    """
    metadata = dict(error.metadata)
    reason = reason_named(error.reason)
    if reason is None:
        metadata["agent_reason"] = error.reason
        known = error.code in Code.__members__.values()
        reason = _REASON_BY_CODE.get(Code(error.code), Reason.INTERNAL) if known else Reason.INTERNAL
    return TransferError(
        reason,
        error.message,
        metadata=metadata,
        field_violations=[FieldViolation(v.field, v.description) for v in error.field_violations],
        retry_delay=_seconds(error.retry_delay) if error.HasField("retry_delay") else None,
    )


def _seconds(delay: duration_pb2.Duration) -> float:
    """Return a delay within bounds; the agent may send an invalid duration."""
    return min(max(seconds_of(delay), 0.0), _MAX_RETRY_SECONDS)
