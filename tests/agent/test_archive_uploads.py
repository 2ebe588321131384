"""Uploads that are unpacked, through the agent: real archives, real files."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from asyncio.subprocess import PIPE
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    call,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
)
from digest_values import OTHER, digest_of
from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent


def tar(*names: str, content: bytes = b"content") -> bytes:
    """Return an archive of files, and of FIFOs where a name ends with `|`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name.removesuffix("|"))
            info.mtime = 1_000_000_000
            if name.endswith("|"):
                info.type = tarfile.FIFOTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def rfc_put(agent: FileAgent, path: str, archive: bytes, **fields: Any) -> files_pb2.UploadFileResponse:
    """Upload with fields 1 to 5 alone."""
    async with peer_of(agent) as peer:
        size = fields.pop("size", len(archive))
        await peer.send(opened(upload=metadata(path, size, explicit=False, is_archive=True, **fields)))
        await peer.accepted()
        for at in range(0, len(archive), 256 * KIB):
            await peer.chunk(archive[at : at + 256 * KIB])
        await peer.input_end()
        return (await peer.answer()).upload


def contents(root: Path) -> dict[str, str | bytes]:
    """Return what is below a directory: content of files, targets of links, `/` of directories."""
    found: dict[str, str | bytes] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = "/" if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with entries of each kind."""
    tree = tmp_path / "tree"
    (tree / "a/empty").mkdir(parents=True)
    (tree / "a/large").write_bytes(os.urandom(3 * MIB + 17))
    (tree / "b").write_text("small")
    (tree / "b").chmod(0o640)
    (tree / "a/link").symlink_to("../../outside")
    os.link(tree / "b", tree / "a/other name")
    (tree / os.fsdecode(b"\xff")).write_text("no UTF-8")
    for number in range(300):
        (tree / f"a/{number}").write_bytes(b"%d" % number)
    os.utime(tree / "a/empty", ns=(5, 1_000_000_000_123_456_789))
    return tree


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("names", [[], ["fifo|"], ["/absolute", "../out"]])
async def test_an_archive_of_which_nothing_is_unpacked(
    agent: FileAgent, sandbox: Sandbox, names: list[str], *, exists: bool
) -> None:
    """ARC-8, TRE-18: the directory is made if it is missing, and otherwise keeps its mode."""
    into = sandbox.root / "into"
    if exists:
        into.mkdir(0o750)
    answer = await put(agent, "/into", tar(*names), is_archive=True)
    assert (answer.file.path, answer.file.type) == ("/into", files_pb2.FILE_TYPE_DIRECTORY)
    assert answer.archive.entries == len(answer.archive.problems) == len(names)
    assert os.listdir(into) == []
    assert (into.stat().st_mode & 0o777 == 0o750) is exists


@pytest.mark.parametrize("option", ["--format=pax", "--format=gnu", "-z"])
@pytest.mark.parametrize("caller", ["explicit", "rfc"])
async def test_a_real_archive(
    agent: FileAgent, sandbox: Sandbox, tree: Path, option: str, caller: str
) -> None:
    """ARC-2, ARC-9, ARC-10, RFC-2: by tar, whole, by a caller of each kind."""
    making = await asyncio.create_subprocess_exec("tar", "c", option, "-C", str(tree), ".", stdout=PIPE)
    archive, _ = await making.communicate()
    if caller == "rfc":
        answer = await rfc_put(agent, "/into", archive)
        assert not answer.HasField("archive")
    else:
        answer = await put(agent, "/into", archive, is_archive=True)
        assert (answer.archive.entries, answer.archive.placed_entries) == (308, 308)
        assert (answer.archive.files, answer.archive.more_problems) == (303, 0)
        assert not answer.archive.problems
    into = sandbox.root / "into"
    assert contents(into) == contents(tree)
    assert answer.bytes_written == len(archive)
    assert (answer.file.path, answer.file.type) == ("/into", files_pb2.FILE_TYPE_DIRECTORY)
    assert answer.durability == files_pb2.DURABILITY_FSYNC
    assert (into / "b").stat().st_mode & 0o777 == 0o640
    assert (into / "b").stat().st_ino == (into / "a/other name").stat().st_ino
    if option == "--format=pax":
        assert (into / "a/empty").stat().st_mtime_ns == 1_000_000_000_123_456_789
    assert not sandbox.leftovers()


async def test_problems_are_answered(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-10: to a caller with an explicit finish, in a list; everything else is unpacked."""
    answer = await put(agent, "/into", tar("a", "p|", "../out", "b"), is_archive=True)
    assert contents(sandbox.root) == {"into": "/", "into/a": b"content", "into/b": b"content"}
    result = answer.archive
    assert (result.entries, result.placed_entries, result.files, result.content_bytes) == (4, 2, 2, 14)
    assert [(one.path, one.reason) for one in result.problems] == [
        (b"p", "NOT_A_REGULAR_FILE"),
        (b"../out", "INVALID_PATH"),
    ]


async def test_problems_end_a_call_of_the_rfc(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-10: a caller that knows no list gets an error, after everything else was unpacked."""
    with pytest.raises(Refused) as refused:
        await rfc_put(agent, "/into", tar("a", "p|", "b"))
    assert refused.value.reason is Reason.ARCHIVE_INCOMPLETE
    assert refused.value.metadata == {"entries": "3", "problems": "1", "files": "2"}
    assert "p: a FIFO is not unpacked" in refused.value.message
    assert contents(sandbox.root / "into") == {"a": b"content", "b": b"content"}


async def test_a_list_of_problems_is_bounded(agent: FileAgent) -> None:
    """ARC-10: 1000 problems are listed, and the others counted; the answer fits into a message."""
    answer = await put(agent, "/into", tar(*(f"{n}|" for n in range(1003))), is_archive=True)
    assert (len(answer.archive.problems), answer.archive.more_problems) == (1000, 3)
    answer = await put(agent, "/into", tar(*(f"{'n' * 3000}{n}|" for n in range(1000))), is_archive=True)
    assert len(answer.archive.problems) + answer.archive.more_problems == 1000
    assert answer.ByteSize() < 768 * KIB


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("upload_id", "u"),
        ("request_id", "r"),
        ("epoch", 1),
        ("lanes", 2),
        ("condition", files_pb2.UploadCondition(version="v")),
        ("modified_time", Timestamp(seconds=1)),
        ("keep_read_only", True),
        ("leaf_link", files_pb2.LEAF_LINK_POLICY_FOLLOW),
        ("leaf_link", files_pb2.LEAF_LINK_POLICY_REPLACE),
    ],
)
async def test_fields_that_do_not_fit(agent: FileAgent, sandbox: Sandbox, field: str, value: Any) -> None:
    """ARC-8"""
    with pytest.raises(Refused) as refused:
        await put(agent, "/into", tar("a"), is_archive=True, **{field: value})
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert refused.value.fields == [f"metadata.{field}"]
    assert contents(sandbox.root) == {}


async def test_other_methods_take_no_archive(agent: FileAgent) -> None:
    """ARC-8"""
    request = files_pb2.WriteFileRequest(
        metadata=metadata("/a", is_archive=True), content=b"x", crc32c=crc32c(b"x"), digest=digest_of(b"x")
    )
    for attempt in (call(agent, write_file=request), start_upload(agent, "/a", is_archive=True)):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.fields == ["metadata.is_archive"]


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/missing/into", {}, Reason.PARENT_NOT_FOUND),
        ("/file", {}, Reason.NOT_A_DIRECTORY),
        ("/link", {}, Reason.LEAF_IS_LINK),
        ("/", {}, Reason.PATH_FORBIDDEN),
        ("", {}, Reason.INVALID_PATH),
        ("/a/..", {}, Reason.INVALID_PATH),
        ("/into", {"accepted_digests": [99]}, Reason.DIGEST_UNSUPPORTED),
    ],
)
async def test_refused_at_once(
    agent: FileAgent, sandbox: Sandbox, path: str, fields: dict[str, Any], reason: Reason
) -> None:
    """ARC-8: before content is taken."""
    (sandbox.root / "file").touch()
    (sandbox.root / "real").mkdir()
    (sandbox.root / "link").symlink_to("real")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata(path, is_archive=True, **fields)))
        assert (await peer.error()).reason is reason
    assert contents(sandbox.root) == {"file": b"", "real": "/", "link": "real"}


async def test_missing_directories_are_made(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-8: above the directory only on request; the directory itself always."""
    await put(agent, "new/into/", tar("a"), is_archive=True, parents=files_pb2.PARENT_POLICY_CREATE)
    assert contents(sandbox.root) == {"new": "/", "new/into": "/", "new/into/a": b"content"}


def with_wrong_digest(archive: bytes) -> files_pb2.UploadFinish:
    return files_pb2.UploadFinish(size_bytes=len(archive), digest=OTHER)


def with_wrong_size(archive: bytes) -> files_pb2.UploadFinish:
    return files_pb2.UploadFinish(size_bytes=len(archive) + 1, digest=digest_of(archive))


@pytest.mark.parametrize(
    ("finish", "reason"),
    [(with_wrong_digest, Reason.DIGEST_MISMATCH), (with_wrong_size, Reason.SIZE_MISMATCH)],
)
async def test_a_wrong_finish(agent: FileAgent, sandbox: Sandbox, finish: Any, reason: Reason) -> None:
    """ARC-9: is never told to be complete; what is in place stays."""
    archive = tar("a", "b")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/into", is_archive=True)))
        await peer.accepted()
        await peer.data(0, archive)
        await peer.upload_message(files_pb2.UploadFileRequest(finish=finish(archive)))
        assert (await peer.error()).reason is reason
    assert not sandbox.leftovers()


async def test_an_error_counts_what_is_in_place(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-21"""
    archive = tar("a", "b", "c", content=b"x" * MIB)
    with pytest.raises(Refused) as refused:
        await put(agent, "/into", archive[: 2 * MIB + 700 * KIB], is_archive=True)
    assert refused.value.reason is Reason.ARCHIVE_INVALID
    assert refused.value.metadata == {"entries": "3", "files": "2"}
    assert sorted(contents(sandbox.root / "into")) == ["a", "b"]
    assert not sandbox.leftovers()


@pytest.mark.parametrize("end", ["half-close", "cancelled", "lost"])
async def test_a_stream_that_ends_early(agent: FileAgent, sandbox: Sandbox, end: str) -> None:
    """ARC-21, TRE-54: members that are in place stay, whole, and nothing else is left."""
    archive = tar("a", "b", content=b"x" * MIB)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/into", is_archive=True)))
        await peer.accepted()
        await peer.data(0, archive[: MIB - 4 * KIB])
        await peer.data(MIB - 4 * KIB, archive[MIB - 4 * KIB : MIB + 600 * KIB])
        if end == "lost":
            await peer.vanish()
        else:
            await peer.input_end(cancelled=end == "cancelled")
            assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert set(contents(sandbox.root / "into").items()) <= {("a", b"x" * MIB)}
    assert not sandbox.leftovers()


@pytest.mark.parametrize("size", [-1, 1])
async def test_a_call_of_the_rfc_with_another_size(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """ARC-9, UPL-2: the declared size is the finish."""
    archive = tar("a")
    with pytest.raises(Refused) as refused:
        await rfc_put(agent, "/into", archive, size=len(archive) + size)
    assert refused.value.reason is Reason.SIZE_MISMATCH
    assert not sandbox.leftovers()


async def test_a_wrong_checksum_of_a_chunk(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-9, UPL-7: damaged bytes are not unpacked."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/into", is_archive=True)))
        await peer.accepted()
        await peer.data(0, tar("a"), crc=1)
        assert (await peer.error()).reason is Reason.CHUNK_CHECKSUM
    assert contents(sandbox.root) == {}


async def test_holes_are_zeros(agent: FileAgent, sandbox: Sandbox) -> None:
    """ARC-9: the zeros at an archive's end may be sent as a hole."""
    archive = tar("a")
    body = archive.rstrip(b"\0")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/into", is_archive=True)))
        await peer.accepted()
        await peer.data(0, body)
        await peer.data(len(body), b"", hole=len(archive) - len(body))
        await peer.finish(archive)
        assert (await peer.answer()).upload.archive.files == 1
    assert contents(sandbox.root / "into") == {"a": b"content"}


@pytest.mark.parametrize(
    ("setting", "value", "archive"),
    [
        ("max_archive_entries", 2, tar("a", "b", "c")),
        ("max_extracted_bytes", 5000, tar("a", content=b"x" * 5000)),
    ],
)
async def test_limits(sandbox: Sandbox, setting: str, value: int, archive: bytes) -> None:
    """ARC-4: each names itself in the error."""
    changed: dict[str, Any] = {setting: value}
    sandbox.settings = replace(sandbox.settings, **changed)
    agent = sandbox.agent()
    await agent.start()
    try:
        with pytest.raises(Refused) as refused:
            await put(agent, "/into", archive, is_archive=True)
        assert refused.value.reason is Reason.ARCHIVE_TOO_LARGE
        assert refused.value.metadata.items() >= {setting: str(value)}.items()
        assert not sandbox.leftovers()
    finally:
        await agent.aclose()


async def test_the_supervisors_files_are_guarded(sandbox: Sandbox) -> None:
    """ARC-17, TRE-49: an archive replaces none of them."""
    (sandbox.root / "into").mkdir()
    (sandbox.root / "into/token").write_text("secret")
    sandbox.settings = replace(sandbox.settings, private=(sandbox.root / "into/token",))
    agent = sandbox.agent()
    await agent.start()
    try:
        answer = await put(agent, "/into", tar("token", "a"), is_archive=True)
    finally:
        await agent.aclose()
    assert [(one.path, one.reason) for one in answer.archive.problems] == [(b"token", "PATH_FORBIDDEN")]
    assert contents(sandbox.root / "into") == {"token": b"secret", "a": b"content"}
