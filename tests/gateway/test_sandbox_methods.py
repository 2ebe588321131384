"""The methods about sandboxes, as callers and supervisors see them."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from conditions import until
from gateway_harness import GatewayHarness
from openshell_files_gateway.simulation.store import SandboxStore, StoreError
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2, sandboxes_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream
from status_details import field_in, reason_in

READY = sandboxes_pb2.SANDBOX_PHASE_READY
PROVISIONING = sandboxes_pb2.SANDBOX_PHASE_PROVISIONING
COMPLETED = sandboxes_pb2.DELETION_OUTCOME_COMPLETED
ABSENT = sandboxes_pb2.DELETION_OUTCOME_ALREADY_ABSENT

ANSWERS: dict[str, Any] = {
    methods.DELETE_SANDBOX: sandboxes_pb2.DeleteSandboxResponse,
    methods.LIST_SANDBOXES: sandboxes_pb2.ListSandboxesResponse,
}


class Caller:
    """Calls as one user."""

    def __init__(self, harness: GatewayHarness, **claims: str) -> None:
        self._channel: Any = harness.channel()
        token = harness.identity_provider.issue(ttl=None, **claims)
        self._metadata = (("authorization", f"Bearer {token}"),)

    def call(self, method: str, request: Any) -> Any:
        """Begin a call; awaiting it gives the answer."""
        answer = ANSWERS.get(method, sandboxes_pb2.SandboxResponse)
        return self._channel.unary_unary(method, response_deserializer=answer.FromString)(
            request.SerializeToString(), metadata=self._metadata
        )

    async def create(self, name: str = "", **fields: Any) -> sandboxes_pb2.Sandbox:
        request = sandboxes_pb2.CreateSandboxRequest(name=name, **fields)
        answer: sandboxes_pb2.SandboxResponse = await self.call(methods.CREATE_SANDBOX, request)
        return answer.sandbox

    async def get(self, name: str, **fields: Any) -> sandboxes_pb2.Sandbox:
        request = sandboxes_pb2.GetSandboxRequest(name=name, **fields)
        answer: sandboxes_pb2.SandboxResponse = await self.call(methods.GET_SANDBOX, request)
        return answer.sandbox

    async def stop(self, name: str, **fields: Any) -> sandboxes_pb2.Sandbox:
        request = sandboxes_pb2.StopSandboxRequest(name=name, **fields)
        answer: sandboxes_pb2.SandboxResponse = await self.call(methods.STOP_SANDBOX, request)
        return answer.sandbox

    async def start(self, name: str, **fields: Any) -> sandboxes_pb2.Sandbox:
        request = sandboxes_pb2.StartSandboxRequest(name=name, **fields)
        answer: sandboxes_pb2.SandboxResponse = await self.call(methods.START_SANDBOX, request)
        return answer.sandbox

    async def delete(self, name: str, **fields: Any) -> sandboxes_pb2.DeleteSandboxResponse:
        request = sandboxes_pb2.DeleteSandboxRequest(name=name, **fields)
        answer: sandboxes_pb2.DeleteSandboxResponse = await self.call(methods.DELETE_SANDBOX, request)
        return answer

    async def list(self, **fields: Any) -> sandboxes_pb2.ListSandboxesResponse:
        request = sandboxes_pb2.ListSandboxesRequest(**fields)
        answer: sandboxes_pb2.ListSandboxesResponse = await self.call(methods.LIST_SANDBOXES, request)
        return answer


async def refusal(work: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value


async def reason_of(work: Awaitable[object]) -> str:
    return reason_in(await refusal(work))


def workspace(name: str) -> datamodel_pb2.WorkspaceSelector:
    return datamodel_pb2.WorkspaceSelector(workspace=name)


def everywhere() -> datamodel_pb2.WorkspaceSelector:
    selector = datamodel_pb2.WorkspaceSelector()
    selector.all_workspaces.SetInParent()
    return selector


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def alice(computing: GatewayHarness) -> Caller:
    return Caller(computing)


@pytest.fixture
def bob(computing: GatewayHarness) -> Caller:
    """Somebody who belongs to the other workspace."""
    return Caller(computing, sub="somebody-else")


async def test_a_life(computing: GatewayHarness, alice: Caller) -> None:
    """SBX-1, SBX-7, SBX-3, SBX-4."""
    made = await alice.create("made", labels={"k": "v"}, annotations={"n": "w"})
    assert (made.metadata.name, made.metadata.workspace) == ("made", "default")
    assert made.status.phase == PROVISIONING
    supervisor = computing.supervisor(made.metadata.id)
    await supervisor.connect()
    ready = await alice.get("made")
    assert (ready.status.phase, ready.status.main_process_instance_id) == (READY, "fake")
    assert ready.metadata.resource_version > made.metadata.resource_version

    stopped = await alice.stop("made")
    assert stopped.status.phase == sandboxes_pb2.SANDBOX_PHASE_STOPPED
    assert await supervisor.hear() is None, "its session is over"
    assert await reason_of(computing.stat(made.metadata.id)) == "SANDBOX_NOT_READY"
    late = computing.supervisor(made.metadata.id)
    await late.connect()
    assert (await alice.get("made")).status.phase == sandboxes_pb2.SANDBOX_PHASE_STOPPED
    assert await reason_of(computing.stat(made.metadata.id)) == "SANDBOX_NOT_READY"

    assert (await alice.start("made")).status.phase == sandboxes_pb2.SANDBOX_PHASE_STARTING
    again = computing.supervisor(made.metadata.id)
    await again.connect()
    assert (await alice.get("made")).status.phase == READY

    gone = await alice.delete("made")
    assert (gone.outcome, gone.sandbox_id) == (COMPLETED, made.metadata.id)
    assert await again.hear() is None
    assert await reason_of(alice.get("made")) == "SANDBOX_NOT_FOUND"
    assert await reason_of(computing.stat(made.metadata.id)) == "SANDBOX_NOT_FOUND"


async def test_the_supervisor_of_a_sandbox_that_is_gone(computing: GatewayHarness, alice: Caller) -> None:
    """SBX-3: its token is valid still, and good for nothing; nor is a sandbox of the same name its own."""
    made = await alice.create("made")
    await alice.delete("made")
    other = await alice.create("made")
    supervisor = computing.supervisor(made.metadata.id)
    call: Any = open_stream(supervisor.channel, methods.CONNECT_SUPERVISOR, supervisor.metadata)
    hello = openshell_pb2.SupervisorHello(sandbox_id=made.metadata.id)
    await call.write(openshell_pb2.SupervisorMessage(hello=hello).SerializeToString())
    assert await reason_of(call.read()) == "SANDBOX_NOT_FOUND"
    channel: Any = supervisor.channel
    refresh = channel.unary_unary(methods.REFRESH_SANDBOX_TOKEN)
    assert await reason_of(refresh(b"", metadata=supervisor.metadata)) == "SANDBOX_NOT_FOUND"
    assert (await alice.get("made")).metadata.id == other.metadata.id


async def test_who_waits_is_turned_away(computing: GatewayHarness, alice: Caller) -> None:
    """SBX-4, SBX-10: file methods wait for a supervisor that is on its way, and no longer than that."""
    made = await alice.create("made")
    waiting = asyncio.create_task(computing.stat(made.metadata.id))
    broker = computing.gateway._broker
    await until(lambda: broker.statistics().waiting_for_session == 1, "the call waits")
    await alice.stop("made")
    assert await reason_of(waiting) == "SANDBOX_NOT_READY"


async def test_who_waits_for_a_claim_is_turned_away(computing: GatewayHarness, alice: Caller) -> None:
    """SBX-4."""
    made = await alice.create("made")
    supervisor = computing.supervisor(made.metadata.id)
    await supervisor.connect()
    waiting = asyncio.create_task(computing.stat(made.metadata.id))
    await supervisor.next_open()
    await alice.delete("made")
    assert await reason_of(waiting) == "SANDBOX_NOT_READY"


async def test_a_transfer_that_is_under_way_when_it_is_stopped(
    computing: GatewayHarness, alice: Caller
) -> None:
    """SBX-3, SBX-4: stopping does not wait for transfers; they end with the supervisor."""
    made = await alice.create("made")
    supervisor = computing.supervisor(made.metadata.id)
    await supervisor.connect()
    asking = asyncio.create_task(computing.stat(made.metadata.id))
    relay = await supervisor.take_relay()
    assert await relay.next_frame() is not None
    await alice.stop("made")
    # Its process is gone, so its connections break.
    await supervisor.channel.close()
    assert await reason_of(asking) == "RELAY_LOST"


async def test_a_repeated_creation(alice: Caller) -> None:
    """SBX-5, SBX-11: the same sandbox, also in the other spelling of the id; another content is refused."""
    request_id = new_id()
    first = await alice.create("made", request_id=request_id)
    assert (await alice.create("made", request_id=request_id.upper())).metadata.id == first.metadata.id
    assert len((await alice.list()).sandboxes) == 3
    for changed in (
        alice.create("other", request_id=request_id),
        alice.create("made", labels={"k": "v"}, request_id=request_id),
    ):
        assert await reason_of(changed) == "REQUEST_ID_PAYLOAD_MISMATCH"
    mismatch = await refusal(alice.delete("made", request_id=request_id))
    assert reason_in(mismatch) == "REQUEST_ID_PAYLOAD_MISMATCH"
    await alice.delete("made")
    assert await reason_of(alice.create("made", request_id=request_id)) == "SANDBOX_NOT_FOUND"


@pytest.mark.parametrize("name", ["made", ""])
async def test_creations_at_the_same_time(alice: Caller, name: str) -> None:
    """SBX-5: two calls in flight with one request_id make one sandbox, named or not."""
    request_id = new_id()
    made = await asyncio.gather(*(alice.create(name, request_id=request_id) for _ in range(8)))
    assert len({one.metadata.id for one in made}) == 1
    assert len((await alice.list()).sandboxes) == 3


async def test_a_creation_whose_caller_gave_up(alice: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """SBX-5: the repetition finds what became of it, though nobody heard the first answer."""
    entered, go_on, insert = asyncio.Event(), asyncio.Event(), SandboxStore.insert

    async def slow(store: SandboxStore, *arguments: Any) -> None:
        entered.set()
        await go_on.wait()
        await insert(store, *arguments)

    monkeypatch.setattr(SandboxStore, "insert", slow)
    request_id = new_id()
    request = sandboxes_pb2.CreateSandboxRequest(name="made", request_id=request_id)
    call = alice.call(methods.CREATE_SANDBOX, request)
    waiting = asyncio.ensure_future(call)
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    made = await alice.get("made")
    assert (await alice.create("made", request_id=request_id)).metadata.id == made.metadata.id


async def test_a_repeated_deletion(alice: Caller) -> None:
    """SBX-5: what has the name by now is not deleted."""
    request_id = new_id()
    made = await alice.create("made")
    for _ in range(2):
        gone = await alice.delete("made", request_id=request_id)
        assert (gone.outcome, gone.sandbox_id) == (COMPLETED, made.metadata.id)
    other = await alice.create("made")
    assert (await alice.delete("made", request_id=request_id)).sandbox_id == made.metadata.id
    assert (await alice.get("made")).metadata.id == other.metadata.id


async def test_a_repeated_deletion_of_what_was_not_there(alice: Caller) -> None:
    """SBX-5: it is answered as before, and what was made since stays."""
    request_id = new_id()
    assert await reason_of(alice.delete("made")) == "SANDBOX_NOT_FOUND"
    assert (await alice.delete("made", allow_missing=True, request_id=request_id)).outcome == ABSENT
    await alice.create("made")
    assert (await alice.delete("made", allow_missing=True, request_id=request_id)).outcome == ABSENT
    assert (await alice.get("made")).metadata.name == "made"


async def test_a_repeated_stop_and_start(alice: Caller) -> None:
    """SBX-5: repeated late, neither undoes what was done since."""
    stop, start = new_id(), new_id()
    await alice.create("made")
    await alice.stop("made", request_id=stop)
    await alice.start("made", request_id=start)
    seen = await alice.stop("made", request_id=stop)
    assert seen.status.phase == sandboxes_pb2.SANDBOX_PHASE_STARTING
    await alice.stop("made")
    seen = await alice.start("made", request_id=start)
    assert seen.status.phase == sandboxes_pb2.SANDBOX_PHASE_STOPPED


async def test_deletions_at_the_same_time(alice: Caller) -> None:
    """SBX-3: whoever is told COMPLETED can rely on it."""
    await alice.create("made")
    answers = await asyncio.gather(
        *(alice.delete("made") for _ in range(5)), *(alice.delete("made", request_id=new_id()) for _ in range(2)),
        return_exceptions=True,
    )  # fmt: skip
    for answer in answers:
        if isinstance(answer, grpc.aio.AioRpcError):
            assert reason_in(answer) == "SANDBOX_NOT_FOUND"
        else:
            assert isinstance(answer, sandboxes_pb2.DeleteSandboxResponse)
            assert answer.outcome == COMPLETED
    assert await reason_of(alice.get("made")) == "SANDBOX_NOT_FOUND"


async def test_other_peoples_sandboxes(alice: Caller, bob: Caller) -> None:
    """AUT-5: like those that do not exist; a workspace too, and request ids are everybody's own."""
    request_id = new_id()
    await alice.create("made", request_id=request_id)
    for call in (bob.get, bob.stop, bob.start, bob.delete):
        assert await reason_of(call("made")) == "SANDBOX_NOT_FOUND"
    for name in ("default", "no such workspace"):
        assert await reason_of(bob.create("x", workspace_scope=workspace(name))) == "WORKSPACE_NOT_FOUND"
        assert await reason_of(bob.list(workspace_scope=workspace(name))) == "WORKSPACE_NOT_FOUND"
    theirs = await bob.create("made", request_id=request_id, workspace_scope=workspace("theirs"))
    assert theirs.metadata.workspace == "theirs"
    seen = [one.metadata.name for one in (await bob.list(workspace_scope=everywhere())).sandboxes]
    assert seen == ["foreign", "made"]


async def test_lists(alice: Caller) -> None:
    """By name, in pages, with labels."""
    for name in ("c", "a", "b"):
        await alice.create(name, labels={"of": "test", "name": name})
    names: list[str] = []
    token = ""
    while True:
        answer = await alice.list(page_size=2, page_token=token, label_selector="of=test")
        names += [one.metadata.name for one in answer.sandboxes]
        token = answer.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c"]
    [found] = (await alice.list(label_selector="of=test,name=b")).sandboxes
    assert found.metadata.name == "b"
    assert field_in(await refusal(alice.list(page_token="x"))) == "page_token"


async def test_the_configurations_sandboxes(computing: GatewayHarness, alice: Caller) -> None:
    demo = await alice.get("demo")
    assert demo.status.phase == PROVISIONING
    await computing.supervisor().connect()
    assert (await alice.get("demo")).status.phase == READY
    for call in (alice.stop, alice.start, alice.delete):
        assert await reason_of(call("demo")) == "SANDBOX_NOT_MANAGED"
    assert await reason_of(alice.create("demo")) == "SANDBOX_EXISTS"


async def test_wishes(alice: Caller) -> None:
    """SBX-6: what has no effect is told in a condition; the wish itself is answered as it was said."""
    spec = sandboxes_pb2.SandboxSpec.FromString(b"\x3a\x01x")  # field 7: policy
    spec.log_level = "debug"
    made = await alice.create("made", spec=spec)
    [condition] = [one for one in made.status.conditions if one.type == "SpecHeeded"]
    assert condition.status == "False"
    assert condition.message.endswith(": log_level, policy")
    assert made.spec.SerializeToString() == spec.SerializeToString()
    refused = sandboxes_pb2.CreateSandboxRequest.FromString(b"\x32\x01x")  # field 6
    assert field_in(await refusal(alice.call(methods.CREATE_SANDBOX, refused))) == "workload_template"


@pytest.mark.parametrize("method", ["create", "stop", "start", "delete"])
async def test_requests_that_make_no_sense(alice: Caller, method: str) -> None:
    call = getattr(alice, method)
    assert field_in(await refusal(call("demo", request_id="x"))) == "request_id"
    assert field_in(await refusal(call("demo", workspace_scope=everywhere()))) == "workspace_scope"
    if method != "create":
        assert field_in(await refusal(call(""))) == "name"


@pytest.mark.parametrize("method", ["create", "delete", "stop", "start"])
async def test_a_database_that_fails(alice: Caller, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """IO_ERROR to be tried again; the place of the database is nobody's business."""
    if method != "create":
        await alice.create("made")

    async def fail(*_: object) -> None:
        raise StoreError("/secret/place/gateway.db: database or disk is full")

    with monkeypatch.context() as broken:
        for name in ("insert", "update", "delete", "remember", "recall"):
            broken.setattr(SandboxStore, name, fail)
        for options in ({}, {"request_id": new_id()}):
            if method == "start" and not options:
                continue  # it runs, so there is nothing to write
            error = await refusal(getattr(alice, method)("made", **options))
            assert reason_in(error) == "IO_ERROR"
            assert "/secret" not in str(error)
    await getattr(alice, method)("made")
