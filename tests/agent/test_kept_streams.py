"""Operations that follow each other on one stream (FRM-9)."""

from __future__ import annotations

import asyncio

import pytest
from agent.agent_harness import Peer, Request, Sandbox, metadata, opened, peer_of
from conditions import until
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent


async def upload(peer: Peer, path: str, content: bytes, *, keep: bool = True) -> None:
    await peer.send(opened(upload=metadata(path, len(content)), keep_relay=keep))
    await peer.data(0, content)
    await peer.finish(content)
    # As gateways do when their caller's stream is over; the agent may have its answer before it comes.
    await peer.input_end()


def stat(path: str, *, keep: bool = True) -> Request:
    return opened(stat_file=files_pb2.StatFileRequest(remote_path=path), keep_relay=keep)


async def test_operations_of_all_kinds_one_after_the_other(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-9, FRM-24: what is left of the last one's input is thrown away, and one that failed ends as the others do."""
    async with peer_of(agent) as peer:
        for number in range(3):
            await upload(peer, "/file", b"%d" % number)
            assert (await peer.last_frame()).upload.bytes_written == 1
            assert (sandbox.root / "file").read_bytes() == b"%d" % number
            await peer.send(stat("/file"))
            assert (await peer.last_frame()).stat_file.file.size_bytes == 1
            await peer.send(stat("/missing"))
            assert (await peer.last_frame()).error.reason == "FILE_NOT_FOUND"
            download = files_pb2.DownloadFileRequest(remote_path="/file", checked=True)
            await peer.send(opened(download=download, keep_relay=True))
            assert (await peer.last_frame()).download_end.bytes_sent == 1
        await peer.send(stat("/file", keep=False))
        assert (await peer.answer()).stat_file.file.size_bytes == 1


async def test_the_next_one_may_be_there_before_the_last_one_is_answered(
    agent: FileAgent, sandbox: Sandbox
) -> None:
    """FRM-9: gateways wait for the last frame; the agent still looks for a cancellation when they have it."""
    (sandbox.root / "file").write_bytes(b"content")
    async with peer_of(agent) as peer:
        await peer.send(stat("/file"))
        await peer.send(stat("/missing", keep=False))
        assert (await peer.last_frame()).stat_file.file.size_bytes == 7
        assert (await peer.error()).reason.name == "FILE_NOT_FOUND"


async def test_nothing_follows_where_nobody_asked(agent: FileAgent) -> None:
    """FRM-32: an older gateway ends its relays, and finds them ended."""
    async with peer_of(agent) as peer:
        await upload(peer, "/file", b"content", keep=False)
        await peer.answer()


async def test_what_breaks_the_protocol_ends_the_stream(agent: FileAgent) -> None:
    """FRM-25."""
    async with peer_of(agent) as peer:
        await peer.send(stat("/"))
        await peer.last_frame()
        await peer.send_bytes(b"\xff" * 11)
        assert (await peer.error()).reason.name == "AGENT_PROTOCOL_ERROR"


async def test_what_breaks_the_protocol_in_an_operation_ends_the_stream(agent: FileAgent) -> None:
    """FRM-25: behind it nobody knows what is content and what an open, and so who is asking."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", 7), keep_relay=True))
        await peer.accepted()
        await peer.send_bytes(b"\xff" * 11)
        await peer.send(stat("/"))
        assert (await peer.error()).reason.name == "AGENT_PROTOCOL_ERROR"


async def test_what_moved_is_counted_with_each_operation(agent: FileAgent) -> None:
    async with peer_of(agent) as peer:
        await upload(peer, "/file", b"content")
        await peer.last_frame()
        await until(lambda: agent.statistics().bytes_received > 7, "the upload is counted")
        assert agent.statistics().bytes_sent > 0


async def test_a_stream_at_rest_is_no_operation(agent: FileAgent) -> None:
    """The agent closes it when the peer does."""
    async with peer_of(agent) as peer:
        await upload(peer, "/file", b"content")
        await peer.last_frame()
        await until(lambda: agent.statistics().active_operations == 0, "it rests")
        assert agent.statistics().active_uploads == 0
        await peer.vanish()


@pytest.mark.parametrize("at_rest", [True, False])
async def test_an_agent_that_finishes_waits_for_nothing(agent: FileAgent, *, at_rest: bool) -> None:
    """FRM-28: it ends streams at rest, and the others after the operation that runs."""
    async with peer_of(agent) as peer:
        if at_rest:
            await peer.send(stat("/"))
            await peer.last_frame()
            await until(lambda: agent.statistics().active_operations == 0, "it rests")
            agent.finish()
            # Less than the minute after which an idle stream ends without a finish.
            async with asyncio.timeout(20):
                await peer.over()
            return
        await peer.send(opened(upload=metadata("/file", 7), keep_relay=True))
        await peer.accepted()
        agent.finish()
        await peer.data(0, b"content")
        await peer.finish(b"content")
        assert (await peer.answer()).upload.bytes_written == 7
    async with peer_of(agent) as peer:
        await peer.send(stat("/file"))
        assert (await peer.answer()).stat_file.file.size_bytes == 7
