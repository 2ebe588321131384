"""Slots of unfinished uploads: who takes one, who gives way, and what leaves nothing behind (RSM-26 to RSM-30, RSM-34, RSM-36)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Peer,
    Refused,
    Sandbox,
    abort_upload,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    until,
)
from digest_values import OTHER, digest_of
from google.protobuf.duration_pb2 import Duration
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.limits import Limits

RECEIVING, EXPIRED = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_EXPIRED
OWN, ALL = 3, 5


@pytest.fixture
async def agent(sandbox: Sandbox) -> AsyncIterator[FileAgent]:
    """An agent with few slots."""
    sandbox.settings = replace(sandbox.settings, max_uploads=ALL, max_uploads_per_principal=OWN)
    agent = sandbox.agent()
    await agent.start()
    try:
        yield agent
    finally:
        await agent.aclose()


async def fill(agent: FileAgent, sandbox: Sandbox, principal: str = "alice", count: int = OWN) -> list[str]:
    """Begin uploads, each a second after the one before it."""
    ids = list[str]()
    for number in range(count):
        sandbox.now[0] += 1
        path = f"/{principal}-{number}"
        ids.append((await start_upload(agent, path, principal=principal, request_id=path)).upload_id)
    return ids


async def test_the_one_that_moved_least_recently_gives_way(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-26, RSM-27: of the same caller; nobody waits for expiry."""
    first, second, third = await fill(agent, sandbox)
    sandbox.now[0] += 1
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/alice-0", upload_id=first, epoch=1)))
        await peer.data(0, b"x")
        peer.to_agent.end()
        await peer.error()
    sandbox.now[0] += 1
    await start_upload(agent, "/new")
    states = {name: await get_upload(agent, name) for name in (first, second, third)}
    assert [states[name].state for name in (first, second, third)] == [RECEIVING, EXPIRED, RECEIVING]
    assert states[second].failure_reason == "TOO_MANY_UPLOADS"
    assert len(sandbox.leftovers()) == OWN
    with pytest.raises(Refused) as refused:
        await put(agent, "/alice-1", b"", request_id="/alice-1")
    assert refused.value.reason is Reason.UPLOAD_EXPIRED


async def test_one_with_a_stream_does_not_give_way(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-27, RSM-29: if all have one, the newest is refused, and told what helps."""
    ids = await fill(agent, sandbox)
    peers = [Peer(agent) for _ in ids]
    try:
        for number, (peer, upload_id) in enumerate(zip(peers, ids, strict=True)):
            await peer.send(opened(upload=metadata(f"/alice-{number}", upload_id=upload_id, epoch=1)))
            await peer.accepted()
        with pytest.raises(Refused) as refused:
            await start_upload(agent, "/new")
        assert refused.value.reason is Reason.TOO_MANY_UPLOADS
        assert refused.value.metadata == {"max_uploads_per_principal": str(OWN)}
        assert "openshell-files uploads" in refused.value.message
        assert "openshell-files abort" in refused.value.message
    finally:
        for peer in peers:
            await peer.vanish()
    assert [(await get_upload(agent, name)).state for name in ids] == [RECEIVING] * OWN


async def test_another_principals_never_gives_way(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-28: one caller has its own slots; when the sandbox has no more, its own uploads give way first."""
    alice = await fill(agent, sandbox, "alice")
    bob = await fill(agent, sandbox, "bob", ALL - OWN)
    with pytest.raises(Refused) as refused:
        await start_upload(agent, "/carol", principal="carol")
    assert refused.value.reason is Reason.TOO_MANY_UPLOADS
    assert refused.value.metadata == {"max_uploads_per_sandbox": str(ALL)}
    sandbox.now[0] += 1
    await start_upload(agent, "/bob-new", principal="bob")
    assert (await get_upload(agent, bob[0], principal="bob")).state == EXPIRED
    assert [(await get_upload(agent, name)).state for name in alice] == [RECEIVING] * OWN
    await abort_upload(agent, alice[0])
    await start_upload(agent, "/carol", principal="carol")


async def test_a_file_in_one_message_takes_no_slot(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-30, UPL-16: it is over before anybody could count it."""
    ids = await fill(agent, sandbox)
    content = b"abc"
    about = metadata("/small", len(content), explicit=False, request_id="small")
    request = files_pb2.WriteFileRequest(
        metadata=about, content=content, crc32c=crc32c(content), digest=digest_of(content)
    )
    async with peer_of(agent) as peer:
        await peer.send(opened(write_file=request))
        await peer.answer()
    assert (sandbox.root / "small").read_bytes() == content
    assert [(await get_upload(agent, name)).state for name in ids] == [RECEIVING] * OWN


def _cut(peer: Peer) -> Any:
    peer.to_agent.end()
    return peer.error()


def _break(peer: Peer) -> Any:
    return peer.vanish()


async def _cancel(peer: Peer) -> None:
    await peer.input_end(cancelled=True)
    await peer.error()


async def _kill(peer: Peer) -> None:
    peer.task.cancel()
    await asyncio.wait({peer.task})


async def _wrong_chunk(peer: Peer) -> None:
    await peer.data(3, b"x", crc=1)
    await peer.error()


async def _wrong_digest(peer: Peer) -> None:
    await peer.finish(size=3, digest=OTHER)
    await peer.error()


ENDS = [_cut, _break, _cancel, _kill, _wrong_chunk, _wrong_digest]


@pytest.mark.parametrize("end", ENDS)
async def test_what_nobody_can_resume_leaves_nothing(agent: FileAgent, sandbox: Sandbox, end: Any) -> None:
    """RSM-36: without a name it is freed as soon as its stream ends, however that ends, 30 times over."""
    for number in range(30):
        peer = Peer(agent)
        sandbox.traced.clear()
        await peer.send(opened(upload=metadata(f"/file-{number}", 4)))
        await peer.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        await end(peer)
    assert not list(sandbox.root.iterdir())
    statistics = agent.statistics()
    assert (statistics.unfinished_uploads, statistics.staged_bytes, statistics.bytes_buffered) == (0, 0, 0)


async def test_what_was_given_up_leaves_nothing(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-34: who gives up frees slot and bytes, as often as it likes."""
    for number in range(30):
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", 4, request_id=str(number))))
            await peer.data(0, b"abc")
            await peer.input_end(cancelled=True)
            await peer.error()
        await abort_upload(agent, (await get_upload(agent, request_id=str(number))).upload_id)
    assert not sandbox.leftovers()
    assert agent.statistics().unfinished_uploads == 0


AGENT = Limits(
    max_chunk_bytes=500_000,
    max_file_bytes=100,
    max_uploads=10,
    max_uploads_per_principal=5,
    upload_expiry=60.0,
    idle_timeout=30.0,
)


@pytest.mark.parametrize(
    ("theirs", "taken"),
    [
        ({}, {}),
        ({"max_file_bytes": 99}, {"max_file_bytes": 99}),
        ({"max_file_bytes": 101}, {}),
        ({"max_uploads_per_sandbox": 9}, {"max_uploads": 9}),
        ({"max_uploads_per_sandbox": 11}, {}),
        ({"max_uploads_per_principal": 2}, {"max_uploads_per_principal": 2}),
        ({"max_uploads_per_principal": 6}, {}),
        ({"upload_expiry": Duration(seconds=59)}, {"upload_expiry": 59.0}),
        ({"upload_expiry": Duration(seconds=61)}, {}),
        ({"idle_timeout": Duration(nanos=500_000_000)}, {"idle_timeout": 0.5}),
        ({"idle_timeout": Duration(seconds=-1)}, {}),
    ],
)
def test_the_stricter_of_two_limits(theirs: dict[str, Any], taken: dict[str, Any]) -> None:
    """RSM-26: the agent's own, or the gateway's; one that the gateway does not give is the agent's."""
    opened = file_relay_pb2.FileRelayOpen(limits=file_relay_pb2.FileRelayLimits(**theirs))
    assert AGENT.stricter(opened) == replace(AGENT, **taken)


@pytest.mark.parametrize(("theirs", "taken"), [(0, 500_000), (499_999, 499_999), (500_001, 500_000)])
def test_the_smaller_chunk(theirs: int, taken: int) -> None:
    """UPL-24"""
    assert AGENT.stricter(file_relay_pb2.FileRelayOpen(max_chunk_bytes=theirs)).max_chunk_bytes == taken
