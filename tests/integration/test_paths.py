"""Hostile and mistaken paths, through everything (PTH-1 to PTH-6, must hold 5)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
from dev_command import DevSandbox, DevStack, command
from directory_snapshot import snapshot
from gateway_harness import SANDBOX, running_gateway
from kill_scene import STAGING_PREFIX
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from stack_client import StackClient, reason_of, stack_client

CONTENT = b"must not get anywhere"

#: Path → reason for an upload, reason for a download. None: it works, and
#: stays inside.
REFUSED: dict[str, tuple[str, Reason, Reason]] = {
    "empty": ("", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "NUL": ("a\0b", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "dot": (".", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "dot-dot": ("..", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "dot-dot-first": ("../../outside/secret", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "dot-dot-inside": ("/sandbox/../../outside/secret", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "root": ("/", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "trailing-slash": ("file/", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "long-name": ("n" * 256, Reason.INVALID_PATH, Reason.INVALID_PATH),
    "long-path": ("d/" * 2048 + "f", Reason.INVALID_PATH, Reason.INVALID_PATH),
    "directory": ("directory", Reason.IS_A_DIRECTORY, Reason.IS_A_DIRECTORY),
    "fifo": ("fifo", Reason.NOT_A_REGULAR_FILE, Reason.NOT_A_REGULAR_FILE),
    "socket": ("socket", Reason.NOT_A_REGULAR_FILE, Reason.NOT_A_REGULAR_FILE),
    "link-to-file": ("link-to-file", Reason.LEAF_IS_LINK, Reason.LEAF_IS_LINK),
    "link-to-nothing": ("link-to-nothing", Reason.LEAF_IS_LINK, Reason.LEAF_IS_LINK),
    "link-out-leaf": ("link-out", Reason.LEAF_IS_LINK, Reason.LEAF_IS_LINK),
    "missing-file": ("missing", Reason.FILE_NOT_FOUND, Reason.FILE_NOT_FOUND),
    "missing-parent": ("missing/file", Reason.PARENT_NOT_FOUND, Reason.PARENT_NOT_FOUND),
    "file-on-the-way": ("file/below", Reason.NOT_A_DIRECTORY, Reason.NOT_A_DIRECTORY),
    # A link out of the root is resolved inside it, where its target is missing.
    "link-out-on-the-way": ("link-out/secret", Reason.PARENT_NOT_FOUND, Reason.PARENT_NOT_FOUND),
    "climbing-link": ("climbing-link/secret", Reason.PARENT_NOT_FOUND, Reason.PARENT_NOT_FOUND),
    "loop": ("loop/file", Reason.INVALID_PATH, Reason.INVALID_PATH),
    # Commands see the machine's /proc, files are the sandbox's (PTH-8).
    "proc-self-root": ("/proc/self/root/etc/hostname", Reason.PATH_FORBIDDEN, Reason.PATH_FORBIDDEN),
}

#: For an upload a missing file is none too few.
DOWNLOAD_ONLY = {"missing-file"}


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that no sandbox owns, where the links lead to."""
    directory = tmp_path_factory.mktemp("outside")
    (directory / "secret").write_bytes(b"secret")
    return directory


@pytest.fixture(scope="session")
def sandbox(stack: DevStack, outside: Path) -> DevSandbox:
    """The last sandbox, with everything that a path could stumble over."""
    chosen = stack.sandboxes[3]
    here = chosen.directory
    (here / "directory").mkdir()
    (here / "file").write_bytes(b"file")
    os.mkfifo(here / "fifo")
    # By a descriptor: an address has at most 107 bytes, and a test's directory can have more.
    descriptor = os.open(here, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{descriptor}/socket")
    os.close(descriptor)
    (here / "link-to-file").symlink_to("file")
    (here / "link-to-nothing").symlink_to("nothing")
    (here / "link-out").symlink_to(outside)
    climb = "../" * 40 + str(outside).lstrip("/")
    (here / "climbing-link").symlink_to(climb)
    (here / "loop").symlink_to("loop")
    return chosen


@pytest.fixture
async def client(stack: DevStack) -> AsyncGenerator[StackClient, None]:
    async with stack_client(stack.endpoint, stack.token) as connected:
        yield connected


async def _upload(client: StackClient, sandbox: DevSandbox, path: str) -> None:
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=sandbox.id, remote_path=path, size_bytes=len(CONTENT), mode=0o666
    )
    await client.upload(metadata, CONTENT)


def _check(error: grpc.aio.AioRpcError, reason: Reason) -> None:
    assert reason_of(error) == reason.name
    assert error.code().value[0] == reason.row.code.value


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in DOWNLOAD_ONLY])
async def test_an_upload_is_refused(
    client: StackClient, sandbox: DevSandbox, outside: Path, case: str
) -> None:
    """PTH-2 to PTH-6: for its reason, and nothing changes inside or outside."""
    path, reason, _ = REFUSED[case]
    before = snapshot(outside), snapshot(sandbox.root)
    assert before[0]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _upload(client, sandbox, path)
    _check(caught.value, reason)
    assert (snapshot(outside), _without_directory_times(snapshot(sandbox.root))) == (
        before[0],
        _without_directory_times(before[1]),
    )
    assert not [name for name in os.listdir(sandbox.directory) if name.startswith(STAGING_PREFIX)]


@pytest.mark.parametrize("case", REFUSED)
async def test_a_download_is_refused(
    client: StackClient, sandbox: DevSandbox, outside: Path, case: str
) -> None:
    """PTH-2 to PTH-6: for its reason; nothing is opened that blocks."""
    path, _, reason = REFUSED[case]
    before = snapshot(outside), snapshot(sandbox.root)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.download(files_pb2.DownloadFileRequest(sandbox_id=sandbox.id, remote_path=path))
    _check(caught.value, reason)
    assert (snapshot(outside), snapshot(sandbox.root)) == before


@pytest.mark.parametrize("policy", [files_pb2.LEAF_LINK_POLICY_FOLLOW, files_pb2.LEAF_LINK_POLICY_REPLACE])
async def test_a_link_out_of_the_root_stays_inside(
    client: StackClient, sandbox: DevSandbox, outside: Path, policy: files_pb2.LeafLinkPolicy.ValueType
) -> None:
    """PTH-3: whatever the caller allows, what is outside is never reached."""
    leaf = sandbox.directory / f"leaf-{policy}"
    leaf.symlink_to(outside / "secret")
    before = snapshot(outside)
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=sandbox.id, remote_path=leaf.name, size_bytes=len(CONTENT), leaf_link=policy
    )
    if policy == files_pb2.LEAF_LINK_POLICY_REPLACE:
        await client.upload(metadata, CONTENT)
        assert not leaf.is_symlink()
        assert leaf.read_bytes() == CONTENT
    else:
        # Followed inside the root, where the directories of the target are missing.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.upload(metadata, CONTENT)
        _check(caught.value, Reason.PARENT_NOT_FOUND)
    assert snapshot(outside) == before


async def test_proc_self_root(tmp_path: Path, outside: Path) -> None:
    """PTH-11, PTH-5: magic links are not followed, with a real procfs inside the root.

    Only a sandbox whose root is that of this machine has one here. Its
    supervisor's own root is `/proc/self/root`.
    """
    token_file = tmp_path / "token"
    async with running_gateway() as harness:
        token_file.write_text(harness.supervisor().token, "ascii")
        process = await asyncio.create_subprocess_exec(
            command("openshell-supervisor-sim"), "run", "--exit-on-stdin-close", "--endpoint", harness.endpoint,
            "--sandbox-id", SANDBOX, "--token-file", str(token_file), "--root", "/",
            "--workdir", str(tmp_path), "--state-dir", str(tmp_path / "state"),
            stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        before = snapshot(outside)
        try:
            async with stack_client(harness.endpoint, harness.identity_provider.issue()) as client:
                for path in ("/proc/self/root", "/proc/self/cwd", f"/proc/{process.pid}/root"):
                    for transfer in (
                        client.upload(
                            files_pb2.UploadFileMetadata(
                                sandbox_id=SANDBOX, remote_path=f"{path}{outside}/secret", size_bytes=7
                            ),
                            b"hostile",
                        ),
                        client.download(
                            files_pb2.DownloadFileRequest(
                                sandbox_id=SANDBOX, remote_path=f"{path}{outside}/secret"
                            )
                        ),
                    ):
                        with pytest.raises(grpc.aio.AioRpcError) as caught:
                            await transfer
                        _check(caught.value, Reason.PATH_FORBIDDEN)
                # The same place by its honest name is inside this root.
                request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path=f"{outside}/secret")
                assert (await client.download(request)).content == b"secret"
        finally:
            process.terminate()
            await process.wait()
            assert process.stdin is not None
            process.stdin.close()
        assert process.returncode == 0
        assert snapshot(outside) == before


async def test_nothing_stands_still_afterwards(client: StackClient, sandbox: DevSandbox) -> None:
    """PTH-15: after all these refusals, the FIFO among them, the sandbox serves as before."""
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=sandbox.id, remote_path="honest", size_bytes=len(CONTENT)
    )
    assert (await client.upload(metadata, CONTENT)).bytes_written == len(CONTENT)
    request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.id, remote_path="honest")
    assert (await client.download(request)).content == CONTENT


def _without_directory_times(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Return a snapshot without the times of directories, in which a staging file came and went."""
    return {
        path: (facts[0], facts[4:]) if str(facts[0]).startswith("d") else facts
        for path, facts in found.items()
    }
