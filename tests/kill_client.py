"""The client that dies: a process that starts the transfers it is told to.

Run as a program it reads one JSON object per line from standard input. A test
imports the same functions and makes the same transfers itself.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from openshell_files import NO_RETRY, AsyncFilesClient, OidcAuth
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import CHUNK_BYTES, StackClient, stack_client

#: Sixteen chunks, the last of them not full.
FILE_BYTES = 16 * CHUNK_BYTES - 77
CHUNKS = 16


@functools.lru_cache(64)
def content_of(label: str, size: int = FILE_BYTES) -> bytes:
    """Return bytes that say whose they are: another label gives others."""
    return random.Random(label).randbytes(size)


@dataclass(frozen=True)
class UploadOrder:
    """An upload that is started.

    Attributes:
        sandbox_id: where to.
        remote: the destination.
        label: of the content.
        transfer_id: for the logs.
        request_id: name by which the upload can be found again, or empty.
        stop_after: chunks after which the client falls silent; None finishes.
    """

    sandbox_id: str
    remote: str
    label: str
    transfer_id: str
    request_id: str
    stop_after: int | None


@dataclass(frozen=True)
class DownloadOrder:
    """A download that is started."""

    sandbox_id: str
    remote: str
    local: str


async def carry_out_upload(
    client: StackClient, order: UploadOrder, on_metadata_sent: Callable[[], object]
) -> files_pb2.UploadFileResponse:
    """Upload as ordered, without any repair."""
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=order.sandbox_id,
        remote_path=order.remote,
        size_bytes=FILE_BYTES,
        request_id=order.request_id,
    )
    return await client.upload(
        metadata,
        content_of(order.label),
        transfer_id=order.transfer_id,
        stop_after=order.stop_after,
        on_metadata_sent=on_metadata_sent,
    )


async def carry_out_download(client: AsyncFilesClient, order: DownloadOrder) -> None:
    """Download as ordered with the SDK, whose job the local file is."""
    await client.sandbox(id=order.sandbox_id).download_path(order.remote, order.local)


def sdk_client(endpoint: str, token: str) -> AsyncFilesClient:
    """Return a client that tries once."""
    return AsyncFilesClient(endpoint, auth=OidcAuth(token), retry=NO_RETRY)


def to_line(order: UploadOrder | DownloadOrder) -> bytes:
    """Return the order as a line for the program."""
    kind = "upload" if isinstance(order, UploadOrder) else "download"
    return json.dumps({"kind": kind, **asdict(order)}).encode() + b"\n"


async def _main(endpoint: str, token: str) -> None:
    loop = asyncio.get_running_loop()
    async with (
        stack_client(endpoint, token) as client,
        sdk_client(endpoint, token) as sdk,
        asyncio.TaskGroup() as tasks,
    ):
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            if order.pop("kind") == "upload":
                upload = UploadOrder(**order)
                tell = _teller(upload.transfer_id)
                tasks.create_task(carry_out_upload(client, upload, tell))
            else:
                tasks.create_task(carry_out_download(sdk, DownloadOrder(**order)))


def _teller(transfer_id: str) -> Callable[[], object]:
    return lambda: print(transfer_id, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
