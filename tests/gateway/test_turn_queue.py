"""Who may run how much at a time, and in which order those that wait get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, cast

import grpc
import pytest
from conditions import until
from gateway_harness import OTHER_SANDBOX, SANDBOX, FakeRelay, GatewayHarness, pour, running_gateway
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.config.tables import LimitSettings, WorkspaceMember, WorkspaceSettings
from openshell_files_gateway.files.options.core.lane_budget import LaneBudget
from openshell_files_gateway.server.core.transfer_limits import Ticket, TransferLimits, share_of
from openshell_files_gateway.server.turn_queue import TurnQueue
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import encode_relay_data, frame_segments
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2, file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from stack_client import reason_of

ANSWER = file_relay_pb2.FileRelayResponse(stat_file=files_pb2.StatFileResponse())
METADATA = files_pb2.UploadFileRequest(
    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
).SerializeToString()


@pytest.mark.parametrize(
    ("slots", "share", "expected"),
    [(32, 0.75, 24), (256, 0.75, 192), (1, 0.75, 1), (1, 0.01, 1), (3, 0.5, 1), (4, 1.0, 4)],
)
def test_a_share(slots: int, share: float, expected: int) -> None:
    assert share_of(slots, share) == expected


@pytest.mark.parametrize(
    ("bounds", "held", "wanted", "free"),
    [
        ({"max_total": 2, "max_per_sandbox": 9}, [("s", "a"), ("t", "b")], ("u", "c"), False),
        ({"max_total": 3, "max_per_sandbox": 9}, [("s", "a"), ("t", "b")], ("u", "c"), True),
        ({"max_total": 9, "max_per_sandbox": 2}, [("s", "a"), ("s", "b")], ("s", "c"), False),
        ({"max_total": 9, "max_per_sandbox": 2}, [("s", "a"), ("s", "b")], ("t", "c"), True),
        # One principal's share, in all sandboxes and in one.
        ({"max_total": 4, "max_per_sandbox": 4, "share": 0.5}, [("s", "a"), ("t", "a")], ("u", "a"), False),
        ({"max_total": 4, "max_per_sandbox": 4, "share": 0.5}, [("s", "a"), ("t", "a")], ("u", "b"), True),
        ({"max_total": 9, "max_per_sandbox": 4, "share": 0.5}, [("s", "a"), ("s", "a")], ("s", "a"), False),
        ({"max_total": 9, "max_per_sandbox": 4, "share": 0.5}, [("s", "a"), ("s", "a")], ("s", "b"), True),
        ({"max_total": 9, "max_per_sandbox": 4, "share": 0.5}, [("s", "a"), ("s", "a")], ("t", "a"), True),
    ],
)
def test_bounds(
    bounds: dict[str, Any], held: list[tuple[str, str]], wanted: tuple[str, str], *, free: bool
) -> None:
    """RLY-9, RLY-12: each bound, one below it and at it."""
    limits = TransferLimits(**bounds)
    for sandbox_id, principal in held:
        assert limits.ask(Ticket(sandbox_id, principal))
    if free:
        assert limits.ask(Ticket(*wanted))
        return
    with pytest.raises(TransferError) as caught:
        limits.ask(Ticket(*wanted))
    assert (caught.value.reason, caught.value.retry_delay) == (Reason.TOO_MANY_TRANSFERS, 1.0)


def test_turns_go_round() -> None:
    """RLY-23: a single call does not wait behind somebody else's many."""
    limits = TransferLimits(max_total=1, max_per_sandbox=1, max_waiting=10)
    running = Ticket("s", "a")
    assert limits.ask(running)
    many = [Ticket("s", "a") for _ in range(4)]
    single = Ticket("s", "b")
    for ticket in (*many, single):
        assert not limits.ask(ticket)
    order = list[Ticket]()
    while following := limits.end(running):
        (running,) = following
        order.append(running)
    assert order == [many[0], single, many[1], many[2], many[3]]


def test_who_waits_for_one_sandbox_holds_up_nobody_elsewhere() -> None:
    limits = TransferLimits(max_total=3, max_per_sandbox=1, max_waiting=10)
    held = [Ticket(sandbox, "a") for sandbox in "stu"]
    assert all(map(limits.ask, held))
    first, second = Ticket("s", "b"), Ticket("t", "b")
    assert [limits.ask(first), limits.ask(second)] == [False, False]
    assert limits.end(held[1]) == [second]
    assert limits.end(held[2]) == []
    assert limits.end(held[0]) == [first]


def test_the_waiting_room_has_a_share_too() -> None:
    limits = TransferLimits(max_total=1, max_per_sandbox=1, share=0.5, max_waiting=4)
    assert limits.ask(Ticket("s", "a"))
    waiting = [Ticket("s", who) for who in ("a", "a", "b")]
    assert [limits.ask(ticket) for ticket in waiting] == [False] * 3
    with pytest.raises(TransferError):
        limits.ask(Ticket("s", "a"))
    assert not limits.ask(Ticket("s", "b"))
    with pytest.raises(TransferError):
        limits.ask(Ticket("s", "c"))
    limits.withdraw(waiting[0])
    assert not limits.ask(Ticket("s", "c"))


@given(
    st.lists(
        st.tuples(st.sampled_from("stu"), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 50)),
        max_size=80,
    )
)
def test_no_bound_is_ever_passed(steps: list[tuple[str, str, int, int]]) -> None:
    """RLY-9, RLY-12: whatever begins, ends and gives up; and nobody waits who could run."""
    limits = TransferLimits(max_total=5, max_per_sandbox=4, share=0.5, max_waiting=6)
    running, waiting = list[Ticket](), list[Ticket]()
    for sandbox_id, principal, action, number in steps:
        if action == 2 and running:
            let_in = limits.end(running.pop(number % len(running)))
            running += let_in
            waiting = [ticket for ticket in waiting if ticket not in let_in]
        elif action == 3 and waiting:
            limits.withdraw(waiting.pop(number % len(waiting)))
        else:
            ticket = Ticket(sandbox_id, principal)
            try:
                (running if limits.ask(ticket) else waiting).append(ticket)
            except TransferError:
                assert len(waiting) == 6 or sum(one.principal == principal for one in waiting) == 3
        assert (limits.statistics().active, limits.statistics().waiting) == (len(running), len(waiting))
        assert len(running) <= 5
        for one in "stu":
            inside = [ticket for ticket in running if ticket.sandbox_id == one]
            assert len(inside) <= 4
            assert all(sum(ticket.principal == who for ticket in inside) <= 2 for who in "abc")
        for who in "abc":
            assert sum(ticket.principal == who for ticket in running) <= 2
        for ticket in waiting:
            same = [one for one in running if one.sandbox_id == ticket.sandbox_id]
            own = [one for one in running if one.principal == ticket.principal]
            assert len(running) == 5 or len(same) == 4 or len(own) == 2


async def test_a_turn_that_comes_as_its_caller_leaves() -> None:
    """A slot that was given to somebody who is gone goes to the next."""
    slots = TurnQueue(TransferLimits(max_total=1, max_per_sandbox=1, max_waiting=9), 60)

    async def hold(leave: asyncio.Event) -> None:
        async with slots.taken("s", "a"):
            await leave.wait()

    leave, never = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(hold(leave))
    await until(lambda: slots.statistics().active == 1, "the first runs")
    leaver, last = asyncio.create_task(hold(never)), asyncio.create_task(hold(leave))
    await until(lambda: slots.statistics().waiting == 2, "two wait")
    leave.set()
    await first  # its end gave the leaver a slot, in this turn of the loop
    leaver.cancel()
    await last
    assert leaver.cancelled() or (await asyncio.wait({leaver}))
    assert (slots.statistics().active, slots.statistics().waiting) == (0, 0)


@pytest.mark.parametrize(
    ("total", "share", "taken", "offers"),
    [
        (16, 0.75, [("a", 8)], {"a": 6, "b": 8}),
        (16, 0.75, [("a", 8), ("a", 6)], {"a": 1, "b": 5}),
        (16, 1.0, [("a", 8), ("a", 8)], {"a": 3, "b": 3}),
        (7, 0.5, [], {"a": 8}),
        (4, 0.5, [], {"a": 5}),
        (0, 0.5, [], {"a": 1}),
    ],
)
def test_the_streams_of_uploads(
    total: int, share: float, taken: list[tuple[str, int]], offers: dict[str, int]
) -> None:
    """RLY-12, RLY-32: a share of all, but always those of one upload."""
    budget = LaneBudget(total, share)
    for principal, count in taken:
        budget.take(count, principal)
    assert {principal: budget.offer(principal) for principal in offers} == offers
    for principal, count in taken:
        budget.give_back(count, principal)
    assert budget.statistics().taken == 0


def test_each_principal_has_a_waiting_room() -> None:
    """RLY-12: streams of uploads that one caller invented leave room for another's."""
    budget = LaneBudget(8, 0.5)
    for _ in range(7):
        budget.wait("a")
    with pytest.raises(TransferError) as caught:
        budget.wait("a")
    assert caught.value.reason is Reason.TOO_MANY_LANES
    for _ in range(7):
        budget.wait("b")
    budget.wait("c")
    budget.wait("c")
    with pytest.raises(TransferError):
        budget.wait("c")
    budget.wait_no_more("a")
    budget.wait("c")


class Users:
    """Calls of two users of one workspace."""

    def __init__(self, harness: GatewayHarness) -> None:
        self.harness = harness

    def metadata(self, user: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.harness.identity_provider.issue(sub=user)}"),)

    async def upload(self, user: str, first: bytes | None = METADATA) -> Any:
        call = cast("Any", self.harness.channel().stream_unary(methods.UPLOAD_FILE))(
            metadata=self.metadata(user)
        )
        if first is not None:
            await call.write(first)
        return call

    async def stat(self, user: str, sandbox_id: str = SANDBOX) -> files_pb2.StatFileResponse:
        request = files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=sandbox_id), remote_path="/f")
        call = cast("Any", self.harness.channel().unary_unary(methods.STAT_FILE))
        return files_pb2.StatFileResponse.FromString(
            await call(request.SerializeToString(), metadata=self.metadata(user))
        )

    @property
    def transfers(self) -> Any:
        return self.harness.gateway.statistics().transfers


async def _two_users(stack: AsyncExitStack, **limits: Any) -> Users:
    members = tuple(WorkspaceMember(subject=name) for name in ("alice", "carol"))
    workspaces = (
        WorkspaceSettings(name="default", members=members),
        WorkspaceSettings(name="theirs", members=()),
    )
    settings = LimitSettings(**limits)
    return Users(
        await stack.enter_async_context(running_gateway(limits=settings, changes={"workspaces": workspaces}))
    )


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def test_a_call_waits_for_its_turn(stack: AsyncExitStack) -> None:
    """RLY-22: what would have been refused is done when a slot is free."""
    users = await _two_users(stack, max_transfers_per_sandbox=1, transfer_wait=60)
    supervisor = users.harness.supervisor()
    await supervisor.connect()
    call = await users.upload("alice")
    relay = await supervisor.take_relay()
    asking = asyncio.create_task(users.stat("alice"))
    await until(lambda: users.transfers.waiting == 1, "the question waits")
    call.cancel()
    while await relay.next_frame() is not None:
        pass
    await (await supervisor.take_relay()).answer(ANSWER)
    await asking


@pytest.mark.parametrize("sandboxes", [(SANDBOX,), (SANDBOX, OTHER_SANDBOX)], ids=["one", "all"])
async def test_one_caller_cannot_take_everything(stack: AsyncExitStack, sandboxes: tuple[str, ...]) -> None:
    """RLY-12: in a sandbox, and over all sandboxes of the gateway."""
    users = await _two_users(stack, max_transfers=4, max_transfers_per_sandbox=4, transfer_wait=0)
    supervisors = {one: users.harness.supervisor(one) for one in sandboxes}
    for supervisor in supervisors.values():
        await supervisor.connect()
    relays = list[FakeRelay]()
    calls = list[Any]()
    for number in range(3):
        one = sandboxes[number % len(sandboxes)]
        metadata = files_pb2.UploadFileMetadata(sandbox_id=one, remote_path="/f", explicit_finish=True)
        request = files_pb2.UploadFileRequest(metadata=metadata)
        calls.append(await users.upload("alice", request.SerializeToString()))
        relays.append(await supervisors[one].take_relay())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await users.stat("alice")
    assert reason_of(caught.value) == "TOO_MANY_TRANSFERS"
    asking = asyncio.create_task(users.stat("carol"))
    await (await supervisors[SANDBOX].take_relay()).answer(ANSWER)
    await asking
    for call in calls:
        call.cancel()
    for relay in relays:
        while await relay.next_frame() is not None:
            pass


async def test_silent_uploads_are_counted(stack: AsyncExitStack) -> None:
    """RLY-33: a caller's silent streams are bounded, and another caller's upload goes on beside them."""
    users = await _two_users(stack, max_transfers=4, max_transfers_per_sandbox=4)
    silent = [await users.upload("alice", None) for _ in range(3)]
    await until(lambda: users.harness.gateway.statistics().silent.active == 3, "they are counted")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await users.upload("alice", None))
    assert reason_of(caught.value) == "TOO_MANY_TRANSFERS"
    supervisor = users.harness.supervisor()
    await supervisor.connect()
    heard = await users.upload("carol")
    relay = await supervisor.take_relay()
    assert users.transfers.active == 1
    for call in (*silent, heard):
        call.cancel()
    while await relay.next_frame() is not None:
        pass
    await until(lambda: users.harness.gateway.statistics().silent.active == 0, "nothing is left")


async def test_an_upload_that_waits_for_its_turn_takes_no_streams(stack: AsyncExitStack) -> None:
    """RLY-34: lanes are taken by a transfer that is counted."""
    users = await _two_users(stack, max_transfers_per_sandbox=1, transfer_wait=60)
    supervisor = users.harness.supervisor()
    await supervisor.connect()
    first = await users.upload("alice")
    relay = await supervisor.take_relay()
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True, upload_id="u", epoch=1, lanes=4
    )
    second = await users.upload("alice", files_pb2.UploadFileRequest(metadata=metadata).SerializeToString())
    await until(lambda: users.transfers.waiting == 1, "it waits")
    assert users.harness.gateway.statistics().lanes.taken == 0
    first.cancel()
    while await relay.next_frame() is not None:
        pass
    relay = await supervisor.take_relay()
    assert users.harness.gateway.statistics().lanes.taken == 3
    second.cancel()
    while await relay.next_frame() is not None:
        pass


async def test_a_command_whose_output_nobody_takes_gives_its_slot_back(stack: AsyncExitStack) -> None:
    """EXE-19: the call ends, and with it the command, although it has no execution_timeout."""
    users = await _two_users(stack, idle_timeout=0.5)
    supervisor = users.harness.supervisor()
    await supervisor.connect(commands=exec_relay_pb2.ExecCapability(protocol_version=1))
    request = exec_pb2.ExecSandboxRequest(sandbox="demo", command=["yes"])
    # A call of its own channel: nothing is read, so the window stays closed.
    call = cast("Any", users.harness.channel().unary_stream(methods.EXEC_SANDBOX))(
        request.SerializeToString(), metadata=users.metadata("alice")
    )
    relay = await supervisor.take_relay()
    assert users.harness.gateway.statistics().commands.active == 1
    event = exec_pb2.ExecSandboxEvent(stdout=exec_pb2.ExecSandboxStdout(data=bytes(60_000)))
    frames = frame_segments([exec_relay_pb2.ExecRelayResponse(event=event).SerializeToString()])
    (message,) = encode_relay_data(frames)
    writing = asyncio.create_task(pour(relay.call, message))
    await until(lambda: users.harness.gateway.statistics().commands.active == 0, "its slot is free")
    await writing
    call.cancel()
