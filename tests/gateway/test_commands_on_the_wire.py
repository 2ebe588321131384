"""ExecSandbox between a caller and a supervisor that says what the test wants."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from conditions import until
from gateway_harness import OTHER_SANDBOX, SANDBOX, FakeRelay, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings, RelaySettings
from openshell_files_protocol import methods
from openshell_files_protocol.framing import FrameDecoder, decode_relay_data, frame_segments
from openshell_files_protocol.pb.openshell.v1 import (
    exec_pb2,
    exec_relay_pb2,
    file_relay_pb2,
    openshell_pb2,
    sandboxes_pb2,
)
from openshell_files_protocol.reasons import Reason
from status_details import field_in, reason_in, retry_seconds_in

EXEC = exec_relay_pb2.ExecCapability(protocol_version=1)


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness, None]:
    async with running_gateway() as running:
        yield running


async def supervisor_of(harness: GatewayHarness, sandbox_id: str = SANDBOX) -> FakeSupervisor:
    supervisor = harness.supervisor(sandbox_id)
    await supervisor.connect(commands=EXEC)
    return supervisor


def start(harness: GatewayHarness, sandbox: str = "demo", **fields: Any) -> Any:
    """Call ExecSandbox."""
    fields = {"sandbox": sandbox, "command": ["true"]} | fields
    request = exec_pb2.ExecSandboxRequest(**fields)
    channel: Any = harness.channel()
    return channel.unary_stream(
        methods.EXEC_SANDBOX, response_deserializer=exec_pb2.ExecSandboxEvent.FromString
    )(request.SerializeToString(), metadata=harness.user())


async def events_of(call: Any) -> list[exec_pb2.ExecSandboxEvent]:
    events: list[exec_pb2.ExecSandboxEvent] = []
    while isinstance(event := await call.read(), exec_pb2.ExecSandboxEvent):
        events.append(event)
    return events


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(call)
    return caught.value


async def opened(relay: FakeRelay) -> exec_relay_pb2.ExecRelayOpen:
    """Return the gateway's frame, and check that it is the only one so far."""
    decoder = FrameDecoder()
    frames: list[bytes] = []
    while not frames:
        message = await relay.call.read()
        assert isinstance(message, bytes)
        data = decode_relay_data(message)
        assert data is not None
        frames += [bytes(frame) for frame in decoder.feed(data)]
    [frame] = frames
    assert decoder.at_boundary
    return exec_relay_pb2.ExecRelayRequest.FromString(frame).open


def frame_of(response: exec_relay_pb2.ExecRelayResponse) -> bytes:
    return b"".join(frame_segments([response.SerializeToString()]))


def event_of(**fields: Any) -> exec_relay_pb2.ExecRelayResponse:
    return exec_relay_pb2.ExecRelayResponse(event=exec_pb2.ExecSandboxEvent(**fields))


OUT = event_of(stdout=exec_pb2.ExecSandboxStdout(data=b"out\0"))
ERR = event_of(stderr=exec_pb2.ExecSandboxStderr(data=b"err\xff"))
EXIT = event_of(exit=exec_pb2.ExecSandboxExit(exit_code=7))


async def test_output_and_exit(harness: GatewayHarness) -> None:
    """EXE-1: one frame there, events back as they were, however the stream was cut, the exit last."""
    supervisor = await supervisor_of(harness)
    call = start(harness, command=["sh", "-c", "x"], workdir="w", stdin=b"\0in", environment={"A": "1"})
    relay_open = await supervisor.next_open()
    assert relay_open.WhichOneof("target") == "exec"
    relay = await supervisor.claim(relay_open.channel_id)
    frame = await opened(relay)
    assert frame.protocol_version == 1
    assert frame.transfer_id == relay_open.exec.transfer_id
    assert frame.principal.endswith("|" + harness.identity_provider.client_id)
    assert (list(frame.request.command), frame.request.workdir) == (["sh", "-c", "x"], "w")
    assert (frame.request.stdin, dict(frame.request.environment)) == (b"\0in", {"A": "1"})
    said = frame_of(OUT) + frame_of(ERR) + frame_of(OUT) + frame_of(EXIT)
    for cut in range(0, len(said), 3):
        await relay.send_bytes(said[cut : cut + 3])
    assert await events_of(call) == [OUT.event, ERR.event, OUT.event, EXIT.event]
    assert await relay.call.read() is grpc.aio.EOF
    assert await relay.call.code() is grpc.StatusCode.OK


async def test_what_comes_after_the_exit_is_not_for_the_caller(harness: GatewayHarness) -> None:
    """EXE-11: the exit is the last event."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    await relay.send_bytes(frame_of(EXIT) + frame_of(OUT))
    assert await events_of(call) == [EXIT.event]


async def test_output_arrives_as_it_comes(harness: GatewayHarness) -> None:
    """EXE-17: it is not held back until there is more, or an exit."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    for event in (OUT, ERR):
        await relay.send_bytes(frame_of(event))
        assert await call.read() == event.event
    await relay.send_bytes(frame_of(EXIT))
    assert await events_of(call) == [EXIT.event]


async def test_an_error_of_the_supervisor(harness: GatewayHarness) -> None:
    """EXE-11, EXE-3, EXE-8: it reaches the caller as it is."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    error = file_relay_pb2.FileRelayError(reason="TOO_MANY_COMMANDS", message="three are running", code=8)
    error.retry_delay.FromSeconds(2)
    await relay.send_bytes(frame_of(exec_relay_pb2.ExecRelayResponse(error=error)))
    caught = await refusal(call)
    assert (reason_in(caught), caught.details(), retry_seconds_in(caught)) == (
        "TOO_MANY_COMMANDS",
        "three are running",
        2,
    )


@pytest.mark.parametrize("after_output", [False, True])
@pytest.mark.parametrize("how", ["ends the relay", "dies"])
async def test_a_relay_that_is_lost_before_the_exit(
    harness: GatewayHarness, how: str, *, after_output: bool
) -> None:
    """EXE-12: COMMAND_LOST, which no client may take as leave to run it again."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    await opened(relay)
    if after_output:
        await relay.send_bytes(frame_of(OUT))
        assert await call.read() == OUT.event
    if how == "dies":
        await supervisor.channel.close()
    else:
        await relay.call.done_writing()
    caught = await refusal(call)
    assert (reason_in(caught), caught.code()) == ("COMMAND_LOST", grpc.StatusCode.UNKNOWN)
    assert Reason.COMMAND_LOST.row.retry.value == "never"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n" * 10,
        b"\xff" * 11,
        frame_of(exec_relay_pb2.ExecRelayResponse()),
        frame_of(event_of()),
        b"\x03\xff\xff\xff",
    ],
    ids=["SSH", "no length", "no frame", "no event", "no message"],
)
async def test_a_supervisor_that_breaks_the_protocol(harness: GatewayHarness, said: bytes) -> None:
    """EXE-1: AGENT_PROTOCOL_ERROR, and nothing of it reaches the caller."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    await relay.send_bytes(frame_of(OUT) + said)
    assert await call.read() == OUT.event
    assert reason_in(await refusal(call)) == "AGENT_PROTOCOL_ERROR"


async def test_a_caller_who_goes_away(harness: GatewayHarness) -> None:
    """EXE-6: the gateway ends the relay, by which the supervisor knows."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    await opened(relay)
    call.cancel()
    assert await relay.call.read() is grpc.aio.EOF
    await until(lambda: harness.gateway._commands.statistics().active == 0, "it is not counted any more")


async def test_a_caller_who_takes_nothing(harness: GatewayHarness) -> None:
    """EXE-18: output that nobody takes is not piled up in the gateway, and is complete in the end."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay = await supervisor.take_relay()
    piece = event_of(stdout=exec_pb2.ExecSandboxStdout(data=b"x" * 65536))
    count, sent = 1000, 0

    async def produce() -> None:
        nonlocal sent
        for _ in range(count):
            await relay.send_bytes(frame_of(piece))
            sent += 1
        await relay.send_bytes(frame_of(EXIT))

    producing = asyncio.create_task(produce())
    seen = [-1] * 10

    def stalled() -> bool:
        """Whether nothing was taken while it was looked at ten times."""
        seen.append(sent)
        return len(set(seen[-10:])) == 1

    await until(stalled, "nothing more is taken")
    assert sent < count
    events = await events_of(call)
    await producing
    assert len(events) == count + 1
    assert events[-1] == EXIT.event


async def test_a_supervisor_that_did_not_announce_commands(harness: GatewayHarness) -> None:
    """EXE-9: an older one would take the target for SSH, so it is not asked."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    assert reason_in(await refusal(start(harness))) == "EXEC_UNSUPPORTED"
    asking = asyncio.create_task(harness.stat())
    assert (await supervisor.next_open()).WhichOneof("target") == "file"
    asking.cancel()


async def test_no_supervisor(harness: GatewayHarness) -> None:
    """SBX-10: commands do not wait for one, as upstream."""
    assert reason_in(await refusal(start(harness))) == "SANDBOX_NOT_READY"
    supervisor = await supervisor_of(harness)
    await supervisor.call.done_writing()
    assert await supervisor.hear() is None
    assert reason_in(await refusal(start(harness))) == "SANDBOX_NOT_READY"


@pytest.mark.parametrize("sandbox", ["foreign", "nobody's", ""])
async def test_other_peoples_sandboxes(harness: GatewayHarness, sandbox: str) -> None:
    """AUT-5."""
    caught = await refusal(start(harness, sandbox))
    assert reason_in(caught) == ("SANDBOX_NOT_FOUND" if sandbox else "INVALID_REQUEST")


async def test_what_is_no_command_reaches_nobody(harness: GatewayHarness) -> None:
    """EXE-16: `tty`, for one."""
    assert field_in(await refusal(start(harness, tty=True))) == "tty"
    assert field_in(await refusal(start(harness, command=[]))) == "command"


@pytest.mark.parametrize("bound", ["sandbox", "gateway"])
async def test_as_many_as_may(bound: str) -> None:
    """RLY-9: one more is refused with advice to wait, until one has ended; transfers are counted apart."""
    limits = (
        LimitSettings(max_commands_per_sandbox=1, max_transfers=1)
        if bound == "sandbox"
        else LimitSettings(max_commands=1, max_transfers=1)
    )
    async with running_gateway(limits=limits) as harness:
        supervisor = await supervisor_of(harness)
        other = await supervisor_of(harness, OTHER_SANDBOX)
        first = start(harness)
        relay = await supervisor.take_relay()
        caught = await refusal(start(harness))
        assert (reason_in(caught), retry_seconds_in(caught)) == ("TOO_MANY_COMMANDS", 1)
        elsewhere = start(harness, "other")
        if bound == "gateway":
            assert reason_in(await refusal(elsewhere)) == "TOO_MANY_COMMANDS"
        else:
            await (await other.take_relay()).send_bytes(frame_of(EXIT))
            assert await events_of(elsewhere) == [EXIT.event]
        asking = asyncio.create_task(harness.stat())
        await supervisor.next_open()
        asking.cancel()
        await relay.send_bytes(frame_of(EXIT))
        assert await events_of(first) == [EXIT.event]
        again = start(harness)
        await (await supervisor.take_relay()).send_bytes(frame_of(EXIT))
        assert await events_of(again) == [EXIT.event]


async def test_relays_that_wait_are_bounded_for_commands_too() -> None:
    """RLY-9."""
    async with running_gateway(relay=RelaySettings(max_pending_per_sandbox=1)) as harness:
        supervisor = await supervisor_of(harness)
        first = start(harness)
        await supervisor.next_open()
        caught = await refusal(start(harness))
        assert (reason_in(caught), retry_seconds_in(caught)) == ("TOO_MANY_TRANSFERS", 1)
        first.cancel()


async def test_a_refused_relay(harness: GatewayHarness) -> None:
    """RLY-17: and the command is not counted any more."""
    supervisor = await supervisor_of(harness)
    call = start(harness)
    relay_open = await supervisor.next_open()
    result = openshell_pb2.RelayOpenResult(channel_id=relay_open.channel_id, success=False, error="no room")
    await supervisor.say(openshell_pb2.SupervisorMessage(relay_open_result=result))
    caught = await refusal(call)
    assert reason_in(caught) == "RELAY_REFUSED"
    assert harness.gateway._commands.statistics().active == 0


async def made_sandbox(harness: GatewayHarness, environment: dict[str, str]) -> FakeSupervisor:
    channel: Any = harness.channel()
    request = sandboxes_pb2.CreateSandboxRequest(
        name="made", spec=sandboxes_pb2.SandboxSpec(environment=environment)
    )
    made = sandboxes_pb2.SandboxResponse.FromString(
        await channel.unary_unary(methods.CREATE_SANDBOX)(
            request.SerializeToString(), metadata=harness.user()
        )
    )
    return await supervisor_of(harness, made.sandbox.metadata.id)


async def test_the_environment_of_the_sandbox(computing: GatewayHarness) -> None:
    """EXE-15: lies under the command's own."""
    supervisor = await made_sandbox(computing, {"BOTH": "sandbox", "SANDBOX": "s"})
    call = start(computing, "made", environment={"BOTH": "command", "COMMAND": "c"})
    relay = await supervisor.take_relay()
    frame = await opened(relay)
    assert dict(frame.request.environment) == {"BOTH": "command", "SANDBOX": "s", "COMMAND": "c"}
    await relay.send_bytes(frame_of(EXIT))
    assert await events_of(call) == [EXIT.event]


async def test_a_command_that_fits_no_frame(computing: GatewayHarness) -> None:
    """EXE-1, FRM-11: with the sandbox's environment it is too large, which its caller is told."""
    supervisor = await made_sandbox(computing, {f"A{number}": "x" * 32_000 for number in range(8)})
    call = start(computing, "made", stdin=b"x" * 900_000)
    relay = await supervisor.take_relay()
    assert field_in(await refusal(call)) == "request"
    assert await relay.call.read() is grpc.aio.EOF, "nothing of it was sent"
