"""Turns the error frames of file agents into TransferErrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.reasons import Code, Reason, reason_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf import duration_pb2
    from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

#: Substitutes for reasons that this gateway does not know, by their code, which
#: decides how a caller treats the error.
_REASON_BY_CODE: Final[Mapping[int, Reason]] = {
    Code.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    Code.NOT_FOUND: Reason.FILE_NOT_FOUND,
    Code.ALREADY_EXISTS: Reason.FILE_EXISTS,
    Code.PERMISSION_DENIED: Reason.ACCESS_DENIED,
    Code.RESOURCE_EXHAUSTED: Reason.QUOTA_EXCEEDED,
    Code.FAILED_PRECONDITION: Reason.CONDITION_FAILED,
    Code.UNIMPLEMENTED: Reason.METHOD_UNSUPPORTED,
    Code.UNAVAILABLE: Reason.RELAY_LOST,
    Code.INTERNAL: Reason.INTERNAL,
}

#: Reasons that only a gateway can know. An agent that sends one speaks in the gateway's name: the
#: caller would log in again, or believe that the call never reached the sandbox.
OF_THE_GATEWAY: Final = frozenset(
    {
        Reason.TOKEN_MISSING,
        Reason.TOKEN_MALFORMED,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_NOT_YET_VALID,
        Reason.TOKEN_WRONG_AUDIENCE,
        Reason.TOKEN_WRONG_ISSUER,
        Reason.TOKEN_UNKNOWN_KEY,
        Reason.TOKEN_BAD_ALGORITHM,
        Reason.TOKEN_BAD_SIGNATURE,
        Reason.TOKEN_CLAIM_INVALID,
        Reason.ISSUER_UNAVAILABLE,
        Reason.ROLE_REQUIRED,
        Reason.SCOPE_REQUIRED,
        Reason.PRINCIPAL_NOT_ALLOWED,
        Reason.SANDBOX_MISMATCH,
        Reason.SANDBOX_NOT_FOUND,
        Reason.SANDBOX_NOT_READY,
        Reason.SANDBOX_EXISTS,
        Reason.SANDBOX_NOT_MANAGED,
        Reason.COMPUTE_UNAVAILABLE,
        Reason.TOO_MANY_SANDBOXES,
        Reason.REQUEST_ID_PAYLOAD_MISMATCH,
        Reason.WORKSPACE_NOT_FOUND,
        Reason.SUPERVISOR_NOT_CONNECTED,
        Reason.SUPERVISOR_FLOODS,
        Reason.EXEC_UNSUPPORTED,
        Reason.SESSION_OUTDATED,
        Reason.RELAY_REFUSED,
        Reason.RELAY_TIMEOUT,
        Reason.RELAY_LOST,
        Reason.RELAY_UNKNOWN,
        Reason.RELAY_REQUESTER_GONE,
        Reason.GATEWAY_SHUTTING_DOWN,
        Reason.TOO_MANY_CALLS,
        Reason.TOO_MANY_LANES,
        Reason.LANE_LOST,
    }
)

#: Longest retry delay that is forwarded, in seconds.
_MAX_RETRY_SECONDS: Final = 86_400.0


def error_of(error: file_relay_pb2.FileRelayError) -> TransferError:
    """Return the exception for an error frame.

    An unknown reason is replaced by a known one of the same code; the metadata
    has the original as `agent_reason`. A reason that only a gateway gives, and
    an unknown one whose code has no substitute, break the protocol (FRM-33).
    """
    metadata = dict(error.metadata)
    reason = reason_named(error.reason)
    if reason is None:
        metadata["agent_reason"] = error.reason
        reason = _REASON_BY_CODE.get(error.code, Reason.AGENT_PROTOCOL_ERROR)
    elif reason in OF_THE_GATEWAY:
        return TransferError(
            Reason.AGENT_PROTOCOL_ERROR,
            f"the file agent gave {reason.name}, a reason that only a gateway gives",
            metadata={"agent_reason": reason.name},
        )
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
