"""One caller cannot use up another's places: unfinished uploads and transfers that run (RSM-28, RLY-12)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from conditions import until
from openshell_files import NO_RETRY, AsyncFilesClient, AsyncSandboxFiles, OidcAuth
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import StackClient, reason_of, stack_client

#: Unfinished uploads of one caller, and of all.
OWN, ALL = 4, 8
#: Transfers at a time in a sandbox, and of one caller: three quarters.
RUNNING, RUNNING_OF_ONE = 8, 6

LARGE = bytes(2 * MIB)


@dataclass(frozen=True)
class Scene:
    """A sandbox that two callers use: the greedy one message by message, the other by the SDK."""

    sandbox_id: str
    directory: Path
    greedy: StackClient
    other: AsyncSandboxFiles
    others_client: StackClient

    def staged(self) -> int:
        """Return how many uploads have bytes in the sandbox."""
        return sum(name.startswith(".openshell-upload-") for name in os.listdir(self.directory))

    async def start(self, name: str, client: StackClient | None = None) -> str:
        """Begin an upload, of the greedy caller if nobody is named, and leave it."""
        request = files_pb2.StartUploadRequest(metadata=self.metadata(name))
        return (await (client or self.greedy).start(request)).upload.upload_id

    def metadata(self, name: str) -> files_pb2.UploadFileMetadata:
        return files_pb2.UploadFileMetadata(
            sandbox_id=self.sandbox_id, remote_path=name, size_bytes=len(LARGE), request_id=name
        )

    @contextmanager
    def streams(self, count: int) -> Generator[None]:
        """Have so many uploads of the greedy caller that have a stream, each of which says nothing more."""
        tasks = [
            asyncio.create_task(self.greedy.upload(self.metadata(f"held-{number}"), LARGE, stop_after=1))
            for number in range(count)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def scene(root: Path, **limits: float) -> AsyncGenerator[Scene]:
    async with DevelopmentStack(StackSettings(root=root, limits=dict(limits))) as stack:
        provider, sandbox = stack.identity_provider, stack.sandboxes[0]
        # The workspace has one member; an administrator is another principal in it.
        token = provider.issue(sub="somebody", realm_access={"roles": ["openshell-admin", "openshell-user"]})
        async with (
            stack_client(stack.endpoint, provider.issue()) as greedy,
            stack_client(stack.endpoint, token) as others_client,
            AsyncFilesClient(stack.endpoint, auth=OidcAuth(token), retry=NO_RETRY) as client,
        ):
            directory = Path(sandbox.root) / sandbox.workdir.lstrip("/")
            yield Scene(sandbox.id, directory, greedy, client.sandbox(sandbox.name), others_client)


async def refused(call: Awaitable[object]) -> str:
    """Wait for the end of a call that is refused, and return why."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of(caught.value)


async def test_unfinished_uploads(tmp_path: Path) -> None:
    """RSM-28: a caller that begins uploads without end pushes out its own, and nobody else's."""
    async with scene(tmp_path, max_uploads_per_principal=OWN, max_uploads_per_sandbox=ALL) as both:
        kept = await both.start("mine", both.others_client)
        for number in range(5 * ALL):
            await both.start(f"greedy-{number}")
        assert len(await both.greedy.unfinished(both.sandbox_id)) == OWN
        assert [upload.upload_id for upload in await both.other.uploads()] == [kept]
        for number in range(ALL):
            assert (await both.other.upload(LARGE, f"theirs-{number}")).size == len(LARGE)


async def test_unfinished_uploads_with_a_stream(tmp_path: Path) -> None:
    """RSM-29: none of them can give way, so the greedy caller is refused, and only that one."""
    async with scene(tmp_path, max_uploads_per_principal=OWN, max_uploads_per_sandbox=ALL) as both:
        with both.streams(OWN):
            await until(lambda: both.staged() == OWN, "every stream has brought content")
            assert await refused(both.start("one-more")) == "TOO_MANY_UPLOADS"
            assert (await both.other.upload(LARGE, "theirs")).size == len(LARGE)
            await both.other.write_bytes("small", b"1")


async def test_transfers_that_run(tmp_path: Path) -> None:
    """RLY-9, RLY-12: a part of the places in a sandbox is for others."""
    limits = {"max_transfers_per_sandbox": RUNNING, "transfer_wait": 0.2}
    async with scene(tmp_path, **limits) as both:
        with both.streams(RUNNING_OF_ONE):
            await until(lambda: both.staged() == RUNNING_OF_ONE, "every stream has brought content")
            assert await refused(both.greedy.stat(both.sandbox_id, "held-0")) == "TOO_MANY_TRANSFERS"
            for number in range(2 * RUNNING):
                await both.other.upload(LARGE, f"theirs-{number}")
                assert await both.other.read_bytes(f"theirs-{number}") == LARGE
