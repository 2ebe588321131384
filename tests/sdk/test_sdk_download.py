"""Downloads: ranges, resuming, files that change, and limits."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from digest_values import words_of
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus, Stall
from openshell_files import NO_RETRY, LeafLink, Progress, SandboxFiles
from openshell_files.errors import (
    DeadlineExceeded,
    FileChanged,
    FileNotFound,
    FileTooLarge,
    InvalidRequest,
    RangeInvalid,
    Unavailable,
)
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import QUICK, Connect, big_content

Messages = Iterator[files_pb2.DownloadFileResponse]
CONTENT = big_content()


def requests(gateway: FakeGateway) -> list[files_pb2.DownloadFileRequest]:
    return cast("list[files_pb2.DownloadFileRequest]", gateway.method_calls(methods.DOWNLOAD_FILE))


def break_after(chunks: int, streams: int = 1) -> object:
    def hook(number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        for index, message in enumerate(honest):
            if number <= streams and index == chunks + 1:
                raise TransferError(Reason.RELAY_LOST, "the relay broke")
            yield message

    return hook


@pytest.fixture(autouse=True)
def remote(gateway: FakeGateway) -> FakeFile:
    file = FakeFile(CONTENT, mode=0o4751, version="v9")
    gateway.files["big"] = file
    gateway.files["empty"] = FakeFile(b"")
    return file


def test_whole_file(gateway: FakeGateway, sandbox: SandboxFiles, remote: FakeFile, tmp_path: Path) -> None:
    """DWN-1, DWN-10: checked, verified, with mode and time; never with set-id bits."""
    target = tmp_path / "out"
    result = sandbox.download_path("big", target)
    assert target.read_bytes() == CONTENT
    assert stat.S_IMODE(target.stat().st_mode) == 0o751
    assert target.stat().st_mtime_ns == remote.modified_ns
    assert requests(gateway)[0].checked
    assert requests(gateway)[0].sandbox == "demo"
    assert result.digest == words_of(CONTENT)
    assert (result.size, result.bytes_received, result.attempts) == (len(CONTENT), len(CONTENT), 1)
    assert (result.whole_file, result.digest_verified, result.changed) == (True, True, False)
    assert (result.version, result.path) == ("v9", "/big")
    assert os.listdir(tmp_path) == ["out"]


def test_empty_file(sandbox: SandboxFiles, tmp_path: Path) -> None:
    result = sandbox.download_path("empty", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""
    assert (result.size, result.whole_file) == (0, True)


def test_mode_and_time_of_ones_own(sandbox: SandboxFiles, tmp_path: Path) -> None:
    sandbox.download_path("big", tmp_path / "out", mode=0o600, preserve_mtime=False, fsync=False)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    assert (tmp_path / "out").stat().st_mtime > 1_750_000_000


@pytest.mark.parametrize(
    ("options", "start", "end"),
    [
        ({"offset": 100}, 100, None),
        ({"offset": 5, "length": 200_000}, 5, 200_005),
        ({"tail": 70_000}, len(CONTENT) - 70_000, None),
        ({"tail": len(CONTENT) + 5}, 0, None),
        ({"length": 0}, 0, 0),
        ({"offset": len(CONTENT)}, len(CONTENT), None),
        ({"length": len(CONTENT) * 2}, 0, None),
    ],
)
def test_ranges(sandbox: SandboxFiles, options: dict[str, Any], start: int, end: int | None) -> None:
    """DWN-4."""
    assert sandbox.read_bytes("big", **options) == CONTENT[start:end]


def test_bad_ranges(sandbox: SandboxFiles, gateway: FakeGateway) -> None:
    with pytest.raises(RangeInvalid):
        sandbox.read_bytes("big", offset=len(CONTENT) + 1)
    with pytest.raises(InvalidRequest, match="tail"):
        sandbox.read_bytes("big", offset=1, tail=1)
    with pytest.raises(InvalidRequest, match="offset"):
        sandbox.read_bytes("big", offset=-1)
    with pytest.raises(InvalidRequest, match="REPLACE"):
        sandbox.read_bytes("big", leaf_link=LeafLink.REPLACE)
    assert len(gateway.calls) == 1


def test_other_sinks(sandbox: SandboxFiles) -> None:
    file = io.BytesIO()
    sandbox.download("big", file)
    assert file.getvalue() == CONTENT
    pieces: list[bytes] = []
    sandbox.download("big", pieces.append)
    assert b"".join(pieces) == CONTENT
    assert b"".join(sandbox.iter_download("big")) == CONTENT


def test_progress(sandbox: SandboxFiles, tmp_path: Path) -> None:
    seen: list[Progress] = []
    sandbox.download_path("big", tmp_path / "out", progress=seen.append)
    moved = [p.transferred for p in seen]
    assert moved == sorted(moved)
    assert moved[-1] == len(CONTENT)
    assert {p.total for p in seen} == {len(CONTENT)}


@pytest.mark.parametrize("tail", [None, 2_000_000])
def test_goes_on_at_the_last_verified_byte(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path, tail: int | None
) -> None:
    """DWN-6: the resume requests the same version; the digest covers both streams."""
    gateway.on_download = break_after(3)  # type: ignore[assignment]  # mypy wants the alias
    result = sandbox.download_path("big", tmp_path / "out", tail=tail)
    wanted = CONTENT if tail is None else CONTENT[-tail:]
    assert (tmp_path / "out").read_bytes() == wanted
    assert result.digest == words_of(wanted)
    kept = 3 * gateway.download_chunk
    assert (result.attempts, result.resumed_from) == (2, kept)
    second = requests(gateway)[1]
    assert (second.offset, second.if_version, second.tail_bytes) == (
        kept + len(CONTENT) - len(wanted),
        "v9",
        0,
    )
    # The trailers cover one stream each: the whole file's digest is asked for.
    assert len(gateway.method_calls(methods.STAT_FILE)) == (tail is None)
    assert result.digest_verified == (tail is None)


def test_resumed_length_shrinks(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.on_download = break_after(2)  # type: ignore[assignment]  # mypy wants the alias
    assert sandbox.read_bytes("big", offset=10, length=500_000) == CONTENT[10:500_010]
    assert requests(gateway)[1].length == 500_000 - 2 * gateway.download_chunk


def test_many_breaks_with_progress(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.on_download = break_after(1, streams=1000)  # type: ignore[assignment]  # mypy wants the alias
    gateway.download_chunk = 500_000
    assert sandbox.read_bytes("big") == CONTENT
    assert gateway.streams(methods.DOWNLOAD_FILE) > QUICK.attempts


def test_gives_up_and_leaves_nothing(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """The old file is untouched and the temporary one is gone."""
    (tmp_path / "out").write_bytes(b"old")
    gateway.on_download = break_after(0, streams=1000)  # type: ignore[assignment]  # mypy wants the alias
    with pytest.raises(Unavailable):
        sandbox.download_path("big", tmp_path / "out")
    assert gateway.streams(methods.DOWNLOAD_FILE) == QUICK.attempts
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_changed_between_streams_starts_over(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    """DWN-6: half of one version and half of another never meet."""

    def hook(number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        for index, message in enumerate(honest):
            if number == 1 and index == 4:
                gateway.files["big"] = FakeFile(b"new" * 100_000, version="v10")
                raise TransferError(Reason.RELAY_LOST, "the relay broke")
            yield message

    gateway.on_download = hook
    result = sandbox.download_path("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new" * 100_000
    assert (result.version, result.attempts, result.resumed_from) == ("v10", 3, 0)
    assert requests(gateway)[2].if_version == ""


def test_changed_between_streams_cannot_be_taken_back(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    def hook(number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        for index, message in enumerate(honest):
            if number == 1 and index == 4:
                gateway.files["big"] = FakeFile(b"new", version="v10")
                raise TransferError(Reason.RELAY_LOST, "the relay broke")
            yield message

    gateway.on_download = hook
    with pytest.raises(FileChanged):
        sandbox.download("big", io.BytesIO())


def test_without_a_version_it_starts_over(
    gateway: FakeGateway, sandbox: SandboxFiles, remote: FakeFile, tmp_path: Path
) -> None:
    """Nothing would say that the rest is of the same file."""
    remote.version = ""
    gateway.on_download = break_after(3)  # type: ignore[assignment]  # mypy wants the alias
    result = sandbox.download_path("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (result.attempts, result.resumed_from, result.digest_verified) == (2, 0, True)


def test_another_version_than_wanted(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    with pytest.raises(FileChanged) as caught:
        sandbox.read_bytes("big", if_version="v1")
    assert caught.value.reason == "VERSION_MISMATCH"
    assert len(gateway.calls) == 1, "starting over would not help"


def test_file_that_always_changes_is_an_error(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    """Each attempt advances, none ends: restarts are counted all the same."""

    def hook(_number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        for message in honest:
            if message.HasField("trailer"):
                raise TransferError(Reason.FILE_CHANGED, "it changed")
            yield message

    gateway.on_download = hook
    with pytest.raises(FileChanged):
        sandbox.download_path("big", tmp_path / "out")
    assert gateway.streams(methods.DOWNLOAD_FILE) == QUICK.attempts


def test_growing_log(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """DWN-15 with ALLOW: the content may exceed the announced size, and the result tells it."""

    def hook(_number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        messages = list(honest)
        messages[0].header.size_bytes = 10
        messages[-1].trailer.changed = True
        messages[-1].trailer.whole_file = False
        yield from messages

    gateway.on_download = hook
    out = io.BytesIO()
    result = sandbox.download("big", out, allow_changes=True)
    assert out.getvalue() == CONTENT
    assert (result.changed, result.whole_file) == (True, False)
    assert requests(gateway)[0].on_change == files_pb2.CHANGE_POLICY_ALLOW


def test_max_bytes(sandbox: SandboxFiles, tmp_path: Path) -> None:
    """Refused at the header: nothing is received for nothing."""
    with pytest.raises(FileTooLarge, match="max_bytes"):
        sandbox.download_path("big", tmp_path / "out", max_bytes=len(CONTENT) - 1)
    assert os.listdir(tmp_path) == []
    assert sandbox.read_bytes("big", max_bytes=len(CONTENT)) == CONTENT


def test_missing(sandbox: SandboxFiles, tmp_path: Path) -> None:
    with pytest.raises(FileNotFound) as caught:
        sandbox.download_path("missing", tmp_path / "out")
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.filename == "missing"
    assert os.listdir(tmp_path) == []


def test_silence(gateway: FakeGateway, connect: Connect) -> None:
    def hook(number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
        for index, message in enumerate(honest):
            if number == 1 and index == 3:
                raise Stall
            yield message

    gateway.on_download = hook
    assert connect(idle_timeout=0.5).read_bytes("big") == CONTENT
    gateway.on_download = lambda _number, _honest: (_ for _ in ()).throw(Stall())
    with pytest.raises(DeadlineExceeded):
        connect(idle_timeout=0.2, retry=NO_RETRY).read_bytes("big")


def test_timeout(gateway: FakeGateway, connect: Connect) -> None:
    gateway.on_download = lambda _number, _honest: (_ for _ in ()).throw(Stall())
    with pytest.raises(DeadlineExceeded):
        connect(idle_timeout=60).read_bytes("big", timeout=0.3)


def test_status_of_a_proxy(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.failures[methods.DOWNLOAD_FILE].append(PlainStatus(grpc.StatusCode.UNAVAILABLE, "no upstream"))
    assert sandbox.read_bytes("big") == CONTENT


def test_holes_stay_holes(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """DWN-7."""
    hole = 8 * 1024 * 1024
    content = b"a" * 4096 + bytes(hole) + b"b" + bytes(hole)
    gateway.files["sparse"] = FakeFile(content, holes=((4096, hole), (4096 + hole + 1, hole)))
    gateway.download_chunk = 4096
    gateway.on_download = one_chunk_then_hole
    result = sandbox.download_path("sparse", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert result.bytes_received == 4097
    assert (tmp_path / "out").stat().st_blocks * 512 < hole
    assert b"".join(sandbox.iter_download("sparse")) == content
    assert sandbox.read_bytes("sparse") == content


def one_chunk_then_hole(_number: int, honest: Messages) -> Iterable[files_pb2.DownloadFileResponse]:
    """Cut the one byte between the holes out of its chunk."""
    position = 0
    for message in honest:
        if message.HasField("data"):
            if message.data.offset < position:
                continue
            if message.data.data[:1] == b"b":
                message.data.data = b"b"
                message.data.crc32c = crc32c(b"b")
                yield message
                position = message.data.offset + 1
                size = 8 * 1024 * 1024
                yield files_pb2.DownloadFileResponse(
                    data=files_pb2.FileChunk(offset=position, hole_bytes=size)
                )
                position += size
                continue
        yield message
