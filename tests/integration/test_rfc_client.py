"""A client that has nothing but the RFC's text (RFC-1 to RFC-3)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
import pytest
import rfc_messages
from dev_command import DevStack
from google.protobuf.message import Message
from kill_client import content_of
from rfc_client import RfcClient
from stack_client import reason_of


@pytest.fixture
async def client(stack: DevStack) -> AsyncGenerator[RfcClient, None]:
    async with grpc.aio.insecure_channel(stack.endpoint) as channel:
        yield RfcClient(channel, (("authorization", f"Bearer {stack.token}"),))


@pytest.mark.parametrize("size", [0, 1, rfc_messages.CHUNK_BYTES, 3_000_001])
async def test_a_file_goes_in_and_comes_out(stack: DevStack, client: RfcClient, size: int) -> None:
    """RFC-2, UPL-2, DWN-1, DWN-3: any file, also an empty one, with its mode."""
    sandbox = stack.sandboxes[0]
    content = content_of("rfc", size)
    metadata = rfc_messages.UploadFileMetadata(
        sandbox_id=sandbox.id, remote_path=f"rfc-{size}", size_bytes=size, mode=0o640
    )
    assert await client.upload(metadata, content) == size
    stored = sandbox.directory / f"rfc-{size}"
    assert stored.read_bytes() == content
    assert stored.stat().st_mode & 0o7777 == 0o640

    got = await client.download(sandbox.id, f"rfc-{size}")
    assert got.content == content
    assert got.header is not None
    assert (got.header.size_bytes, got.header.mode, got.header.is_archive) == (size, 0o640, False)
    # RFC-3: a header and chunks; nothing that this client could not read.
    assert got.kinds == ["header"] + ["chunk"] * (len(got.kinds) - 1)


@pytest.mark.parametrize("declared", [0, 999, 1001])
async def test_another_size_than_declared(stack: DevStack, client: RfcClient, declared: int) -> None:
    """UPL-31, UPL-8: SIZE_MISMATCH, and the old file stays."""
    sandbox = stack.sandboxes[0]
    (sandbox.directory / "kept").write_bytes(b"old")
    metadata = rfc_messages.UploadFileMetadata(sandbox_id=sandbox.id, remote_path="kept", size_bytes=declared)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.upload(metadata, bytes(1000))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert reason_of(caught.value) == "SIZE_MISMATCH"
    assert (sandbox.directory / "kept").read_bytes() == b"old"


def test_the_messages_are_not_ours() -> None:
    """RFC-1: the client's messages come from the RFC's text and know no extension."""
    assert issubclass(rfc_messages.UploadFileRequest, Message)
    fields = {field.number for field in rfc_messages.UploadFileRequest.DESCRIPTOR.fields}
    assert fields == {1, 2}
