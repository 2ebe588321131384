"""The sandbox methods: create, get, list, delete, stop, start.

A request with a request_id is carried out once (SBX-5). Its record has the
sandbox's id, so a repetition returns the state of that sandbox, even if another
one has its name by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from google.protobuf.message import Message
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.sandboxes.directory import Sandbox, SandboxDirectory
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.simulation.core.listing import matches, page, parse_selector
from openshell_files_gateway.simulation.core.sandbox_requests import (
    RequestedSandbox,
    check_creation,
    check_request_id,
    workspace_of,
)
from openshell_files_gateway.simulation.lifecycle import SandboxLifecycle
from openshell_files_gateway.simulation.store import (
    AdmittedRequest,
    SandboxStore,
    StoreError,
    database_failed,
)

IdempotentRequest = (
    sandboxes_pb2.CreateSandboxRequest
    | sandboxes_pb2.DeleteSandboxRequest
    | sandboxes_pb2.StopSandboxRequest
    | sandboxes_pb2.StartSandboxRequest
)


@dataclass(frozen=True, slots=True)
class _Admission:
    """The outcome of the lookup of a request by its request_id.

    Attributes:
        request: record to save; None if the request has no request_id.
        earlier: record of the request that it repeats; None for a new request.
    """

    request: AdmittedRequest | None
    earlier: AdmittedRequest | None


class SandboxMethods:
    """Implements the sandbox methods of the service.

    Args:
        directory: finds sandboxes, and hides those of other callers (AUT-5).
        lifecycle: changes sandboxes.
        store: keeps the records of requests.
        clock: Unix time in seconds.
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
        #: Locks of running requests by caller and id; waiting requests keep an entry alive.
        self._under_way: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

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
        """CreateSandbox: create a sandbox; a repetition by request_id returns the same one."""
        request: sandboxes_pb2.CreateSandboxRequest = parse_request(sandboxes_pb2.CreateSandboxRequest, data)
        workspace = workspace_of(request.workspace_scope)
        check_creation(request)
        self._directory.require_member(call.user, workspace)
        requested = RequestedSandbox(
            request.name, workspace, request.spec, request.labels, request.annotations
        )
        async with self._once(request, call) as admission:
            if admission.earlier is not None:
                return _response(self._sandbox_of(admission.earlier), call)
            return _response(await self._lifecycle.create(requested, admission.request), call)

    async def get_sandbox(self, data: bytes, call: Call) -> bytes:
        """GetSandbox."""
        request: sandboxes_pb2.GetSandboxRequest = parse_request(sandboxes_pb2.GetSandboxRequest, data)
        return _response(self._resolve(request.name, request.workspace_scope, call), call)

    async def list_sandboxes(self, data: bytes, call: Call) -> bytes:
        """ListSandboxes: list sandboxes by workspace and name, in pages."""
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
            found,
            lambda sandbox: (sandbox.workspace, sandbox.name),
            lambda sandbox: sandbox.message.ByteSize(),
            size=request.page_size,
            token=request.page_token,
        )
        response = sandboxes_pb2.ListSandboxesResponse(
            sandboxes=[sandbox.message for sandbox in chosen], next_page_token=token
        )
        return response.SerializeToString()

    async def delete_sandbox(self, data: bytes, call: Call) -> bytes:
        """DeleteSandbox: delete a sandbox; the answer follows when all of its files are gone."""
        request: sandboxes_pb2.DeleteSandboxRequest = parse_request(sandboxes_pb2.DeleteSandboxRequest, data)
        async with self._once(request, call) as admission:
            earlier = admission.earlier
            if earlier is not None and self._directory.find(earlier.sandbox_id) is None:
                return _deleted(earlier.sandbox_id)
            try:
                sandbox = self._resolve(request.name, request.workspace_scope, call)
            except TransferError as error:
                if error.reason is not Reason.SANDBOX_NOT_FOUND or not request.allow_missing:
                    raise
                # Otherwise a repetition could delete a later sandbox of this name.
                await self._remember(admission.request, "")
                return _deleted("")
            # Before the deletion, so that the record survives a gateway that dies during it.
            await self._remember(admission.request, sandbox.id)
            await self._lifecycle.delete(sandbox)
            return _deleted(sandbox.id)

    async def stop_sandbox(self, data: bytes, call: Call) -> bytes:
        """StopSandbox: stop a sandbox; the answer follows when it is stopped. Idempotent."""
        request: sandboxes_pb2.StopSandboxRequest = parse_request(sandboxes_pb2.StopSandboxRequest, data)
        return await self._turn(request, call, self._lifecycle.stop)

    async def start_sandbox(self, data: bytes, call: Call) -> bytes:
        """StartSandbox: start a sandbox, without waiting until it is ready. Idempotent."""
        request: sandboxes_pb2.StartSandboxRequest = parse_request(sandboxes_pb2.StartSandboxRequest, data)
        return await self._turn(request, call, self._lifecycle.start)

    async def _turn(
        self,
        request: sandboxes_pb2.StopSandboxRequest | sandboxes_pb2.StartSandboxRequest,
        call: Call,
        turn: Callable[[Sandbox], Awaitable[Sandbox]],
    ) -> bytes:
        """Stop or start a sandbox."""
        async with self._once(request, call) as admission:
            if admission.earlier is not None:
                return _response(self._sandbox_of(admission.earlier), call)
            sandbox = self._resolve(request.name, request.workspace_scope, call)

            async def work() -> None:
                await turn(sandbox)
                await self._remember(admission.request, sandbox.id)

            # Even if the caller leaves, the record of the request is saved after the change.
            await self._lifecycle.run_to_the_end(work())
            return _response(self._directory.find(sandbox.id) or sandbox, call)

    def _resolve(self, name: str, scope: datamodel_pb2.WorkspaceSelector, call: Call) -> Sandbox:
        if not name:
            raise invalid("name", "required")
        sandbox = self._directory.resolve(call.user, sandbox_id="", name=name, workspace=workspace_of(scope))
        call.facts["sandbox_id"] = sandbox.id
        return sandbox

    def _sandbox_of(self, earlier: AdmittedRequest) -> Sandbox:
        sandbox = self._directory.find(earlier.sandbox_id)
        if sandbox is None:
            raise TransferError(Reason.SANDBOX_NOT_FOUND, "the sandbox of this request_id was deleted since")
        return sandbox

    @asynccontextmanager
    async def _once(self, request: IdempotentRequest, call: Call) -> AsyncGenerator[_Admission, None]:
        """Look up the record of a request; calls with the same request_id run one after the other.

        Raises:
            TransferError: REQUEST_ID_PAYLOAD_MISMATCH, INVALID_REQUEST, or
                IO_ERROR if the database failed.
        """
        check_request_id(request.request_id)
        if not request.request_id:
            yield _Admission(None, None)
            return
        # Upper and lower case are the same UUID.
        key = (call.user.key, request.request_id.lower())
        lock = self._under_way.setdefault(key, asyncio.Lock())
        async with lock:
            admitted = AdmittedRequest(*key, _fingerprint(request, call.path), "", self._clock())
            try:
                earlier = await self._store.recall(*key, admitted.admitted)
            except StoreError as error:
                raise database_failed(error) from error
            if earlier is not None and earlier.fingerprint != admitted.fingerprint:
                raise TransferError(
                    Reason.REQUEST_ID_PAYLOAD_MISMATCH,
                    "request_id: it was used for a different request before",
                )
            yield _Admission(admitted, earlier)

    async def _remember(self, request: AdmittedRequest | None, sandbox_id: str) -> None:
        if request is None:
            return
        try:
            await self._store.remember(replace(request, sandbox_id=sandbox_id))
        except StoreError as error:
            raise database_failed(error) from error


def _fingerprint(request: Message, path: str) -> bytes:
    plain: Any = type(request)()
    plain.CopyFrom(request)
    plain.request_id = ""
    return hashlib.sha256(path.encode() + b"\0" + plain.SerializeToString(deterministic=True)).digest()


def _deleted(sandbox_id: str) -> bytes:
    """Return the answer of a deletion; an empty id means that there was no such sandbox."""
    outcome = (
        sandboxes_pb2.DELETION_OUTCOME_COMPLETED
        if sandbox_id
        else sandboxes_pb2.DELETION_OUTCOME_ALREADY_ABSENT
    )
    return sandboxes_pb2.DeleteSandboxResponse(outcome=outcome, sandbox_id=sandbox_id).SerializeToString()


def _response(sandbox: Sandbox, call: Call) -> bytes:
    call.facts["sandbox_id"] = sandbox.id
    return sandboxes_pb2.SandboxResponse(sandbox=sandbox.message).SerializeToString()
