"""What a request about sandboxes and commands may say; upstream's limits."""

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

#: Upstream's fields of CreateSandboxRequest that are not in our messages.
_UNSERVED_WISHES: Final = {
    5: "await_main_process_attachment",
    6: "workload_template",
    9: "service_exposures",
}

#: Upstream's fields of SandboxSpec that are not in our messages.
_UNHEEDED: Final = {
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
MAX_VALUE_BYTES: Final = 32 * KIB
MAX_WORKDIR_BYTES: Final = 4096
MAX_COMMAND_BYTES: Final = 256 * KIB
#: Every command's frame has it, beside the command and its input.
MAX_ENVIRONMENT_BYTES: Final = 256 * KIB
#: The longest duration that there is.
_MAX_SECONDS: Final = 315_576_000_000


@dataclass(frozen=True, slots=True)
class SandboxWish:
    """What a caller wants a new sandbox to be."""

    name: str
    workspace: str
    spec: sandboxes_pb2.SandboxSpec
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def check_name(name: str) -> None:
    """Refuse a name that no sandbox can have.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not _NAME.fullmatch(name):
        raise invalid(
            "name", "begins with a letter or digit and has letters, digits and ._- only, at most 253"
        )


def workspace_of(scope: datamodel_pb2.WorkspaceSelector) -> str:
    """Return the one workspace that a request is about.

    Raises:
        TransferError: INVALID_REQUEST if it is about all.
    """
    if scope.WhichOneof("selection") == "all_workspaces":
        raise invalid("workspace_scope", "all_workspaces is for lists only; name a workspace")
    return scope.workspace or DEFAULT_WORKSPACE


def check_request_id(request_id: str) -> None:
    """Refuse an id that is no UUID in its 36 characters, or the zero one; empty is none.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not request_id:
        return
    try:
        good = str(uuid.UUID(request_id)) == request_id.lower() and uuid.UUID(request_id).int != 0
    except ValueError:
        good = False
    if not good:
        raise invalid("request_id", "must be a UUID of 36 characters that is not zero, or empty")


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Refuse more labels or annotations than a record should carry.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if len(labels) > MAX_LABELS:
        raise invalid(field, f"at most {MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not key or len(key) + len(value) > MAX_LABEL_CHARACTERS:
            raise invalid(field, f"a key is empty, or {key[:64]!r} and its value are too long")


def check_creation(request: sandboxes_pb2.CreateSandboxRequest) -> None:
    """Refuse a wish that cannot be fulfilled; in silence it would look fulfilled.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if request.name:
        check_name(request.name)
    check_labels("labels", request.labels)
    check_labels("annotations", request.annotations)
    check_environment("spec.environment", request.spec.environment)
    for number in unknown_numbers(request):
        field = _UNSERVED_WISHES.get(number, f"field {number}")
        raise invalid(field, "this gateway cannot do that; leave it out")


def without_effect(spec: sandboxes_pb2.SandboxSpec) -> list[str]:
    """Return the fields of a specification that a simulated sandbox does not heed."""
    known = ["log_level"] if spec.log_level else []
    return known + [_UNHEEDED.get(number, f"field {number}") for number in unknown_numbers(spec)]


def unknown_numbers(message: Message) -> list[int]:
    """Return the numbers of the fields that this gateway does not know, each once."""
    fields = UnknownFieldSet(message)
    return sorted({fields[index].field_number for index in range(len(fields))})


def check_environment(field: str, environment: Mapping[str, str]) -> None:
    """Refuse variables that a process cannot have.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    for name, value in environment.items():
        if not _VARIABLE.fullmatch(name):
            raise invalid(field, f"{name[:64]!r} is not a name of a variable")
        if "\0" in value or "\n" in value or "\r" in value:
            raise invalid(field, f"the value of {name} has a line break or NUL")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise invalid(field, f"the value of {name} has more than {MAX_VALUE_BYTES} bytes")
    if sum(len(name) + len(value.encode()) for name, value in environment.items()) > MAX_ENVIRONMENT_BYTES:
        raise invalid(field, f"has more than {MAX_ENVIRONMENT_BYTES} bytes")


def check_command(request: exec_pb2.ExecSandboxRequest) -> None:
    """Refuse a command that no process can be made of.

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
            "command", f"an argument may have {MAX_VALUE_BYTES} bytes, all together {MAX_COMMAND_BYTES}"
        )
    if any("\0" in argument for argument in request.command):
        raise invalid("command", "an argument has a NUL")
    workdir = request.workdir
    if len(workdir.encode()) > MAX_WORKDIR_BYTES or "\0" in workdir or "\n" in workdir or "\r" in workdir:
        raise invalid("workdir", f"has more than {MAX_WORKDIR_BYTES} bytes, a line break or NUL")
    if request.tty:
        raise invalid("tty", "commands have no terminal here")
    check_environment("environment", request.environment)
    timeout = request.execution_timeout
    if not (0 <= timeout.seconds <= _MAX_SECONDS and 0 <= timeout.nanos < 1_000_000_000):
        raise invalid("execution_timeout", "must be a duration that is not negative")
    check_request_id(request.request_id)
