"""The methods about sandboxes: create, get, list, delete, stop, start."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.core.listing import matches, page, parse_selector
from openshell_files_gateway.core.sandbox_requests import (
    check_creation,
    check_request_id,
    workspace_of,
)
from openshell_files_gateway.lifecycle import SandboxLifecycle, SandboxWish
from openshell_files_gateway.rpc.calls import Call, Implementation, parse_request
from openshell_files_gateway.sandboxes import Sandbox, SandboxDirectory
from openshell_files_gateway.store import AdmittedRequest, SandboxStore


class SandboxMethods:
    """Implements the sandbox methods of the service.

    Args:
        directory: finds sandboxes and hides other people's (AUT-5).
        lifecycle: changes them.
        store: recognises repeated requests.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        lifecycle: SandboxLifecycle,
        store: SandboxStore,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._lifecycle = lifecycle
        self._store = store
        self._clock = clock

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {
            "CreateSandbox": self.create_sandbox,
            "GetSandbox": self.get_sandbox,
            "ListSandboxes": self.list_sandboxes,
            "DeleteSandbox": self.delete_sandbox,
            "StopSandbox": self.stop_sandbox,
            "StartSandbox": self.start_sandbox,
        }

    async def create_sandbox(self, data: bytes, call: Call) -> bytes:
        """CreateSandbox: a repetition by request_id gives the same sandbox."""
        request: sandboxes_pb2.CreateSandboxRequest = parse_request(sandboxes_pb2.CreateSandboxRequest, data)
        workspace = workspace_of(request.workspace_scope)
        check_creation(request)
        self._directory.require_member(call.user, workspace)
        admitted, earlier = await self._admit(request, call)
        if earlier is not None:
            made = self._directory.find(earlier.sandbox_id)
            if made is None:
                raise TransferError(
                    Reason.SANDBOX_NOT_FOUND, "the sandbox that this request_id made was deleted since"
                )
            return _response(made, call)
        wish = SandboxWish(request.name, workspace, request.spec, request.labels, request.annotations)
        return _response(await self._lifecycle.create(wish, admitted), call)

    async def get_sandbox(self, data: bytes, call: Call) -> bytes:
        """GetSandbox."""
        request: sandboxes_pb2.GetSandboxRequest = parse_request(sandboxes_pb2.GetSandboxRequest, data)
        return _response(self._resolve(request.name, request.workspace_scope, call), call)

    async def list_sandboxes(self, data: bytes, call: Call) -> bytes:
        """ListSandboxes: by workspace and name, in pages."""
        request: sandboxes_pb2.ListSandboxesRequest = parse_request(sandboxes_pb2.ListSandboxesRequest, data)
        everywhere = request.workspace_scope.WhichOneof("selection") == "all_workspaces"
        workspace = None if everywhere else workspace_of(request.workspace_scope)
        wanted = parse_selector(request.label_selector)
        found = [
            sandbox
            for sandbox in self._directory.visible(call.user, workspace)
            if matches(sandbox.message.metadata.labels, wanted)
        ]
        chosen, token = page(
            found, lambda one: (one.workspace, one.name), size=request.page_size, token=request.page_token
        )
        response = sandboxes_pb2.ListSandboxesResponse(
            sandboxes=[sandbox.message for sandbox in chosen], next_page_token=token
        )
        return response.SerializeToString()

    async def delete_sandbox(self, data: bytes, call: Call) -> bytes:
        """DeleteSandbox: the answer comes when nothing of it is left."""
        request: sandboxes_pb2.DeleteSandboxRequest = parse_request(sandboxes_pb2.DeleteSandboxRequest, data)
        admitted, earlier = await self._admit(request, call)
        response = sandboxes_pb2.DeleteSandboxResponse(outcome=sandboxes_pb2.DELETION_OUTCOME_COMPLETED)
        if earlier is not None and self._directory.find(earlier.sandbox_id) is None:
            response.sandbox_id = earlier.sandbox_id
            return response.SerializeToString()
        try:
            sandbox = self._resolve(request.name, request.workspace_scope, call)
        except TransferError as error:
            if error.reason is not Reason.SANDBOX_NOT_FOUND or not request.allow_missing:
                raise
            response.outcome = sandboxes_pb2.DELETION_OUTCOME_ALREADY_ABSENT
            return response.SerializeToString()
        if admitted is not None:
            # Before: after it a gateway that dies could no longer tell.
            await self._store.remember(
                AdmittedRequest(
                    admitted.caller, admitted.request_id, admitted.fingerprint, sandbox.id, admitted.admitted
                )
            )
        await self._lifecycle.delete(sandbox)
        response.sandbox_id = sandbox.id
        return response.SerializeToString()

    async def stop_sandbox(self, data: bytes, call: Call) -> bytes:
        """StopSandbox: the answer comes when it is stopped; repeating it changes nothing."""
        request: sandboxes_pb2.StopSandboxRequest = parse_request(sandboxes_pb2.StopSandboxRequest, data)
        check_request_id(request.request_id)
        sandbox = self._resolve(request.name, request.workspace_scope, call)
        return _response(await self._lifecycle.stop(sandbox), call)

    async def start_sandbox(self, data: bytes, call: Call) -> bytes:
        """StartSandbox: GetSandbox tells when it is ready; repeating it changes nothing."""
        request: sandboxes_pb2.StartSandboxRequest = parse_request(sandboxes_pb2.StartSandboxRequest, data)
        check_request_id(request.request_id)
        sandbox = self._resolve(request.name, request.workspace_scope, call)
        return _response(await self._lifecycle.start(sandbox), call)

    def _resolve(self, name: str, scope: datamodel_pb2.WorkspaceSelector, call: Call) -> Sandbox:
        if not name:
            raise invalid("name", "required")
        sandbox = self._directory.resolve(call.user, sandbox_id="", name=name, workspace=workspace_of(scope))
        call.facts["sandbox_id"] = sandbox.id
        return sandbox

    async def _admit(
        self,
        request: sandboxes_pb2.CreateSandboxRequest | sandboxes_pb2.DeleteSandboxRequest,
        call: Call,
    ) -> tuple[AdmittedRequest | None, AdmittedRequest | None]:
        """Return the request as it is to be remembered, and the earlier one that it repeats."""
        check_request_id(request.request_id)
        if not request.request_id:
            return None, None
        now = self._clock()
        admitted = AdmittedRequest(
            call.user.key, request.request_id, _fingerprint(request, call.path), "", now
        )
        earlier = await self._store.recall(admitted.caller, admitted.request_id, now)
        if earlier is not None and earlier.fingerprint != admitted.fingerprint:
            raise TransferError(
                Reason.REQUEST_ID_PAYLOAD_MISMATCH, "request_id: it was used for a different request before"
            )
        return admitted, earlier


def _fingerprint(request: Message, path: str) -> bytes:
    plain: Any = type(request)()
    plain.CopyFrom(request)
    plain.request_id = ""
    return hashlib.sha256(path.encode() + b"\0" + plain.SerializeToString(deterministic=True)).digest()


def _response(sandbox: Sandbox, call: Call) -> bytes:
    call.facts["sandbox_id"] = sandbox.id
    return sandboxes_pb2.SandboxResponse(sandbox=sandbox.message).SerializeToString()
