"""Uploads in several attempts: what a caller does, and agents that follow each other."""

from __future__ import annotations

from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    metadata,
    opened,
    peer_of,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent


async def reason_of(awaitable: Any) -> Reason:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value.reason


def going_on(
    status: files_pb2.UploadStatus, path: str = "/file", **fields: Any
) -> files_pb2.UploadFileMetadata:
    return metadata(path, status.size_bytes, upload_id=status.upload_id, epoch=status.epoch, **fields)


async def stage(
    agent: FileAgent, status: files_pb2.UploadStatus, content: bytes, offset: int = 0, *, path: str = "/file"
) -> None:
    """Send content and lose the stream."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, path)))
        await peer.data(offset, content)
        peer.to_agent.end()
        assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE


async def finish(
    agent: FileAgent, status: files_pb2.UploadStatus, content: bytes, *, path: str = "/file"
) -> files_pb2.UploadFileResponse:
    """Send what is missing, and the finish."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, path)))
        if status.staged_bytes < len(content):
            await peer.data(status.staged_bytes, content[status.staged_bytes :])
        await peer.finish(content)
        return (await peer.answer()).upload


async def restart(agents: list[FileAgent], sandbox: Sandbox) -> FileAgent:
    await agents[-1].aclose()
    agents.append(sandbox.agent())
    await agents[-1].start()
    return agents[-1]
