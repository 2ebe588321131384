"""An upload of a sparse file: content between two holes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agent.agent_harness import (
    metadata,
    opened,
    peer_of,
    start_upload,
)
from digest_values import BLAKE3, SHA256, Algorithm, finish_of
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent

#: 6 MiB: content in the middle, and holes around.
SIZE = 6 * MIB


DATA_AT = 2 * MIB - 100


DATA = b"content " * 1000


CONTENT = bytes(DATA_AT) + DATA + bytes(SIZE - DATA_AT - len(DATA))


BOTH = [BLAKE3, SHA256]


def finish(content: bytes, algorithm: Algorithm = BLAKE3) -> files_pb2.UploadFileRequest:
    return files_pb2.UploadFileRequest(finish=finish_of(content, algorithm))


def going_on(status: files_pb2.UploadStatus, **fields: Any) -> files_pb2.UploadFileMetadata:
    fields.setdefault("accepted_digests", BOTH)
    return metadata("/file", SIZE, upload_id=status.upload_id, epoch=status.epoch, **fields)


async def start(agent: FileAgent, **fields: Any) -> files_pb2.UploadStatus:
    fields.setdefault("accepted_digests", BOTH)
    return await start_upload(agent, "/file", SIZE, **fields)


async def send_content(peer: Any, offset: int = 0) -> None:
    """Send from `offset` on: a hole, content, a hole."""
    if offset < DATA_AT:
        await peer.data(offset, b"", hole=DATA_AT - offset)
        offset = DATA_AT
    if offset < DATA_AT + len(DATA):
        await peer.data(offset, CONTENT[offset : DATA_AT + len(DATA)])
        offset = DATA_AT + len(DATA)
    await peer.data(offset, b"", hole=SIZE - offset)


async def finish_staged(agent: FileAgent, status: files_pb2.UploadStatus) -> files_pb2.UploadFileResponse:
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.upload_message(finish(CONTENT))
        return (await peer.answer()).upload


def write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
