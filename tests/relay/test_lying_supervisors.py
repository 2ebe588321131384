"""Supervisors with a valid token that lie: what each of those feels whom it concerns, and nobody else does.

Each lie is told to one gateway while a call into another sandbox is under way; that call succeeds, and afterwards the
gateway holds nothing. More of it: a wrong hello, a claim by a user, an end without a result and an SSH banner in
test_relays_on_the_wire.py; a wrong kind of answer, silence in an upload and many transfers in test_limits_on_the_wire.py;
what agents say inside frames in test_hostile_agents.py; a thousand supervisors that come and go in test_churn.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, cast

import grpc
import pytest
from gateway_harness import (
    OTHER_SANDBOX,
    pour,
)
from lying_scene import ANSWER, ANSWER_BYTES, OK, UPLOAD, Scene, grpc_poller, lying
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_FRAME_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2


@pytest.fixture(scope="module", autouse=True)
def poller() -> Generator[None]:
    with grpc_poller():
        yield


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Scene]:
    async with lying(monkeypatch) as scene:
        yield scene


async def ignores_an_open(scene: Scene) -> list[str]:
    asking = scene.ask()
    await scene.liar.next_open()
    return [await asking]


async def says_yes_and_does_nothing(scene: Scene) -> list[str]:
    asking = scene.ask()
    opened = await scene.liar.next_open()
    result = openshell_pb2.RelayOpenResult(channel_id=opened.channel_id, success=True)
    await scene.say(scene.liar, openshell_pb2.SupervisorMessage(relay_open_result=result))
    return [await asking]


async def claims_after_the_time(scene: Scene) -> list[str]:
    asking = scene.ask()
    opened = await scene.liar.next_open()
    caller = await asking
    return [caller, await scene.end_of(await scene.claim(opened.channel_id))]


async def refuses_after_the_time(scene: Scene) -> list[str]:
    asking = scene.ask()
    opened = await scene.liar.next_open()
    caller = await asking
    await scene.refuse(opened.channel_id)
    return [caller]


async def claims_what_was_never_opened(scene: Scene) -> list[str]:
    return [await scene.end_of(await scene.claim("no-such-channel"))]


async def claims_anothers_channel(scene: Scene) -> list[str]:
    """And the rightful one is served nevertheless."""
    asking = asyncio.create_task(scene.outcome(scene.harness.stat(OTHER_SANDBOX)))
    opened = await scene.honest.next_open()
    thief = await scene.end_of(await scene.claim(opened.channel_id))
    await (await scene.honest.claim(opened.channel_id)).answer(ANSWER)
    return [await asking, thief]


async def refuses_anothers_channel(scene: Scene) -> list[str]:
    asking = asyncio.create_task(scene.outcome(scene.harness.stat(OTHER_SANDBOX)))
    opened = await scene.honest.next_open()
    await scene.refuse(opened.channel_id)
    # The gateway reads a stream in order: once this refusal was heard, so was that.
    own = scene.ask()
    await scene.refuse((await scene.liar.next_open()).channel_id)
    refused = await own
    await (await scene.honest.claim(opened.channel_id)).answer(ANSWER)
    return [await asking, refused]


async def opens_twice(scene: Scene) -> list[str]:
    """The second claim gets nothing, and does not disturb the first."""
    asking = scene.ask()
    opened = await scene.liar.next_open()
    first = await scene.liar.claim(opened.channel_id)
    second = await scene.end_of(await scene.claim(opened.channel_id))
    await first.answer(ANSWER)
    return [await asking, second]


async def sends_data_after_close(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.answer(ANSWER)
    caller = await asking
    data = openshell_pb2.RelayFrame(data=bytes(100_000))
    _, relay_end = await asyncio.gather(pour(relay.call, data.SerializeToString()), scene.end_of(relay))
    return [caller, relay_end]


async def answers_twice_in_one_message(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.send_bytes(ANSWER_BYTES * 2 + b"and more")
    return [await asking]


async def answers_byte_by_byte(scene: Scene) -> list[str]:
    """FRM-1: slow, and right."""
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    for byte in ANSWER_BYTES:
        await relay.send_bytes(bytes([byte]))
    return [await asking]


async def goes_silent_after_the_claim(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    return [await asking, await scene.end_of(relay)]


async def floods_with_nothing(scene: Scene) -> list[str]:
    """RLY-10: frames without content are taken, as upstream's supervisor sends some, but not for ever; then nothing is opened."""
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    empty = openshell_pb2.RelayFrame(data=b"").SerializeToString()
    caller, _, relay_end = await asyncio.gather(asking, pour(relay.call, empty), scene.end_of(relay))
    return [caller, relay_end, await scene.ask()]


async def has_much_to_say(scene: Scene) -> list[str]:
    """RLY-10: what comes above the pace waits, and what the supervisor owes comes in its turn."""

    async def talk() -> None:
        for _ in range(600):
            await scene.refuse("no-such-channel")

    talking = asyncio.create_task(talk())
    asking = scene.ask()
    await (await scene.liar.take_relay()).answer(ANSWER)
    outcome = await asking
    await talking
    return [outcome]


async def floods_the_session(scene: Scene) -> list[str]:
    """RLY-25, RLY-26: the session ends, and for a while no other is begun."""
    # One that sends no heartbeats beside it: a call takes one message at a time.
    flooding = scene.harness.supervisor()
    await flooding.connect()
    result = openshell_pb2.RelayOpenResult(channel_id="no-such-channel", success=False, error="flood")
    flood = openshell_pb2.SupervisorMessage(relay_open_result=result).SerializeToString()
    _, ended = await asyncio.gather(pour(flooding.call, flood), scene.outcome(scene.end_heard(flooding)))
    return [ended, await scene.outcome(scene.harness.supervisor().connect())]


async def begins_a_relay_twice(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    again = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="another"))
    await relay.call.write(again.SerializeToString())
    return [await asking]


async def sends_what_is_no_relay_frame(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.call.write(b"\xff\xff\xff\xff")
    return [await asking]


async def announces_a_huge_frame(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    accepted = file_relay_pb2.FileRelayResponse(accepted=file_relay_pb2.FileRelayAccepted())
    await relay.answer(accepted)
    size = MAX_FRAME_BYTES + 1
    await relay.send_bytes(bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]))
    return [await asking]


async def answers_content_to_a_question(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    content = files_pb2.DownloadFileResponse(chunk=b"content")
    await relay.answer(file_relay_pb2.FileRelayResponse(download=content))
    return [await asking]


async def dies_in_the_middle(scene: Scene) -> list[str]:
    """Its stream is reset, and nothing said that the answer is complete."""
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.send_bytes(ANSWER_BYTES[:-1])
    relay.call.cancel()
    return [await asking]


async def ends_in_the_middle(scene: Scene) -> list[str]:
    asking = scene.ask()
    relay = await scene.liar.take_relay()
    await relay.send_bytes(ANSWER_BYTES[:-1])
    await relay.call.done_writing()
    return [await asking]


async def takes_an_upload_and_reads_nothing(scene: Scene) -> list[str]:
    """TRANSFER_IDLE once everything that holds content on the way is full."""
    call = cast(
        "Any", scene.harness.channel().stream_unary(methods.UPLOAD_FILE)(metadata=scene.harness.user())
    )
    await call.write(UPLOAD.SerializeToString())
    await scene.liar.take_relay()
    piece = files_pb2.UploadFileRequest(chunk=bytes(200_000)).SerializeToString()
    pouring = asyncio.create_task(pour(call, piece))
    outcome = await scene.outcome(call)
    await pouring
    return [outcome]


#: Who lies how, and the reasons with which those calls end whom it concerns: first the caller's, then the liar's own.
LIES: list[tuple[Callable[[Scene], Awaitable[list[str]]], list[str]]] = [
    (ignores_an_open, ["RELAY_TIMEOUT"]),
    (says_yes_and_does_nothing, ["RELAY_TIMEOUT"]),
    (claims_after_the_time, ["RELAY_TIMEOUT", "RELAY_UNKNOWN"]),
    (refuses_after_the_time, ["RELAY_TIMEOUT"]),
    (claims_what_was_never_opened, ["RELAY_UNKNOWN"]),
    (claims_anothers_channel, [OK, "SANDBOX_MISMATCH"]),
    (refuses_anothers_channel, [OK, "RELAY_REFUSED"]),
    (opens_twice, [OK, "RELAY_UNKNOWN"]),
    (sends_data_after_close, [OK, OK]),
    (answers_twice_in_one_message, [OK]),
    (answers_byte_by_byte, [OK]),
    (goes_silent_after_the_claim, ["TRANSFER_IDLE", OK]),
    (floods_with_nothing, ["SUPERVISOR_FLOODS", OK, "SUPERVISOR_FLOODS"]),
    (has_much_to_say, [OK]),
    (floods_the_session, ["SUPERVISOR_FLOODS", "SUPERVISOR_FLOODS"]),
    (begins_a_relay_twice, ["AGENT_PROTOCOL_ERROR"]),
    (sends_what_is_no_relay_frame, ["AGENT_PROTOCOL_ERROR"]),
    (announces_a_huge_frame, ["AGENT_PROTOCOL_ERROR"]),
    (answers_content_to_a_question, ["AGENT_PROTOCOL_ERROR"]),
    (dies_in_the_middle, ["RELAY_LOST"]),
    (ends_in_the_middle, ["RELAY_LOST"]),
    (takes_an_upload_and_reads_nothing, ["TRANSFER_IDLE"]),
]


@pytest.mark.parametrize(("lie", "outcomes"), LIES, ids=[lie.__name__ for lie, _ in LIES])
async def test_a_lie_and_whom_it_concerns(
    scene: Scene, lie: Callable[[Scene], Awaitable[list[str]]], outcomes: list[str]
) -> None:
    """FRM-3, FRM-5, RLY-3, RLY-5: the documented status for each, and a call into the other sandbox succeeds meanwhile."""
    telling = asyncio.create_task(asyncio.wait_for(lie(scene), 60))
    if lie not in {claims_anothers_channel, refuses_anothers_channel}:  # those are about the other sandbox
        asking = asyncio.create_task(scene.harness.stat(OTHER_SANDBOX))
        await scene.serve()
        assert (await asking).file.size_bytes == 5
    assert await telling == outcomes
    asking = asyncio.create_task(scene.harness.stat(OTHER_SANDBOX))
    await scene.serve()
    assert (await asking).file.size_bytes == 5


async def test_a_session_that_falls_silent_is_closed(scene: Scene) -> None:
    """RLY-7: its next caller hears that nobody is there, and does not wait for a claim in vain."""
    silent = scene.harness.supervisor()
    await silent.connect()  # in the place of the one that sends heartbeats
    asking = asyncio.create_task(scene.harness.stat(OTHER_SANDBOX))
    await scene.serve()
    assert (await asking).file.size_bytes == 5
    assert await silent.hear() is None
    assert await silent.call.code() is grpc.StatusCode.OK
    assert await scene.ask() == "SUPERVISOR_NOT_CONNECTED"
