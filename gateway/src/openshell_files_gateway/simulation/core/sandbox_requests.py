"""Checks requests about sandboxes and commands, with upstream's limits."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.methods import DEFAULT_WORKSPACE
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, sandboxes_pb2

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Upstream's fields of CreateSandboxRequest that this gateway does not support.
_UNSUPPORTED_FIELDS: Final = {
    5: "await_main_process_attachment",
    6: "workload_template",
    9: "service_exposures",
}

#: Upstream's fields of SandboxSpec that this gateway ignores.
_IGNORED_FIELDS: Final = {
    6: "template",
    7: "policy",
    8: "providers",
    9: "resource_requirements",
    12: "command",
    13: "tty",
    14: "provider_attachment_epoch",
    15: "restart_policy",
}

MAX_LABELS: Final = 64
MAX_LABEL_CHARACTERS: Final = 4096
MAX_ARGUMENTS: Final = 1024
MAX_VARIABLES: Final = 1024
MAX_UNKNOWN_FIELDS: Final = 256
MAX_VALUE_BYTES: Final = 32 * KIB
MAX_WORKDIR_BYTES: Final = 4096
MAX_COMMAND_BYTES: Final = 256 * KIB
#: Smaller than a frame, which also has the command and its input.
MAX_ENVIRONMENT_BYTES: Final = 256 * KIB
#: Longest valid google.protobuf.Duration.
_MAX_SECONDS: Final = 315_576_000_000


@dataclass(frozen=True, slots=True)
class RequestedSandbox:
    """The properties of a sandbox that a caller requests."""

    name: str
    workspace: str
    spec: sandboxes_pb2.SandboxSpec
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def check_name(name: str) -> None:
    """Check the name of a sandbox.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not _NAME.fullmatch(name):
        raise invalid(
            "name", "must start with a letter or digit, and have at most 253 letters, digits and ._-"
        )


def workspace_of(scope: datamodel_pb2.WorkspaceSelector) -> str:
    """Return the workspace that a request selects.

    Raises:
        TransferError: INVALID_REQUEST if it selects all workspaces.
    """
    if scope.WhichOneof("selection") == "all_workspaces":
        raise invalid("workspace_scope", "all_workspaces is for lists only; name a workspace")
    return scope.workspace or DEFAULT_WORKSPACE


def check_request_id(request_id: str) -> None:
    """Check that a request id is empty or a UUID of 36 characters, and not the zero UUID.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not request_id:
        return
    try:
        valid = str(uuid.UUID(request_id)) == request_id.lower() and uuid.UUID(request_id).int != 0
    except ValueError:
        valid = False
    if not valid:
        raise invalid("request_id", "must be a UUID of 36 characters that is not zero, or empty")


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Check the number and the size of labels or annotations.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if len(labels) > MAX_LABELS:
        raise invalid(field, f"at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not key or len(key) + len(value) > MAX_LABEL_CHARACTERS:
            raise invalid(field, f"a key is empty, or {key[:64]!r} and its value are too long")


def check_creation(request: sandboxes_pb2.CreateSandboxRequest) -> None:
    """Check a request for a new sandbox; unsupported fields are refused instead of ignored.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if request.name:
        check_name(request.name)
    check_labels("labels", request.labels)
    check_labels("annotations", request.annotations)
    check_environment("spec.environment", request.spec.environment)
    unknown_numbers("spec", request.spec)
    for number in unknown_numbers("request", request):
        field = _UNSUPPORTED_FIELDS.get(number, f"field {number}")
        raise invalid(field, "is not supported by this gateway; leave it unset")


def without_effect(spec: sandboxes_pb2.SandboxSpec) -> list[str]:
    """Return the fields of a specification that have no effect in a simulated sandbox."""
    known = ["log_level"] if spec.log_level else []
    return known + [
        _IGNORED_FIELDS.get(number, f"field {number}") for number in unknown_numbers("spec", spec)
    ]


def unknown_numbers(field: str, message: Message) -> list[int]:
    """Return the numbers of the unknown fields of a message, each once.

    Args:
        field: the message's place in the request, for the error.
        message: the message.

    Raises:
        TransferError: INVALID_REQUEST for too many; each costs time on the event loop.
    """
    fields = UnknownFieldSet(message)
    if len(fields) > MAX_UNKNOWN_FIELDS:
        raise invalid(
            field,
            f"has {len(fields)} fields that this gateway does not know, at most {MAX_UNKNOWN_FIELDS} may be",
        )
    return sorted({fields[index].field_number for index in range(len(fields))})


def check_environment(field: str, environment: Mapping[str, str]) -> None:
    """Check environment variables.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if len(environment) > MAX_VARIABLES:
        raise invalid(field, f"has {len(environment)} variables, at most {MAX_VARIABLES} are allowed")
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            raise invalid(field, f"{name[:64]!r} is not a valid name of a variable")
        if "\0" in value or "\n" in value or "\r" in value:
            raise invalid(field, f"the value of {name} has a line break or NUL")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise invalid(field, f"the value of {name} has more than {MAX_VALUE_BYTES} bytes")
    if sum(len(name) + len(value.encode()) for name, value in environment.items()) > MAX_ENVIRONMENT_BYTES:
        raise invalid(field, f"has more than {MAX_ENVIRONMENT_BYTES} bytes")


def check_command(request: exec_pb2.ExecSandboxRequest) -> None:
    """Check a request for a command.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not request.command or not request.command[0]:
        raise invalid("command", "must not be empty")
    if len(request.command) > MAX_ARGUMENTS:
        raise invalid("command", f"has {len(request.command)} arguments, at most {MAX_ARGUMENTS} are allowed")
    sizes = [len(argument.encode()) for argument in request.command]
    if max(sizes) > MAX_VALUE_BYTES or sum(sizes) > MAX_COMMAND_BYTES:
        raise invalid(
            "command",
            f"an argument may have {MAX_VALUE_BYTES} bytes, all arguments together {MAX_COMMAND_BYTES}",
        )
    if any("\0" in argument for argument in request.command):
        raise invalid("command", "an argument has a NUL")
    workdir = request.workdir
    if len(workdir.encode()) > MAX_WORKDIR_BYTES or "\0" in workdir or "\n" in workdir or "\r" in workdir:
        raise invalid("workdir", f"has more than {MAX_WORKDIR_BYTES} bytes, a line break or NUL")
    if request.tty:
        raise invalid("tty", "is not supported by this gateway")
    check_environment("environment", request.environment)
    timeout = request.execution_timeout
    if not (0 <= timeout.seconds <= _MAX_SECONDS and 0 <= timeout.nanos < 1_000_000_000):
        raise invalid("execution_timeout", "must be a duration that is not negative")
    check_request_id(request.request_id)
