"""Converts a gRPC status to an exception, by the error table.

Every failed call of this SDK passes `error_from_status`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from openshell_files_protocol.errors import FieldViolation
from openshell_files_protocol.reasons import ERROR_DOMAIN, Code, Retry, reason_named

from openshell_files import errors
from openshell_files._known_errors import EXTENSIONS_FIX, error_from_reason
from openshell_files.errors import ErrorFacts, FilesError

DETAILS_KEY: Final = "grpc-status-details-bin"

#: In seconds (duration.proto).
_LONGEST_DURATION: Final = 315_576_000_000

#: Class, retry class and fix of a status without a reason: from gRPC itself, a
#: proxy, or another server. A retry is allowed only if the request cannot be at fault.
CLASS_BY_CODE: Final[Mapping[Code, tuple[type[FilesError], Retry, str]]] = {
    Code.CANCELLED: (errors.Unavailable, Retry.AGAIN, "Try again."),
    Code.UNKNOWN: (errors.InternalError, Retry.NEVER, "Check the gateway's log."),
    Code.INVALID_ARGUMENT: (errors.InvalidRequest, Retry.NEVER, "Check the request."),
    Code.DEADLINE_EXCEEDED: (errors.DeadlineExceeded, Retry.AGAIN, "Try again, or allow more time."),
    Code.NOT_FOUND: (errors.FileNotFound, Retry.NEVER, "Check sandbox and path."),
    Code.ALREADY_EXISTS: (errors.FileExists, Retry.NEVER, "Choose another name."),
    Code.PERMISSION_DENIED: (errors.PermissionDenied, Retry.NEVER, "Ask for the permission."),
    Code.RESOURCE_EXHAUSTED: (errors.ResourceExhausted, Retry.NEVER, "Check the gateway's limits."),
    Code.FAILED_PRECONDITION: (errors.SandboxNotReady, Retry.NEVER, "Check the sandbox."),
    Code.ABORTED: (errors.UploadAborted, Retry.NEVER, "Start again."),
    Code.OUT_OF_RANGE: (errors.RangeInvalid, Retry.NEVER, "Ask for a range inside the file."),
    Code.UNIMPLEMENTED: (errors.Unsupported, Retry.NEVER, "Use a gateway that has this method."),
    Code.INTERNAL: (errors.InternalError, Retry.NEVER, "Check the gateway's log."),
    Code.UNAVAILABLE: (errors.Unavailable, Retry.LATER, "Check the endpoint, or wait for the gateway."),
    Code.DATA_LOSS: (errors.IntegrityError, Retry.NEVER, "Try again."),
    Code.UNAUTHENTICATED: (errors.Unauthenticated, Retry.NEVER, "Get a new token."),
}

#: Parts of gRPC's message for a broken stream, by its status. gRPC converts codes
#: of RST_STREAM to statuses that have another meaning if a server sends them:
#: 11 (calm down) to RESOURCE_EXHAUSTED, 12 (security) to PERMISSION_DENIED.
_BROKEN_STREAM: Final[Mapping[Code, tuple[str, ...]]] = {
    Code.INTERNAL: ("RST_STREAM", "Internal error from Core"),
    Code.UNKNOWN: ("RST_STREAM",),
    Code.RESOURCE_EXHAUSTED: ("RST_STREAM",),
    Code.PERMISSION_DENIED: ("RST_STREAM",),
}

_DETAILS: Final[Mapping[str, type[Message]]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest)
}


def error_from_status(
    code: int, message: str, trailing: Iterable[tuple[str, str | bytes]], *, path: str = ""
) -> FilesError:
    """Return the exception of a failed call.

    Args:
        code: the gRPC status code.
        message: the message of the status.
        trailing: the trailing metadata of the call.
        path: the file of the call.
    """
    info = error_details_pb2.ErrorInfo()
    violations: tuple[FieldViolation, ...] = ()
    delay: float | None = None
    for detail in _details(code, trailing):
        match _known_detail(detail):
            case error_details_pb2.ErrorInfo() as info:
                pass
            case error_details_pb2.RetryInfo() as retry_info:
                delay = delay_of(retry_info.retry_delay)
            case error_details_pb2.BadRequest() as bad:
                violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
            case _:
                pass
    reason = reason_named(info.reason) if info.domain == ERROR_DOMAIN else None
    if reason is not None:
        return error_from_reason(
            reason,
            message or reason.row.meaning,
            metadata=dict(info.metadata),
            field_violations=violations,
            retry_delay=delay,
            path=path,
        )
    known = Code(code) if code in Code.__members__.values() else Code.UNKNOWN
    kind, retry, fix = CLASS_BY_CODE[known]
    if any(words in message for words in _BROKEN_STREAM.get(known, ())):
        kind, retry, fix = CLASS_BY_CODE[Code.UNAVAILABLE]
    facts = ErrorFacts(info.reason or known.name, known, retry, fix, dict(info.metadata), violations, delay)
    return kind(message or "the call failed without a message", facts, path=path)


def _details(code: int, trailing: Iterable[tuple[str, str | bytes]]) -> list[AnyMessage]:
    """Return the details of the status; none if they are missing, malformed or of another status."""
    for key, value in trailing:
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return []
            return list(status.details) if status.code == code else []
    return []


def _known_detail(detail: AnyMessage) -> Message | None:
    """Return a detail of a known type; None for another type, and for a damaged detail, which leaves the status valid."""
    kind = _DETAILS.get(detail.TypeName())
    try:
        return None if kind is None else kind.FromString(detail.value)
    except DecodeError:
        return None


def delay_of(duration: Duration) -> float | None:
    """Return the pause that a server asks for, in seconds; None if the value is invalid."""
    if not 0 <= duration.seconds <= _LONGEST_DURATION or not 0 <= duration.nanos < 1_000_000_000:
        return None
    return duration.seconds + duration.nanos / 1e9


def name_method(error: FilesError, path: str) -> None:
    """Name the missing method in the error of a gateway that does not know it.

    Args:
        error: error of the call.
        path: of the method.
    """
    if error.reason == Code.UNIMPLEMENTED.name:
        error.facts = replace(error.facts, fix=EXTENSIONS_FIX)
        error.reword(f"the gateway does not have {path.rpartition('/')[2]} ({error.message})")
