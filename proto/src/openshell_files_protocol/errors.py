"""TransferError: the exception for a reason of the error table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openshell_files_protocol.reasons import Code, Reason


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request with its fault (google.rpc.BadRequest)."""

    field: str
    description: str


@dataclass(slots=True)
class TransferError(Exception):
    """An operation was refused or failed, for a reason of the error table.

    Attributes:
        reason: the row of the table.
        message: description of this case, with its names and numbers.
        metadata: facts for programs, e.g. ``expected_offset``.
        field_violations: the fields at fault, for INVALID_ARGUMENT.
        retry_delay: seconds to wait before a retry, if known.
    """

    reason: Reason
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    field_violations: Sequence[FieldViolation] = ()
    retry_delay: float | None = None

    def __post_init__(self) -> None:
        Exception.__init__(self, self.message)

    def __str__(self) -> str:
        return f"{self.reason.name}: {self.message}"

    def __hash__(self) -> int:
        return hash((self.reason, self.message))

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own method would call the class with the message only.
        arguments = (self.reason, self.message, dict(self.metadata), tuple(self.field_violations))
        return type(self), (*arguments, self.retry_delay)

    @property
    def code(self) -> Code:
        """The gRPC status code."""
        return self.reason.row.code


def invalid(field_name: str, description: str, reason: Reason = Reason.INVALID_REQUEST) -> TransferError:
    """Return the error for one invalid field of a request."""
    return TransferError(
        reason,
        f"{field_name}: {description}",
        field_violations=(FieldViolation(field_name, description),),
    )
