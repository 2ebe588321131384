"""Requests of the official SDK before 0.1 are named as such, and not misread."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import grpc
import pytest
from gateway_harness import GatewayHarness, running_gateway
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, sandboxes_pb2
from openshell_files_protocol.varint import encode_varint, tag
from status_details import reason_in

TEXT, NUMBER = 2, 0


def field(number: int, value: str | int) -> bytes:
    """Encode one field as an SDK of any age does."""
    if isinstance(value, int):
        return tag(number, NUMBER) + encode_varint(value)
    return tag(number, TEXT) + encode_varint(len(value)) + value.encode()


#: Method, request, what it was called then.
THEN = {
    "create in a workspace": ("CreateSandbox", field(5, "default"), "workspace"),
    "get in a workspace": ("GetSandbox", field(1, "demo") + field(2, "default"), "workspace"),
    # Parsed as a selector this is an unknown field of eight bytes.
    "get in a workspace that parses": ("GetSandbox", field(1, "demo") + field(2, "a12345678"), "workspace"),
    "delete in a workspace": ("DeleteSandbox", field(1, "demo") + field(2, "team-a"), "workspace"),
    "stop in a workspace": ("StopSandbox", field(1, "demo") + field(2, "team-a"), "workspace"),
    "start in a workspace": ("StartSandbox", field(1, "demo") + field(2, "team-a"), "workspace"),
    "list in a workspace": ("ListSandboxes", field(1, 50) + field(4, "default"), "workspace"),
    "list from an offset": ("ListSandboxes", field(1, 50) + field(2, 50), "offset"),
    "list of all": ("ListSandboxes", field(5, 1), "all_workspaces"),
    "a command with a timeout": ("ExecSandbox", field(1, "demo") + field(2, "true") + field(5, 30), "timeout_seconds"),
}  # fmt: skip


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


@pytest.mark.parametrize("case", THEN)
async def test_it_is_told_its_age(harness: GatewayHarness, case: str) -> None:
    method, request, name = THEN[case]
    call = cast("Any", harness.channel()).unary_unary(methods.path(method))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request, metadata=harness.user())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_in(refused.value) == "INVALID_REQUEST"
    details = refused.value.details() or ""
    assert details.startswith(f"{name}: request of an SDK before 0.1"), details


@pytest.mark.parametrize(
    "scope",
    [
        datamodel_pb2.WorkspaceSelector(workspace="default"),
        # The length of a name may be the code of a letter.
        datamodel_pb2.WorkspaceSelector(workspace="d" * ord("d")),
        datamodel_pb2.WorkspaceSelector(),
    ],
)
async def test_a_request_of_today_is_served(
    harness: GatewayHarness, scope: datamodel_pb2.WorkspaceSelector
) -> None:
    channel: Any = harness.channel()
    call = channel.unary_unary(methods.path("GetSandbox"))
    request = sandboxes_pb2.GetSandboxRequest(name="nobody", workspace_scope=scope)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request.SerializeToString(), metadata=harness.user())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    timed = exec_pb2.ExecSandboxRequest(sandbox="nobody", command=["true"], workspace_scope=scope)
    timed.execution_timeout.FromSeconds(30)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(methods.EXEC_SANDBOX)(timed.SerializeToString(), metadata=harness.user())
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
