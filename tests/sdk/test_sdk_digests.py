"""Digest of an upload: the chosen algorithm, and servers that do not compute the first choice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from digest_values import BLAKE3, OTHER, SHA256, Algorithm, digest_of, words_of
from fake_file_gateway import FakeFile, FakeGateway, FakeUpload, PlainStatus
from grpc import StatusCode
from openshell_files import DigestChoice, DownloadResult, FileInfo, SandboxFiles, UploadResult
from openshell_files.errors import FilesError, IntegrityError, InvalidRequest
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

SIZE = 5 * MIB
AT = 2 * MIB - 100
DATA = b"content " * 100_000
CONTENT = bytes(AT) + DATA + bytes(SIZE - AT - len(DATA))


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


CHOICES: list[tuple[DigestChoice, list[Algorithm]]] = [
    ("auto", [BLAKE3, SHA256]),
    ("blake3", [BLAKE3]),
    ("sha256", [SHA256]),
]


@pytest.mark.parametrize(("choice", "accepted"), CHOICES)
@pytest.mark.parametrize("computes", [[BLAKE3, SHA256], [SHA256]], ids=["both", "SHA-256"])
@pytest.mark.parametrize("small", [True, False])
def test_what_is_taken(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    choice: DigestChoice,
    accepted: list[Algorithm],
    computes: list[Algorithm],
    small: bool,  # noqa: FBT001
) -> None:
    """DIG-2, DIG-8: every method uses the best algorithm that the server computes; a given one is used or refused."""
    gateway.digests = computes
    content = b"small" if small else CONTENT
    gateway.files["y"] = FakeFile(content)
    if small:
        sparse.write_bytes(content)
    expected = next((algorithm for algorithm in accepted if algorithm in computes), None)
    ways: list[Callable[[], UploadResult | DownloadResult | FileInfo]] = [
        lambda: sandbox.upload_path(sparse, "x", digest=choice),
        lambda: sandbox.upload(content, "x", digest=choice),
        lambda: sandbox.upload(iter([content]), "x", digest=choice),
        lambda: sandbox.write_bytes("x", content, digest=choice),
        lambda: sandbox.download_path("y", sparse.with_name("out"), digest=choice),
        lambda: sandbox.download("y", lambda _: None, digest=choice),
        lambda: sandbox.stat("y", digest=choice),
    ]
    for way in ways:
        if expected is None:
            with pytest.raises(FilesError) as caught:
                way()
            assert caught.value.reason == "DIGEST_UNSUPPORTED"
        else:
            assert way().digest == words_of(content, expected)
    for start in started(gateway):
        assert list(start.metadata.accepted_digests) == accepted
    for finish in finishes(gateway):
        assert finish.digest == digest_of(content, expected or SHA256)


def test_what_was_refused_is_not_tried_again(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """DIG-8: an upload without StartUpload names one algorithm; it is another one after a refusal, at once and later."""
    gateway.digests = [SHA256]
    for _ in range(2):
        assert sandbox.write_bytes("x", b"small").digest == words_of(b"small", SHA256)
    named = [list(messages[0].metadata.accepted_digests) for messages in gateway.upload_messages]
    assert named == [[BLAKE3], [SHA256], [SHA256]]
    assert started(gateway) == []


def test_a_choice_that_there_is_not(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    wrong = cast("DigestChoice", "md5")
    for call in (
        lambda: sandbox.upload_path(sparse, "x", digest=wrong),
        lambda: sandbox.download_path("x", sparse, digest=wrong),
    ):
        with pytest.raises(InvalidRequest, match="md5"):
            call()
    assert gateway.calls == []


def test_a_broken_connection_to_a_server_of_sha256(
    gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path
) -> None:
    """RSM-15, DIG-4: the prefix is compared by what the server computes, and the rest is sent."""
    gateway.digests = [SHA256]
    breaking(gateway, AT + 1)
    result = sandbox.upload_path(sparse, "x")
    assert result.digest == words_of(CONTENT, SHA256)
    assert result.resumed_from >= AT
    assert gateway.files["x"].content == CONTENT
    assert len(gateway.uploads) == 1


@pytest.mark.parametrize("knows", [True, False])
def test_identical_content(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    knows: bool,  # noqa: FBT001
) -> None:
    """RSM-9, DIG-18: nothing is sent, even if the server could not compare the first digest."""
    gateway.digests = [BLAKE3, SHA256] if knows else [SHA256]
    gateway.files["x"] = FakeFile(CONTENT)
    result = sandbox.upload_path(sparse, "x", skip_identical=True)
    assert result.already_identical
    assert gateway.upload_messages == []
    assert started(gateway)[0].digest == digest_of(CONTENT, BLAKE3)
    assert result.digest == words_of(CONTENT, BLAKE3 if knows else SHA256)
    if knows:
        return
    assert started(gateway)[1].digest == digest_of(CONTENT, SHA256)
    states = [upload.state for upload in gateway.uploads.values()]
    assert states == [files_pb2.UPLOAD_STATE_ABORTED, files_pb2.UPLOAD_STATE_PUBLISHED]


@pytest.mark.parametrize("knows", [True, False])
def test_other_content(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    knows: bool,  # noqa: FBT001
) -> None:
    """RSM-9, DIG-17: compared, and sent."""
    gateway.digests = [BLAKE3, SHA256] if knows else [SHA256]
    gateway.files["x"] = FakeFile(CONTENT + b"\0")
    result = sandbox.upload_path(sparse, "x", skip_identical=True)
    assert not result.already_identical
    assert gateway.files["x"].content == CONTENT


def test_going_on_after_a_break(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """RSM-15, DIG-4: the prefix is compared by the upload's digest."""
    breaking(gateway, AT + 1)
    result = sandbox.upload_path(sparse, "x")
    assert result.resumed_from >= AT
    assert result.digest == words_of(CONTENT)
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
    [
        ("auto", "auto", True),
        ("sha256", "auto", True),
        ("sha256", "sha256", True),
        ("sha256", "blake3", False),
        ("auto", "sha256", False),
    ],
)
def test_an_upload_of_an_earlier_process(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    sparse: Path,
    before: DigestChoice,
    now: DigestChoice,
    goes_on: bool,  # noqa: FBT001
) -> None:
    """RSM-1, RSM-4, DIG-7: the resumed upload keeps its algorithm, unless the caller accepts only the other."""
    upload_id = earlier_upload(gateway, sandbox, sparse, before)
    result = sandbox.upload_path(sparse, "x", upload_id=upload_id, digest=now)
    assert (result.upload_id == upload_id) is (result.resumed_from > 0) is goes_on
    assert result.digest == words_of(CONTENT, SHA256 if (before if goes_on else now) == "sha256" else BLAKE3)
    assert gateway.files["x"].content == CONTENT
    assert result.started_over is not goes_on
    if not goes_on:
        has = "sha256" if before == "sha256" else "blake3"
        said = f"its digest is {has}, and the option digest accepts only {now}"
        assert result.started_over_because == said
        assert gateway.uploads[upload_id].state == files_pb2.UPLOAD_STATE_ABORTED


def test_an_upload_keeps_a_digest_that_is_refused_for_new_ones(
    gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path
) -> None:
    """DIG-7: the caller lists the upload's algorithm, whatever this client knows of the gateway."""
    upload_id = earlier_upload(gateway, sandbox, sparse, "auto")
    gateway.digests = [SHA256]
    assert sandbox.write_bytes("small", b"1").digest == words_of(b"1", SHA256)
    gateway.digests = [BLAKE3, SHA256]
    result = sandbox.upload_path(sparse, "x", upload_id=upload_id)
    assert (result.upload_id, result.started_over) == (upload_id, False)
    assert result.digest == words_of(CONTENT, BLAKE3)


def test_the_same_content_without_holes(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-10: a copy without holes resumes the upload of the sparse file."""
    upload_id = earlier_upload(gateway, sandbox, sparse, "auto")
    times = sparse.stat().st_mtime_ns
    sparse.write_bytes(CONTENT)
    os.utime(sparse, ns=(times, times))
    result = sandbox.upload_path(sparse, "x", upload_id=upload_id)
    assert result.resumed_from > 0
    assert result.digest == words_of(CONTENT)


def test_a_lost_answer(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """CRS-8: what GetUpload says was published is compared by the upload's digest."""

    def lose(number: int) -> None:
        if number == 1:
            raise PlainStatus(StatusCode.UNAVAILABLE, "lost")

    gateway.after_publish = lose
    result = sandbox.upload_path(sparse, "x")
    assert (result.attempts, result.digest) == (1, words_of(CONTENT))


@pytest.mark.parametrize("digest", [files_pb2.Digest(algorithm=BLAKE3, value=bytes(32)), OTHER, None])
def test_a_server_that_published_something_else(
    gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path, digest: files_pb2.Digest | None
) -> None:
    """UPL-44: a digest that is wrong or missing is no success."""

    def lie(_number: int) -> None:
        result = gateway.uploads["upload-1"].result
        assert result is not None
        result.file.ClearField("digest")
        if digest is not None:
            result.file.digest.CopyFrom(digest)

    gateway.after_publish = lie
    with pytest.raises(IntegrityError):
        sandbox.upload_path(sparse, "x")


def test_a_digest_that_was_not_asked_for(gateway: FakeGateway, sandbox: SandboxFiles, sparse: Path) -> None:
    """DIG-2: a server that answers what it was not asked is broken."""
    gateway.insists_on = BLAKE3
    with pytest.raises(FilesError) as caught:
        sandbox.upload_path(sparse, "x", digest="sha256")
    assert caught.value.reason == "AGENT_PROTOCOL_ERROR"
    assert finishes(gateway) == []
