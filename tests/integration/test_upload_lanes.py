"""Uploads over several streams, through all processes (LAN-1)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import far_client
import pytest
from conditions import block_until
from dev_command import DevStack
from far_client import everything_is_far
from kill_client import content_of
from openshell_files import AsyncFilesClient, FilesClient, OidcAuth
from openshell_files._async.rpc import Rpc as AsyncRpc
from openshell_files._sync.rpc import Rpc
from openshell_files.results import UploadResult
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

SIZE = 40 * MIB + 77


@pytest.fixture
def far() -> Generator[None]:
    with everything_is_far():
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content_of("lanes", SIZE))
    return path


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of streams of every UploadFile."""
    found: list[int] = []
    plain, plain_async = Rpc.upload_file, AsyncRpc.upload_file

    def upload_file(self: Rpc, metadata: files_pb2.UploadFileMetadata, deadline: object) -> object:
        found.append(metadata.lanes)
        return plain(self, metadata, deadline)  # type: ignore[arg-type]

    async def upload_file_async(
        self: AsyncRpc, metadata: files_pb2.UploadFileMetadata, deadline: object
    ) -> object:
        found.append(metadata.lanes)
        return await plain_async(self, metadata, deadline)  # type: ignore[arg-type]

    monkeypatch.setattr(Rpc, "upload_file", upload_file)
    monkeypatch.setattr(AsyncRpc, "upload_file", upload_file_async)
    return found


def client_of(stack: DevStack) -> FilesClient:
    return FilesClient(stack.endpoint, auth=OidcAuth(stack.token))


async def by_async(stack: DevStack, sandbox: str, source: Path, remote: str) -> UploadResult:
    async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        return await client.sandbox(sandbox).upload_path(source, remote)


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_a_file_arrives_over_eight_streams(
    stack: DevStack, source: Path, used: list[int], flavour: str
) -> None:
    """LAN-1: whole and once."""
    sandbox = stack.sandboxes[0]
    if flavour == "sync":
        with client_of(stack) as client:
            result = client.sandbox(sandbox.name).upload_path(source, "lanes")
    else:
        result = asyncio.run(by_async(stack, sandbox.name, source, "lanes"))
    assert used == [8]
    assert (result.size, result.attempts) == (SIZE, 1)
    assert (sandbox.directory / "lanes").read_bytes() == source.read_bytes()


@pytest.mark.usefixtures("far")
def test_more_uploads_than_lanes(stack: DevStack, source: Path, used: list[int]) -> None:
    """LAN-9: at the same time from many clients: all arrive, with as many lanes as there are, or none."""

    def upload(number: int) -> UploadResult:
        with client_of(stack) as client:
            return client.sandbox(stack.sandboxes[number % 4].name).upload_path(source, f"many-{number}")

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(upload, range(6)))
    assert {result.size for result in results} == {SIZE}
    for number in range(6):
        arrived = stack.sandboxes[number % 4].directory / f"many-{number}"
        assert arrived.read_bytes() == source.read_bytes()
        arrived.unlink()
    assert max(used) == 8


@pytest.mark.usefixtures("far")
def test_a_client_that_is_killed_leaves_nothing_torn(stack: DevStack, source: Path, used: list[int]) -> None:
    """LAN-1, UPL-8, CRS-3: the old file stays, and the upload goes on where it stopped, over lanes again."""
    sandbox = stack.sandboxes[1]
    destination = sandbox.directory / "killed"
    destination.write_bytes(b"old")
    with subprocess.Popen(
        [sys.executable, far_client.__file__, stack.endpoint, stack.token, sandbox.name, source, "killed"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        upload_id = process.stdout.readline().strip()
        assert upload_id
        process.kill()
    assert destination.read_bytes() == b"old"
    with client_of(stack) as client:
        files = client.sandbox(sandbox.name)
        # What was on its way is staged, and then no more comes.
        block_until(lambda: files.upload_status(upload_id).staged > 0, "something is staged")
        result = files.upload_path(source, "killed", upload_id=upload_id)
    assert (result.upload_id, result.size) == (upload_id, SIZE)
    assert 0 < result.resumed_from < SIZE
    assert used == [8]
    assert destination.read_bytes() == source.read_bytes()
