"""Archives end to end: through gateway and supervisor, with the tar of this machine on both ends."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import rfc_messages
from cli_scene import Cli
from dev_command import DevStack
from openshell_files import AsyncFilesClient, FilesClient, OidcAuth, Progress, SandboxFiles, errors
from openshell_files.cli.exit_codes import ExitCode
from rfc_client import RfcClient
from sdk_flavours import BlockingView
from stack_client import reason_of
from tree_manifest import differences, manifest


@pytest.fixture(params=["sync", "async"])
def files(request: pytest.FixtureRequest, stack: DevStack) -> Generator[SandboxFiles]:
    """The first sandbox, by a client of each flavour."""
    name = stack.sandboxes[0].name
    if request.param == "sync":
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            yield client.sandbox(name)
        return
    with asyncio.Runner() as runner:
        other = AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token))
        yield cast("SandboxFiles", BlockingView(runner, other.sandbox(name)))
        runner.run(other.aclose())


@pytest.fixture
def remote(stack: DevStack, tmp_path: Path) -> Generator[Path]:
    """A place in the sandbox of the test's own, as this machine sees it."""
    place = stack.sandboxes[0].directory / tmp_path.name
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a local directory with entries of each kind."""
    tree = tmp_path / "tree"
    (tree / "a/empty").mkdir(parents=True)
    (tree / "a/large").write_bytes(os.urandom(5_000_017))
    (tree / "b").write_text("small")
    (tree / "b").chmod(0o640)
    (tree / "a/link").symlink_to("../../outside")
    os.link(tree / "b", tree / "a/other name")
    (tree / os.fsdecode(b"\xff")).write_text("no UTF-8")
    for number in range(500):
        (tree / f"a/{number}").write_bytes(b"%d" % number)
    os.utime(tree / "a/empty", ns=(5, 1_000_000_000_123_456_789))
    return tree


def tar(tree: Path, *options: str) -> bytes:
    """Return the archive of a directory, by tar."""
    command = ["tar", "c", "--format=pax", *options, "-C", str(tree), "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def untar(archive: bytes, into: Path) -> Path:
    """Unpack an archive by tar."""
    into.mkdir()
    command = ["tar", "xp", "--warning=no-unknown-keyword", "-C", str(into)]
    subprocess.run(command, input=archive, check=True)
    return into


def in_pieces(archive: bytes) -> Iterator[bytes]:
    for at in range(0, len(archive), 100_000):
        yield archive[at : at + 100_000]


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda archive, _: archive,
    "path": lambda _, path: path,
    "text": lambda _, path: str(path),
    "file object": lambda archive, _: io.BytesIO(archive),
    "iterable": lambda archive, _: in_pieces(archive),
}


@pytest.mark.parametrize("source", SOURCES)
def test_unpacked_by_the_sandbox(
    files: SandboxFiles, remote: Path, tree: Path, tmp_path: Path, source: str
) -> None:
    """ARC-8 to ARC-10: from each kind of source."""
    archive = tar(tree)
    (tmp_path / "x.tar").write_bytes(archive)
    seen: list[Progress] = []
    result = files.upload_archive(
        SOURCES[source](archive, tmp_path / "x.tar"), remote.name, progress=seen.append
    )
    assert differences(manifest(tree), manifest(remote)) == []
    assert result.complete
    assert (result.entries, result.placed, result.failed) == (508, 508, 0)
    assert result.archive_bytes == len(archive) == seen[-1].transferred
    assert result.path == f"/sandbox/{remote.name}"
    assert result.attempts == 1


@pytest.mark.parametrize("option", ["-z", "--zstd"])
def test_compressed(files: SandboxFiles, remote: Path, tree: Path, option: str) -> None:
    """ARC-3"""
    if option == "--zstd" and shutil.which("zstd") is None:
        pytest.skip("this machine has no zstd")
    assert files.upload_archive(tar(tree, option), remote.name).complete
    assert differences(manifest(tree), manifest(remote)) == []


def test_packed_by_the_sandbox(files: SandboxFiles, remote: Path, tree: Path, tmp_path: Path) -> None:
    """ARC-11 to ARC-13: into a path, a file object and a function."""
    shutil.copytree(tree, remote, symlinks=True)
    pieces: list[bytes] = []
    stream = io.BytesIO()
    results = [
        files.download_archive(remote.name, sink) for sink in (tmp_path / "x.tar", stream, pieces.append)
    ]
    for result in results:
        assert result.complete
        assert result.path == f"/sandbox/{remote.name}"
    archive = (tmp_path / "x.tar").read_bytes()
    assert archive == stream.getvalue() == b"".join(pieces)
    assert {result.archive_bytes for result in results} == {len(archive)}
    assert (tmp_path / "x.tar").stat().st_mode & 0o111 == 0
    assert differences(manifest(remote), manifest(untar(archive, tmp_path / "out"))) == []


def test_problems_are_results(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    """ARC-10, ARC-13"""
    remote.mkdir()
    os.mkfifo(remote / "pipe")
    (remote / "a").write_text("a")
    down = files.download_archive(remote.name, tmp_path / "x.tar")
    assert [(one.path, one.reason) for one in down.problems] == [("pipe", "NOT_A_REGULAR_FILE")]
    assert not down.complete
    os.mkfifo(tmp_path / "pipe")
    archive = subprocess.run(
        ["tar", "c", "-C", str(tmp_path), "x.tar", "pipe"], check=True, capture_output=True
    ).stdout
    up = files.upload_archive(archive, f"{remote.name}/new/into", parents=True)
    assert [(one.path, one.reason) for one in up.problems] == [("pipe", "NOT_A_REGULAR_FILE")]
    assert (up.failed, up.placed) == (1, 1)
    assert os.listdir(remote / "new/into") == ["x.tar"]


def test_refusals(files: SandboxFiles, remote: Path, tmp_path: Path) -> None:
    """ARC-6, ARC-8, ARC-11: by the error's class; a local file appears only when it is complete."""
    with pytest.raises(errors.InvalidArchive):
        files.upload_archive(b"this is no archive" * 100, remote.name)
    with pytest.raises(errors.ParentNotFound):
        files.upload_archive(b"", f"{remote.name}/a/b")
    with pytest.raises(errors.FileNotFound):
        files.download_archive(f"{remote.name}/missing", tmp_path / "x.tar")
    remote.mkdir(exist_ok=True)
    (remote / "file").touch()
    with pytest.raises(errors.NotADirectory):
        files.download_archive(f"{remote.name}/file", tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_a_local_file_that_is_no_archive_is_sent_again_never(
    files: SandboxFiles, remote: Path, tmp_path: Path
) -> None:
    """ARC-6: what is wrong with the content is not retried."""
    (tmp_path / "x.tar").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(errors.InvalidArchive):
        files.upload_archive(tmp_path / "x.tar", remote.name)
    assert not remote.exists() or os.listdir(remote) == []


class Scene:
    """The command line against the stack."""

    def __init__(self, stack: DevStack, home: Path) -> None:
        class Address:
            address = stack.endpoint

        self.name = stack.sandboxes[0].name
        self.cli = Cli(Address(), home)
        self.cli.env |= {name: value for name, value in stack.environment().items() if "OPENSHELL" in name}


@pytest.fixture
def scene(stack: DevStack, tmp_path: Path) -> Scene:
    return Scene(stack, tmp_path)


def test_pipes(scene: Scene, remote: Path, tree: Path, tmp_path: Path) -> None:
    """ARC-8, ARC-11: `tar c DIR | upload NAME - DEST --extract`, and back."""
    place = remote.name
    up = scene.cli.shell(f'tar c --format=pax -C tree . | "$@" upload {scene.name} - {place} --extract')
    assert (up.status, up.err) == (0, ""), up
    assert "unpacked 508 entries" in up.out
    assert differences(manifest(tree), manifest(remote)) == []
    (tmp_path / "out").mkdir()
    down = scene.cli.shell(
        f'"$@" download {scene.name} {place} - --archive | tar xp --warning=no-unknown-keyword -C out'
    )
    assert down.status == 0
    assert "packed 508 entries" in down.err
    assert differences(manifest(tree), manifest(tmp_path / "out")) == []


def test_files(scene: Scene, remote: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar(tree))
    up = scene.cli("upload", scene.name, "x.tar", f"{remote.name}/", "--extract", "--json")
    assert (up.status, up.json["complete"], up.json["entries"], up.json["problems"]) == (0, True, 508, [])
    down = scene.cli("download", scene.name, remote.name, "new/y.tar", "--archive", "--parents", "--json")
    assert (down.status, down.json["files"]) == (0, up.json["files"])
    untar((tmp_path / "new/y.tar").read_bytes(), tmp_path / "out")
    assert differences(manifest(tree), manifest(tmp_path / "out")) == []


def test_problems_on_the_command_line(scene: Scene, remote: Path, tmp_path: Path) -> None:
    """Each is a line, and the exit status is 17."""
    remote.mkdir()
    os.mkfifo(remote / "pipe")
    (remote / "a").write_text("a")
    down = scene.cli("download", scene.name, remote.name, "x.tar", "--archive")
    assert down.status == ExitCode.PARTIAL
    assert "pipe: " in down.err
    assert "1 failed" in down.err
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getnames() == [".", "a"]
    as_json = scene.cli("download", scene.name, remote.name, "-", "--archive", "--quiet")
    assert as_json.status == ExitCode.PARTIAL


@pytest.fixture
async def client(stack: DevStack) -> AsyncGenerator[RfcClient, None]:
    async with grpc.aio.insecure_channel(stack.endpoint) as channel:
        yield RfcClient(channel, (("authorization", f"Bearer {stack.token}"),))


async def test_a_client_of_the_rfc_alone(
    stack: DevStack, client: RfcClient, remote: Path, tree: Path, tmp_path: Path
) -> None:
    """RFC-2, ARC-9, ARC-11: fields 1 to 5 are enough to upload a tar and to download a directory as one."""
    archive = await asyncio.to_thread(tar, tree)
    metadata = rfc_messages.UploadFileMetadata(
        sandbox_id=stack.sandboxes[0].id,
        remote_path=remote.name,
        size_bytes=len(archive),
        mode=0o644,
        is_archive=True,
    )
    assert await client.upload(metadata, archive) == len(archive)
    assert differences(manifest(tree), manifest(remote)) == []
    got = await client.download(stack.sandboxes[0].id, remote.name, as_archive=True)
    assert got.header is not None
    assert (got.header.size_bytes, got.header.is_archive) == (0, True)
    out = await asyncio.to_thread(untar, got.content, tmp_path / "out")
    assert differences(manifest(tree), manifest(out)) == []


async def test_a_client_of_the_rfc_learns_of_problems(
    stack: DevStack, client: RfcClient, remote: Path
) -> None:
    """ARC-10, ARC-13: by an error, after everything else."""
    os.mkdir(remote)
    os.mkfifo(remote / "pipe")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.download(stack.sandboxes[0].id, remote.name, as_archive=True)
    assert reason_of(caught.value) == "ARCHIVE_INCOMPLETE"
    info = tarfile.TarInfo("../out")
    after = tarfile.TarInfo("after")
    archive = info.tobuf() + after.tobuf() + bytes(1024)
    metadata = rfc_messages.UploadFileMetadata(
        sandbox_id=stack.sandboxes[0].id,
        remote_path=remote.name,
        size_bytes=len(archive),
        is_archive=True,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.upload(metadata, archive)
    assert reason_of(caught.value) == "ARCHIVE_INCOMPLETE"
    assert sorted(os.listdir(remote)) == ["after", "pipe"]
