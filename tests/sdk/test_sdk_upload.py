"""Uploads when nothing goes wrong: what is on the wire, and what comes back."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import cast

import pytest
from digest_values import BLAKE3, SHA256, digest_of, finish_of, words_of
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import Condition, Durability, FilesClient, LeafLink, Progress, SandboxFiles
from openshell_files.errors import ConditionFailed, FileExists, LocalFileError, LocalIsADirectory
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import Connect, big_content


def sent(gateway: FakeGateway, stream: int = 0) -> list[files_pb2.UploadFileRequest]:
    return gateway.upload_messages[stream]


def test_small_file_is_one_rpc(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """UPL-16: metadata, content and finish in one message, with a request id and nothing before."""
    source = tmp_path / "small"
    source.write_bytes(b"hello")
    source.chmod(0o754)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))

    result = sandbox.upload_path(source, "dir/small")

    assert [method for method, _ in gateway.calls] == [methods.WRITE_FILE]
    first, chunk, finish = sent(gateway)
    assert first.metadata.remote_path == "dir/small"
    assert (first.metadata.sandbox, first.metadata.workspace, first.metadata.sandbox_id) == (
        "demo",
        "default",
        "",
    )
    assert first.metadata.explicit_finish
    assert len(first.metadata.request_id) == 36
    assert (first.metadata.mode, first.metadata.size_bytes) == (0o754, 5)
    assert first.metadata.modified_time.ToNanoseconds() == 1_600_000_000_123_456_789
    assert first.metadata.durability == files_pb2.DURABILITY_FSYNC
    assert (chunk.data.offset, chunk.data.data, chunk.data.crc32c) == (0, b"hello", crc32c(b"hello"))
    assert finish.finish == finish_of(b"hello", BLAKE3)
    assert gateway.files["dir/small"].content == b"hello"
    assert result.digest == words_of(b"hello")
    assert (result.size, result.bytes_sent, result.attempts, result.mode) == (5, 5, 1, 0o754)
    assert result.durability is Durability.FSYNC
    assert result.modified_time is not None
    assert result.modified_time.year == 2020


def test_empty_file(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    result = sandbox.upload_path(tmp_path / "empty", "empty")
    assert gateway.files["empty"].content == b""
    assert (result.size, result.bytes_sent) == (0, 0)
    assert [m.WhichOneof("payload") for m in sent(gateway)] == ["metadata", "finish"]


def test_large_file_is_admitted_first(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """RSM-1: StartUpload names the upload; the stream carries id and epoch; chunks follow each other."""
    result = sandbox.upload_path(big, "big")

    *before, last = [method for method, _ in gateway.calls]
    assert sorted(before) == [methods.GET_TRANSFER_CAPABILITIES, methods.START_UPLOAD]
    assert last == methods.UPLOAD_FILE
    messages = sent(gateway)
    assert (messages[0].metadata.upload_id, messages[0].metadata.epoch) == ("upload-1", 1)
    chunks = [m.data for m in messages[1:-1]]
    assert {len(c.data) for c in chunks[:-1]} == {MAX_CHUNK_BYTES}
    assert [c.offset for c in chunks] == [MAX_CHUNK_BYTES * i for i in range(len(chunks))]
    assert gateway.files["big"].content == big.read_bytes()
    assert result.upload_id == "upload-1"
    assert result.bytes_sent == big.stat().st_size


@pytest.mark.parametrize("size", [256 * KIB, 256 * KIB + 1])
def test_border_of_small(gateway: FakeGateway, sandbox: SandboxFiles, size: int) -> None:
    """UPL-6: 256 KiB is what every server takes in one chunk; one byte more has to ask."""
    sandbox.write_bytes("x", bytes(size))
    assert len(gateway.method_calls(methods.START_UPLOAD)) == (size > 256 * KIB)
    assert len(gateway.files["x"].content) == size


def test_server_limits_the_chunk(connect: Connect, gateway: FakeGateway, big: Path) -> None:
    """UPL-24: chunks keep to what GetTransferCapabilities answered."""
    gateway.max_chunk_bytes = 300_000
    connect().upload_path(big, "big")
    assert max(len(m.data.data) for m in sent(gateway)) == 300_000
    assert gateway.files["big"].content == big.read_bytes()


def test_options_are_on_the_wire(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    gateway.files["x"] = FakeFile(b"old", version="v7")
    sandbox.write_bytes(
        "x",
        b"new",
        mode=0,
        parents=True,
        leaf_link=LeafLink.REPLACE,
        condition=Condition.version("v7"),
        durability=Durability.RENAME,
    )
    metadata = sent(gateway)[0].metadata
    assert metadata.mode == 0o100000, "no permission at all is not 'not given'"
    assert metadata.parents == files_pb2.PARENT_POLICY_CREATE
    assert metadata.leaf_link == files_pb2.LEAF_LINK_POLICY_REPLACE
    assert metadata.condition.version == "v7"
    assert metadata.durability == files_pb2.DURABILITY_RENAME
    assert not metadata.HasField("modified_time")


def test_mode_of_bytes_is_left_to_the_server(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """UPL-46: 0 keeps the mode of the file that is replaced."""
    sandbox.write_bytes("x", b"new")
    assert sent(gateway)[0].metadata.mode == 0


def test_set_id_bits_are_not_sent(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """UPL-14."""
    source = tmp_path / "setuid"
    source.write_bytes(b"x")
    source.chmod(0o4755)
    sandbox.upload_path(source, "x")
    assert sent(gateway)[0].metadata.mode == 0o755


def test_conditions(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """CND-1, CND-2."""
    sandbox.write_bytes("x", b"one", condition=Condition.absent())
    with pytest.raises(FileExists) as caught:
        sandbox.write_bytes("x", b"two", condition=Condition.absent())
    assert isinstance(caught.value, FileExistsError)
    assert caught.value.filename == "x"
    sandbox.write_bytes("x", b"two", condition=Condition.digest(words_of(b"one", SHA256)))
    with pytest.raises(ConditionFailed):
        sandbox.write_bytes("y", b"two", condition=Condition.present())
    assert gateway.files["x"].content == b"two"


def test_identical_content_is_not_sent(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """RSM-9."""
    gateway.files["big"] = FakeFile(big.read_bytes())
    result = sandbox.upload_path(big, "big", skip_identical=True)
    assert result.already_identical
    assert (result.bytes_sent, result.attempts, result.replayed) == (0, 0, False)
    assert gateway.streams(methods.UPLOAD_FILE) == 0
    request = cast("files_pb2.StartUploadRequest", gateway.method_calls(methods.START_UPLOAD)[0])
    assert request.digest == digest_of(big.read_bytes(), BLAKE3)


def test_skip_identical_still_sends_what_differs(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    gateway.files["big"] = FakeFile(b"other")
    result = sandbox.upload_path(big, "big", skip_identical=True)
    assert not result.already_identical
    assert gateway.files["big"].content == big.read_bytes()


def test_progress_is_honest(sandbox: SandboxFiles, big: Path) -> None:
    size = big.stat().st_size
    seen: list[Progress] = []
    sandbox.upload_path(big, "big", progress=seen.append)
    assert seen[0].transferred == 0
    assert seen[0].upload_id == "upload-1", "the id is known before the first byte"
    moved = [p.transferred for p in seen]
    assert moved == sorted(moved)
    assert all(p.total == size for p in seen)
    assert all(p.staged == 0 for p in seen[:-1]), "the sandbox has not said more"
    assert (seen[-1].transferred, seen[-1].staged, seen[-1].durable) == (size, size, size)


def test_progress_may_end_the_transfer(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    class EnoughError(Exception):
        pass

    def enough(progress: Progress) -> None:
        if progress.transferred:
            raise EnoughError

    with pytest.raises(EnoughError):
        sandbox.upload_path(big, "big", progress=enough)
    assert "big" not in gateway.files


def test_file_object_from_its_position(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    file = io.BytesIO(b"skip" + big_content())
    file.seek(4)
    result = sandbox.upload(file, "x")
    assert gateway.files["x"].content == big_content()
    assert result.size == len(big_content())


@pytest.mark.parametrize("pieces", [[], [b"a", b"", b"bc"], [big_content()], [b"0123456789"] * 60_000])
def test_iterable(gateway: FakeGateway, sandbox: SandboxFiles, pieces: list[bytes]) -> None:
    """An iterable needs no size; a short one is a small file, a long one of unknown size."""
    sandbox.upload(iter(pieces), "x")
    assert gateway.files["x"].content == b"".join(pieces)
    if len(b"".join(pieces)) > 256 * KIB:
        assert sent(gateway)[0].metadata.size_bytes == 0
        assert all(len(m.data.data) == MAX_CHUNK_BYTES for m in sent(gateway)[1:-2])


def test_text_is_refused(sandbox: SandboxFiles) -> None:
    with pytest.raises(TypeError, match="encode it"):
        sandbox.upload(cast("bytes", "text"), "x")


def test_sparse_source_keeps_its_holes(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """UPL-18: a hole travels as its size."""
    source = tmp_path / "sparse"
    hole = 3 * 1024 * 1024
    with source.open("wb") as file:
        file.write(b"a" * 4096)
        file.seek(hole)
        file.write(b"b" * 4096)
        file.truncate(2 * hole)
    if source.stat().st_blocks * 512 >= hole:
        pytest.skip("this file system has no holes")
    result = sandbox.upload_path(source, "sparse")
    assert gateway.files["sparse"].content == source.read_bytes()
    assert gateway.files["sparse"].holes
    assert result.bytes_sent < hole
    assert result.size == 2 * hole


def test_local_file_problems(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LocalFileError, match="not a regular file"):
        sandbox.upload_path(tmp_path / "fifo", "x")
    with pytest.raises(LocalFileError) as missing:
        sandbox.upload_path(tmp_path / "missing", "x")
    assert missing.value.errno == 2
    with pytest.raises(LocalIsADirectory):
        sandbox.upload_path(tmp_path, "x")
    assert gateway.calls == []


def test_by_id(gateway: FakeGateway) -> None:
    with FilesClient(gateway.address) as client:
        client.sandbox(id="sb-1").write_bytes("x", b"1")
        with pytest.raises(ValueError, match="name, or its id"):
            client.sandbox("demo", id="sb-1")
    metadata = sent(gateway)[0].metadata
    assert (metadata.sandbox_id, metadata.sandbox, metadata.workspace) == ("sb-1", "", "")
    assert gateway.tokens == [None]
