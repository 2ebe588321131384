"""What requests about sandboxes and commands may say."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

import pytest
from openshell_files_gateway.simulation.core import sandbox_requests as rules
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, sandboxes_pb2
from openshell_files_protocol.reasons import Reason
from openshell_files_protocol.varint import encode_varint


def refused_field(check: Callable[[], object]) -> str:
    with pytest.raises(TransferError) as caught:
        check()
    assert caught.value.reason is Reason.INVALID_REQUEST
    return caught.value.field_violations[0].field


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "9", "x" * 253])
def test_names(name: str) -> None:
    rules.check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "é", "x" * 254, "a\0"])
def test_names_that_no_sandbox_can_have(name: str) -> None:
    assert refused_field(lambda: rules.check_name(name)) == "name"


@pytest.mark.parametrize("request_id", ["", str(uuid.uuid4()), str(uuid.uuid4()).upper()])
def test_request_ids(request_id: str) -> None:
    rules.check_request_id(request_id)


@pytest.mark.parametrize(
    "request_id",
    [
        "x",
        uuid.uuid4().hex,
        f"{{{uuid.uuid4()}}}",
        f"urn:uuid:{uuid.uuid4()}",
        str(uuid.UUID(int=0)),
        f"{uuid.uuid4()} ",
    ],
)
def test_request_ids_that_are_no_uuids(request_id: str) -> None:
    """SBX-5."""
    assert refused_field(lambda: rules.check_request_id(request_id)) == "request_id"


def test_the_one_workspace() -> None:
    assert rules.workspace_of(datamodel_pb2.WorkspaceSelector()) == "default"
    assert rules.workspace_of(datamodel_pb2.WorkspaceSelector(workspace="w")) == "w"
    everywhere = datamodel_pb2.WorkspaceSelector()
    everywhere.all_workspaces.SetInParent()
    assert refused_field(lambda: rules.workspace_of(everywhere)) == "workspace_scope"


@pytest.mark.parametrize(
    ("labels", "fine"),
    [
        ({"k": "v" * (rules.MAX_LABEL_CHARACTERS - 1)}, True),
        ({"k": "v" * rules.MAX_LABEL_CHARACTERS}, False),
        ({"": "v"}, False),
        ({str(number): "" for number in range(rules.MAX_LABELS)}, True),
        ({str(number): "" for number in range(rules.MAX_LABELS + 1)}, False),
    ],
    ids=["long", "too long", "no key", "many", "too many"],
)
def test_labels_and_annotations(labels: dict[str, str], *, fine: bool) -> None:
    for field in ("labels", "annotations"):
        request = sandboxes_pb2.CreateSandboxRequest()
        getattr(request, field).update(labels)
        if fine:
            rules.check_creation(request)
        else:
            assert refused_field(partial(rules.check_creation, request)) == field


def with_field(number: int, base: bytes = b"") -> bytes:
    """Return a message with a field that this gateway does not know, holding one byte."""
    return base + encode_varint(number << 3 | 2) + b"\1x"


@pytest.mark.parametrize(
    ("number", "field"),
    [
        (5, "await_main_process_attachment"),
        (6, "workload_template"),
        (9, "service_exposures"),
        (77, "field 77"),
    ],
)
def test_wishes_that_would_look_fulfilled(number: int, field: str) -> None:
    """SBX-6: refused, by name where upstream has one."""
    request = sandboxes_pb2.CreateSandboxRequest.FromString(with_field(number))
    assert refused_field(lambda: rules.check_creation(request)) == field


def test_wishes_without_effect_are_told() -> None:
    """SBX-6: of the specification, also of fields that are known and have no effect."""
    spec = sandboxes_pb2.SandboxSpec.FromString(with_field(99, with_field(8, with_field(7, with_field(8)))))
    assert rules.without_effect(spec) == ["policy", "providers", "field 99"]
    assert rules.without_effect(sandboxes_pb2.SandboxSpec(log_level="debug")) == ["log_level"]
    assert rules.without_effect(sandboxes_pb2.SandboxSpec(environment={"A": "b"})) == []
    rules.check_creation(sandboxes_pb2.CreateSandboxRequest(spec=spec))


@pytest.mark.parametrize(
    "environment",
    [
        {"": "x"},
        {"1A": "x"},
        {"A-B": "x"},
        {"A=B": "x"},
        {"A\n": "x"},
        {"A": "x\0"},
        {"A": "x\ny"},
        {"A": "x\r"},
        {"A": "x" * (rules.MAX_VALUE_BYTES + 1)},
        {"A": "é" * (rules.MAX_VALUE_BYTES // 2 + 1)},
        {f"A{number}": "x" * rules.MAX_VALUE_BYTES for number in range(8)},
    ],
    ids=[
        "no name", "digit", "dash", "equals", "name with break", "NUL", "line", "return", "long", "bytes", "all",
    ],
)  # fmt: skip
def test_variables_that_no_process_can_have(environment: dict[str, str]) -> None:
    create = sandboxes_pb2.CreateSandboxRequest(spec=sandboxes_pb2.SandboxSpec(environment=environment))
    assert refused_field(lambda: rules.check_creation(create)) == "spec.environment"
    command = exec_pb2.ExecSandboxRequest(command=["true"], environment=environment)
    assert refused_field(lambda: rules.check_command(command)) == "environment"


def test_commands() -> None:
    request = exec_pb2.ExecSandboxRequest(
        command=["sh", "-c", "echo 'é'\n", ""],
        environment={"_A1": "", "PATH": "x" * rules.MAX_VALUE_BYTES},
        workdir="/w",
        stdin=b"\0",
        request_id=str(uuid.uuid4()),
    )
    request.execution_timeout.FromSeconds(315_576_000_000)
    rules.check_command(request)
    rules.check_command(exec_pb2.ExecSandboxRequest(command=["a"] * rules.MAX_ARGUMENTS))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"command": []}, "command"),
        ({"command": ["", "a"]}, "command"),
        ({"command": ["a"] * (rules.MAX_ARGUMENTS + 1)}, "command"),
        ({"command": ["a", "x" * (rules.MAX_VALUE_BYTES + 1)]}, "command"),
        ({"command": ["x" * rules.MAX_VALUE_BYTES] * 9}, "command"),
        ({"command": ["a", "b\0"]}, "command"),
        ({"workdir": "/\0"}, "workdir"),
        ({"workdir": "/\n"}, "workdir"),
        ({"workdir": "/" + "x" * rules.MAX_WORKDIR_BYTES}, "workdir"),
        ({"tty": True}, "tty"),
        ({"execution_timeout": {"seconds": -1}}, "execution_timeout"),
        ({"execution_timeout": {"nanos": -1}}, "execution_timeout"),
        ({"execution_timeout": {"nanos": 1_000_000_000}}, "execution_timeout"),
        ({"execution_timeout": {"seconds": 2**62}}, "execution_timeout"),
        ({"request_id": "x"}, "request_id"),
    ],
)
def test_commands_that_no_process_can_be_made_of(changes: dict[str, object], field: str) -> None:
    """EXE-16: `tty` among them."""
    request = exec_pb2.ExecSandboxRequest(**({"command": ["true"]} | changes))  # type: ignore[arg-type]
    assert refused_field(lambda: rules.check_command(request)) == field
