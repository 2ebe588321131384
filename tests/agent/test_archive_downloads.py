"""Directories that are downloaded as archives, through the agent: real directories, read by tar."""

from __future__ import annotations

import io
import os
import tarfile
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import Download, Refused, Sandbox, get, opened, peer_of, put
from digest_values import BLAKE3, digest_of
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent


async def unpacked(archive: bytes, into: Path) -> Path:
    """Unpack an archive with the tar of this machine."""
    os.mkdir(into)
    process = await create_subprocess_exec(
        "tar", "xp", "--warning=no-unknown-keyword", "-C", str(into), stdin=PIPE, stderr=PIPE
    )
    _, told = await process.communicate(archive)
    assert (process.returncode, told) == (0, b"")
    return into


def described(root: Path) -> dict[str, tuple[int, int, str | bytes]]:
    """Return what is below a directory, and the directory itself: mode, modified time, content."""
    found: dict[str, tuple[int, int, str | bytes]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(root))] = 0, status.st_mtime_ns, os.readlink(path)
        else:
            content = b"" if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(root))] = status.st_mode, status.st_mtime_ns, content
    return found


@pytest.fixture
def tree(sandbox: Sandbox) -> Path:
    """Return a directory of the sandbox with entries of each kind."""
    tree = sandbox.root / "tree"
    (tree / "a/empty").mkdir(parents=True)
    (tree / "a/large").write_bytes(os.urandom(3 * MIB + 17))
    (tree / "b").write_text("small")
    (tree / "b").chmod(0o640)
    (tree / "a/link").symlink_to("../../outside")
    os.link(tree / "b", tree / "a/other name")
    (tree / os.fsdecode(b"\xff")).write_text("no UTF-8")
    (tree / ("n" * 200)).write_text("long")
    for number in range(300):
        (tree / f"a/{number}").write_bytes(b"%d" % number)
    os.utime(tree / "a/empty", ns=(5, 1_000_000_000_123_456_789))
    (tree / "a/empty").chmod(0o500)
    return tree


def members(archive: bytes) -> dict[str, bytes]:
    """Return the regular files of an archive, which is read to its end."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        found = {one.name: tar.extractfile(one) for one in tar if one.isreg()}
        content = {name: b"" if file is None else file.read() for name, file in found.items()}
    assert archive.endswith(bytes(1024))
    return content


@pytest.mark.parametrize("checked", [True, False])
async def test_a_real_directory(agent: FileAgent, tree: Path, tmp_path: Path, checked: bool) -> None:  # noqa: FBT001
    """ARC-11, ARC-12, RFC-2: for a caller of each kind, whole, with everything that is carried."""
    got = await get(agent, "/tree", as_archive=True, checked=checked)
    assert got.header.is_archive
    assert got.header.size_bytes == 0
    assert (got.header.file.path, got.header.file.type) == ("/tree", files_pb2.FILE_TYPE_DIRECTORY)
    into = await unpacked(got.content, tmp_path / "into")
    assert described(into) == described(tree)
    assert (into / "b").stat().st_ino == (into / "a/other name").stat().st_ino
    assert got.end.bytes_sent == len(got.content)
    if checked:
        assert got.trailer is not None
        result = got.trailer.archive
        assert (result.entries, result.placed_entries, result.files) == (309, 309, 304)
        assert got.trailer.whole_file
        assert not got.trailer.changed
        # Small pieces count as a flood (RLY-25).
        assert min(got.sizes[:-1], default=MIB) >= 16 * KIB


@pytest.mark.usefixtures("tree")
async def test_the_digest_is_of_the_archive(agent: FileAgent) -> None:
    """ARC-11: by the algorithm that the caller accepts."""
    got = await get(agent, "/tree", as_archive=True, accepted_digests=[BLAKE3])
    assert got.header.digest_algorithm == BLAKE3
    assert got.trailer is not None
    assert got.trailer.digest == digest_of(got.content, BLAKE3)


async def test_what_comes_out_can_go_in(agent: FileAgent, sandbox: Sandbox, tree: Path) -> None:
    """ARC-2, ARC-12"""
    got = await get(agent, "/tree", as_archive=True)
    answer = await put(agent, "/copy", got.content, is_archive=True)
    assert not answer.archive.problems
    assert described(sandbox.root / "copy") == described(tree)


async def test_an_empty_directory(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-12: has one member, itself."""
    (sandbox.root / "empty").mkdir()
    got = await get(agent, "empty/", as_archive=True)
    with tarfile.open(fileobj=io.BytesIO(got.content)) as tar:
        assert tar.getnames() == ["."]


@pytest.mark.usefixtures("tree")
async def test_a_link_to_a_directory_is_followed(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-11"""
    (sandbox.root / "link").symlink_to("tree/a")
    got = await get(agent, "/link", as_archive=True)
    assert got.header.file.path == "/tree/a"
    assert members(got.content)["7"] == b"7"


@pytest.mark.parametrize("checked", [True, False])
async def test_a_hole(agent: FileAgent, sandbox: Sandbox, checked: bool) -> None:  # noqa: FBT001
    """ARC-12, DWN-7: costs a checked caller nothing on the wire."""
    (sandbox.root / "d").mkdir()
    with (sandbox.root / "d/sparse").open("wb") as file:
        file.truncate(48 * MIB)
        file.seek(48 * MIB)
        file.write(b"end")
    (sandbox.root / "d/z").write_bytes(b"after")
    got = await get(agent, "/d", as_archive=True, checked=checked)
    assert {name: len(data) for name, data in members(got.content).items()} == {
        "sparse": 48 * MIB + 3,
        "z": 5,
    }
    assert members(got.content)["sparse"].endswith(b"\0end")
    assert sum(got.sizes) < 4 * MIB if checked else not got.holes


@pytest.mark.parametrize(
    ("field", "value"),
    [("offset", 1), ("length", 0), ("length", 5), ("tail_bytes", 1), ("if_version", "v")],
)
async def test_fields_that_do_not_fit(agent: FileAgent, sandbox: Sandbox, field: str, value: Any) -> None:
    """ARC-22"""
    (sandbox.root / "d").mkdir()
    with pytest.raises(Refused) as refused:
        await get(agent, "/d", as_archive=True, **{field: value})
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert refused.value.fields == [field]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing", Reason.FILE_NOT_FOUND),
        ("/file", Reason.NOT_A_DIRECTORY),
        ("/link", Reason.NOT_A_DIRECTORY),
        ("/..", Reason.INVALID_PATH),
    ],
)
async def test_no_directory(agent: FileAgent, sandbox: Sandbox, path: str, reason: Reason) -> None:
    """ARC-11"""
    (sandbox.root / "file").touch()
    (sandbox.root / "link").symlink_to("file")
    with pytest.raises(Refused) as refused:
        await get(agent, path, as_archive=True)
    assert refused.value.reason is reason


@pytest.fixture
def partly(sandbox: Sandbox) -> Path:
    """Return a directory with an entry that cannot be sent."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/a").write_bytes(b"a")
    os.mkfifo(sandbox.root / "d/pipe")
    return sandbox.root / "d"


@pytest.mark.usefixtures("partly")
async def test_what_is_left_out_is_in_the_trailer(agent: FileAgent) -> None:
    """ARC-13"""
    got = await get(agent, "/d", as_archive=True)
    assert members(got.content) == {"a": b"a"}
    assert got.trailer is not None
    result = got.trailer.archive
    assert [(one.path, one.reason) for one in result.problems] == [(b"pipe", "NOT_A_REGULAR_FILE")]
    assert (result.entries, result.placed_entries, result.files, result.content_bytes) == (3, 2, 1, 1)


async def rfc_get(agent: FileAgent, path: str) -> tuple[bytes, Refused]:
    """Download with fields 1 to 3 alone what ends with an error; return what came before it."""
    content = bytearray()
    async with peer_of(agent) as peer:
        request = files_pb2.DownloadFileRequest(remote_path=path, as_archive=True)
        await peer.send(opened(download=request))
        await peer.input_end()
        while (frame := await peer.next()) is not None:
            if frame.WhichOneof("frame") == "error":
                return bytes(content), Refused(frame.error)
            content += frame.download.chunk
    raise AssertionError("there was no error")


@pytest.mark.usefixtures("partly")
async def test_a_caller_of_the_rfc_gets_an_error(agent: FileAgent) -> None:
    """ARC-13: after the end of an archive that can be read."""
    content, refused = await rfc_get(agent, "/d")
    assert refused.reason is Reason.ARCHIVE_INCOMPLETE
    assert refused.metadata == {"entries": "3", "problems": "1", "files": "1"}
    assert members(content) == {"a": b"a"}


def shorten(path: Path) -> None:
    path.write_bytes(b"x" * 10)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"y" * 3 * MIB)
    path.with_name("new").rename(path)


CHANGES = [shorten, lengthen, remove, replace]


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def changing(sandbox: Sandbox, request: pytest.FixtureRequest) -> str:
    """Change a file after it was announced; return the kind of change."""
    (sandbox.root / "d").mkdir()
    path = sandbox.root / "d/big"
    path.write_bytes(b"x" * 3 * MIB)
    (sandbox.root / "d/z").write_bytes(b"after")

    def change() -> None:
        sandbox.on_trace.clear()
        request.param(path)

    sandbox.on_trace["tree.manifest_read"] = change
    return str(request.param.__name__)


def assert_readable(got: Download | bytes, changing: str) -> None:
    content = members(got if isinstance(got, bytes) else got.content)
    assert content["z"] == b"after"
    assert len(content.get("big", bytes(3 * MIB))) == 3 * MIB
    if changing in {"remove", "replace"}:
        assert "big" not in content


async def test_a_file_that_changes_ends_the_call(agent: FileAgent, changing: str) -> None:
    """ARC-14: after the end of the archive, for a caller of the RFC, too."""
    content, refused = await rfc_get(agent, "/d")
    assert refused.reason is Reason.FILE_CHANGED
    assert_readable(content, changing)


@pytest.mark.usefixtures("changing")
async def test_a_checked_caller_gets_no_trailer(agent: FileAgent) -> None:
    """ARC-14, DWN-14"""
    with pytest.raises(Refused) as refused:
        await get(agent, "/d", as_archive=True)
    assert refused.value.reason is Reason.FILE_CHANGED


async def test_changes_may_be_allowed(agent: FileAgent, changing: str) -> None:
    """ARC-14, DWN-15"""
    got = await get(agent, "/d", as_archive=True, on_change=files_pb2.CHANGE_POLICY_ALLOW)
    assert got.trailer is not None
    assert got.trailer.changed
    assert [one.path for one in got.trailer.archive.problems] == [b"big"]
    assert_readable(got, changing)


@pytest.mark.usefixtures("tree")
async def test_a_caller_that_leaves(agent: FileAgent) -> None:
    """ARC-11: frees everything; the fixtures look for open files."""
    async with peer_of(agent, limit=64 * KIB) as peer:
        await peer.send(opened(download=files_pb2.DownloadFileRequest(remote_path="/tree", as_archive=True)))
        await peer.accepted()
        await peer.vanish()
