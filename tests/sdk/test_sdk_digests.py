"""Which digest a transfer is compared by, and what becomes of it when the other end knows only SHA-256."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
from fake_file_gateway import FakeFile, FakeGateway, FakeUpload, PlainStatus
from grpc import StatusCode
from naive_digests import BLOCKS, blocks_of, sha256_of
from openshell_files import DigestChoice, SandboxFiles
from openshell_files._core import requests
from openshell_files._core.digests import ContentDigest
from openshell_files._core.requests import upload_digest
from openshell_files.errors import FilesError, IntegrityError, InvalidRequest
from openshell_files_protocol import methods
from openshell_files_protocol.digests import WORTHWHILE_ZEROS, DigestAlgorithm
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

SIZE = 5 * MIB
AT = 2 * MIB - 100
DATA = b"content " * 100_000
CONTENT = bytes(AT) + DATA + bytes(SIZE - AT - len(DATA))


@pytest.fixture(autouse=True)
def little_is_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the files here can be small."""
    monkeypatch.setattr(requests, "WORTHWHILE_ZEROS", MIB)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(AT)
        file.write(DATA)
        file.truncate(SIZE)
    assert path.stat().st_blocks * 512 < SIZE - MIB
    return path


def finishes(gateway: FakeGateway) -> list[files_pb2.UploadFinish]:
    messages = [message for stream in gateway.upload_messages for message in stream]
    return [message.finish for message in messages if message.WhichOneof("payload") == "finish"]


def started(gateway: FakeGateway) -> list[files_pb2.StartUploadRequest]:
    return cast("list[files_pb2.StartUploadRequest]", gateway.method_calls(methods.START_UPLOAD))


def breaking(gateway: FakeGateway, staged: int) -> None:
    """Break the first stream as soon as so many bytes are staged."""

    def hook(number: int, upload: FakeUpload, _message: files_pb2.UploadFileRequest) -> None:
        if number == 1 and len(upload.staged) >= staged:
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")

    gateway.on_upload_message = hook


def test_a_sparse_file(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-3, DIG-4: announced, echoed, and in the finish and the result instead of SHA-256."""
    result = sandbox.upload_path(sparse, "x")
    (start,), (finish,) = started(gateway), finishes(gateway)
    assert start.metadata.digest_algorithm == BLOCKS
    assert (start.sha256, start.sha256_blocks) == (b"", b"")
    assert (finish.sha256, finish.sha256_blocks) == (b"", blocks_of(CONTENT))
    assert (result.sha256, result.sha256_blocks) == (None, blocks_of(CONTENT).hex())
    assert gateway.files["x"].content == CONTENT


def test_a_sparse_file_by_sha256(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-1: if the caller wants it, nothing is said of the other."""
    result = sandbox.upload_path(sparse, "x", digest="sha256")
    assert started(gateway)[0].metadata.digest_algorithm == 0
    assert finishes(gateway)[0].sha256 == sha256_of(CONTENT)
    assert (result.sha256, result.sha256_blocks) == (sha256_of(CONTENT).hex(), None)


@pytest.mark.parametrize(
    ("choice", "holes", "algorithm"),
    [
        ("auto", 0, DigestAlgorithm.SHA256),
        ("auto", WORTHWHILE_ZEROS - 1, DigestAlgorithm.SHA256),
        ("auto", WORTHWHILE_ZEROS, DigestAlgorithm.SHA256_BLOCKS),
        ("sha256", 1 << 40, DigestAlgorithm.SHA256),
    ],
)
def test_what_is_worthwhile(
    monkeypatch: pytest.MonkeyPatch, choice: DigestChoice, holes: int, algorithm: DigestAlgorithm
) -> None:
    """DIG-5: 64 MiB of holes in sum."""
    monkeypatch.setattr(requests, "WORTHWHILE_ZEROS", WORTHWHILE_ZEROS)
    assert upload_digest(choice, holes) is algorithm


def test_zeros_cost_nothing() -> None:
    """DIG-5: a hole that would take years."""
    digest = ContentDigest(DigestAlgorithm.SHA256_BLOCKS)
    digest.update_zeros(1 << 62)
    digest.update(b"x")
    assert digest.rewind(1 << 62)
    assert digest.position == 1 << 62


def test_a_choice_that_there_is_not(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    wrong = cast("DigestChoice", "md5")
    for call in (
        lambda: sandbox.upload_path(sparse, "x", digest=wrong),
        lambda: sandbox.download_path("x", sparse, digest=wrong),
    ):
        with pytest.raises(InvalidRequest, match="md5"):
            call()
    assert gateway.calls == []


def test_a_server_that_knows_only_sha256(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-3: what is not echoed is not used; the same upload goes on."""
    gateway.knows_blocks = False
    result = sandbox.upload_path(sparse, "x")
    assert (finishes(gateway)[0].sha256, finishes(gateway)[0].sha256_blocks) == (sha256_of(CONTENT), b"")
    assert (result.sha256, result.sha256_blocks) == (sha256_of(CONTENT).hex(), None)
    assert len(gateway.uploads) == 1
    assert gateway.upload_messages[0][0].metadata.digest_algorithm == 0


def test_an_older_server_and_a_broken_connection(
    gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path
) -> None:
    """RSM-4, DIG-3: the rest is sent too, and the prefix was compared by SHA-256."""
    gateway.knows_blocks = False
    breaking(gateway, AT + 1)
    result = sandbox.upload_path(sparse, "x")
    assert result.sha256 == sha256_of(CONTENT).hex()
    assert result.resumed_from >= AT
    assert gateway.files["x"].content == CONTENT


@pytest.mark.parametrize("knows", [True, False])
def test_identical_content(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    knows: bool,  # noqa: FBT001
) -> None:
    """RSM-9, DIG-3, DIG-4: nothing is sent, also if the server could not compare the first digest."""
    gateway.knows_blocks = knows
    gateway.files["x"] = FakeFile(CONTENT)
    result = sandbox.upload_path(sparse, "x", skip_identical=True)
    assert result.already_identical
    assert gateway.upload_messages == []
    assert started(gateway)[0].sha256_blocks == blocks_of(CONTENT)
    if knows:
        assert (result.sha256, result.sha256_blocks) == (None, blocks_of(CONTENT).hex())
        return
    assert started(gateway)[1].sha256 == sha256_of(CONTENT)
    assert (result.sha256, result.sha256_blocks) == (sha256_of(CONTENT).hex(), None)
    states = [upload.state for upload in gateway.uploads.values()]
    assert states == [files_pb2.UPLOAD_STATE_ABORTED, files_pb2.UPLOAD_STATE_PUBLISHED]


@pytest.mark.parametrize("knows", [True, False])
def test_other_content(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    knows: bool,  # noqa: FBT001
) -> None:
    """RSM-9, DIG-3: compared, and sent."""
    gateway.knows_blocks = knows
    gateway.files["x"] = FakeFile(CONTENT + b"\0")
    result = sandbox.upload_path(sparse, "x", skip_identical=True)
    assert not result.already_identical
    assert gateway.files["x"].content == CONTENT


def test_going_on_after_a_break(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """RSM-4, DIG-4: the prefix is compared by the upload's digest."""
    breaking(gateway, AT + 1)
    result = sandbox.upload_path(sparse, "x")
    assert result.resumed_from >= AT
    assert result.sha256_blocks == blocks_of(CONTENT).hex()
    assert gateway.files["x"].content == CONTENT
    assert len(gateway.uploads) == 1


def earlier_upload(gateway: FakeGateway, sandbox: SandboxFiles, source: Path, digest: DigestChoice) -> str:
    """Leave an upload behind, as a process does that is killed."""

    def hook(_number: int, upload: FakeUpload, _message: files_pb2.UploadFileRequest) -> None:
        if len(upload.staged) > AT:
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")

    gateway.on_upload_message = hook
    with pytest.raises(FilesError) as caught:
        sandbox.upload_path(source, "x", digest=digest)
    gateway.on_upload_message = None
    return caught.value.upload_id


@pytest.mark.parametrize(
    ("before", "now", "goes_on"),
    [("auto", "auto", True), ("sha256", "auto", True), ("sha256", "sha256", True), ("auto", "sha256", False)],
)
def test_an_upload_of_an_earlier_process(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    before: DigestChoice,
    now: DigestChoice,
    goes_on: bool,  # noqa: FBT001
) -> None:
    """RSM-1, RSM-4, DIG-3: the upload's digest is kept, unless only SHA-256 will do."""
    upload_id = earlier_upload(gateway, sandbox, sparse, before)
    result = sandbox.upload_path(sparse, "x", upload_id=upload_id, digest=now)
    assert (result.upload_id == upload_id) is (result.resumed_from > 0) is goes_on
    assert (result.sha256 is None) is (before == "auto" and goes_on)
    assert gateway.files["x"].content == CONTENT
    if not goes_on:
        assert gateway.uploads[upload_id].state == files_pb2.UPLOAD_STATE_ABORTED


def test_the_same_content_without_holes(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-2, DIG-3: a copy that is not sparse goes on with the upload of the one that is."""
    upload_id = earlier_upload(gateway, sandbox, sparse, "auto")
    times = sparse.stat().st_mtime_ns
    sparse.write_bytes(CONTENT)
    os.utime(sparse, ns=(times, times))
    result = sandbox.upload_path(sparse, "x", upload_id=upload_id)
    assert result.resumed_from > 0
    assert result.sha256_blocks == blocks_of(CONTENT).hex()


def test_a_lost_answer(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """CRS-8, DIG-4: what GetUpload says was published is compared by the upload's digest."""

    def lose(number: int) -> None:
        if number == 1:
            raise PlainStatus(StatusCode.UNAVAILABLE, "lost")

    gateway.after_publish = lose
    result = sandbox.upload_path(sparse, "x")
    assert (result.attempts, result.sha256_blocks) == (1, blocks_of(CONTENT).hex())


@pytest.mark.parametrize("field", ["sha256_blocks", "both"])
def test_a_server_that_published_something_else(
    gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path, field: str
) -> None:
    """UPL-12, DIG-4: a digest that is wrong or missing is no success."""

    def lie(_number: int) -> None:
        result = gateway.uploads["upload-1"].result
        assert result is not None
        result.file.sha256_blocks = bytes(32) if field == "sha256_blocks" else b""

    gateway.after_publish = lie
    with pytest.raises(IntegrityError):
        sandbox.upload_path(sparse, "x")


def test_a_digest_that_was_not_asked_for(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-3: a server that answers what it was not asked is broken."""
    gateway.insists_on_blocks = True
    with pytest.raises(FilesError) as caught:
        sandbox.upload_path(sparse, "x", digest="sha256")
    assert caught.value.reason == "AGENT_PROTOCOL_ERROR"
    assert finishes(gateway) == []


# Downloads

SPARSE_FILE = FakeFile(CONTENT, holes=((0, AT), (AT + len(DATA), SIZE - AT - len(DATA))))


#: Changes a message before it is sent; the number is the stream's, from 1.
Change = Callable[[int, files_pb2.DownloadFileResponse], None]


def changing(gateway: FakeGateway, change: Change) -> None:
    """Have every message of a download changed before it is sent."""

    def hook(
        number: int, honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterable[files_pb2.DownloadFileResponse]:
        for message in honest:
            change(number, message)
            yield message

    gateway.on_download = hook


def test_a_sparse_download(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """DIG-6: the digest that the header says is the one that is compared and told."""
    gateway.files["x"] = SPARSE_FILE
    result = sandbox.download_path("x", tmp_path / "out")
    (request,) = cast("list[files_pb2.DownloadFileRequest]", gateway.method_calls(methods.DOWNLOAD_FILE))
    assert list(request.accepted_digests) == [BLOCKS]
    assert (result.sha256, result.sha256_blocks) == (None, blocks_of(CONTENT).hex())
    assert result.digest_verified
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (tmp_path / "out").stat().st_blocks * 512 < SIZE - MIB


@pytest.mark.parametrize("knows", [True, False])
def test_a_download_by_sha256(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    tmp_path: Path,
    knows: bool,  # noqa: FBT001
) -> None:
    """DIG-1, DIG-6: because the caller wants it, or because the server knows no other."""
    gateway.files["x"] = SPARSE_FILE
    gateway.knows_blocks = knows
    result = sandbox.download_path("x", tmp_path / "out", digest="sha256" if knows else "auto")
    assert (result.sha256, result.sha256_blocks) == (sha256_of(CONTENT).hex(), None)
    if knows:
        (request,) = cast("list[files_pb2.DownloadFileRequest]", gateway.method_calls(methods.DOWNLOAD_FILE))
        assert not request.accepted_digests


def test_every_way_takes_it(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """DIG-6: also those that tell no digest."""
    gateway.files["x"] = SPARSE_FILE
    assert sandbox.read_bytes("x") == CONTENT
    assert b"".join(sandbox.iter_download("x")) == CONTENT
    pieces: list[bytes] = []
    result = sandbox.download("x", pieces.append, digest="auto")
    assert b"".join(pieces) == CONTENT
    assert result.sha256_blocks == blocks_of(CONTENT).hex()


@pytest.mark.parametrize("second", ["same", "SHA-256"])
def test_a_download_that_goes_on(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path, second: str
) -> None:
    """DWN-2, DIG-6, DIG-7: each stream has its own digest; the whole is compared by the first one's."""
    gateway.files["x"] = SPARSE_FILE

    def change(number: int, message: files_pb2.DownloadFileResponse) -> None:
        if number == 1 and message.data.offset > AT + 100 * KIB:
            if second == "SHA-256":
                gateway.knows_blocks = False
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")
        if number == 2 and message.WhichOneof("payload") == "trailer":
            gateway.knows_blocks = True

    changing(gateway, change)
    result = sandbox.download_path("x", tmp_path / "out")
    assert result.resumed_from > AT
    assert (result.sha256, result.sha256_blocks) == (None, blocks_of(CONTENT).hex())
    assert result.digest_verified
    (request,) = cast("list[files_pb2.StatFileRequest]", gateway.method_calls(methods.STAT_FILE))
    assert request.digest_algorithm == BLOCKS
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_server_that_is_older_by_then(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """DIG-7: a whole that nobody can compare is not called verified."""
    gateway.files["x"] = SPARSE_FILE

    def change(number: int, message: files_pb2.DownloadFileResponse) -> None:
        if number == 1 and message.data.offset > AT + 100 * KIB:
            gateway.knows_blocks = False
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")

    changing(gateway, change)
    result = sandbox.download_path("x", tmp_path / "out")
    assert not result.digest_verified
    assert (tmp_path / "out").read_bytes() == CONTENT


def wrong_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "trailer":
        message.trailer.sha256_blocks = bytes(32)


def other_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "trailer":
        message.trailer.sha256_blocks = b""
        message.trailer.sha256 = sha256_of(CONTENT)


def unknown_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "header":
        message.header.digest_algorithm = cast("files_pb2.DigestAlgorithm.ValueType", 99)


@pytest.mark.parametrize("change", [wrong_digest, other_digest, unknown_digest])
def test_a_hostile_digest(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path, change: Change
) -> None:
    """DWN-2, DIG-6: the file does not appear."""
    gateway.files["x"] = SPARSE_FILE
    changing(gateway, change)
    with pytest.raises(IntegrityError):
        sandbox.download_path("x", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_digest_that_was_not_accepted(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """DIG-6: announced all the same."""
    gateway.files["x"] = SPARSE_FILE

    def change(_number: int, message: files_pb2.DownloadFileResponse) -> None:
        if message.WhichOneof("payload") == "header":
            message.header.digest_algorithm = BLOCKS

    changing(gateway, change)
    with pytest.raises(IntegrityError, match="not asked for"):
        sandbox.download_path("x", tmp_path / "out", digest="sha256")
    assert os.listdir(tmp_path) == []
