"""Archives by the SDK: what is sent, when it is sent again, and what a sandbox may not say."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from broken_streams import LOST, break_after
from digest_values import words_of
from fake_file_gateway import FakeFile, FakeGateway, FakeUpload
from openshell_files import Durability, Progress, SandboxFiles, errors
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import QUICK, big_content

SHA256 = files_pb2.DIGEST_ALGORITHM_SHA256


def uploads(gateway: FakeGateway) -> list[files_pb2.UploadFileMetadata]:
    """Return the first message of each stream."""
    return [messages[0].metadata for messages in gateway.upload_messages]


def downloads(gateway: FakeGateway) -> list[files_pb2.DownloadFileRequest]:
    return cast("list[files_pb2.DownloadFileRequest]", gateway.method_calls(methods.DOWNLOAD_FILE))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a local file of several chunks."""
    path = tmp_path / "x.tar"
    path.write_bytes(big_content())
    return path


def test_the_request(gateway: FakeGateway, sandbox: SandboxFiles, archive: Path) -> None:
    """ARC-8: one stream with a finish, and nothing that an archive cannot have."""
    sandbox.upload_archive(archive, "into", parents=True, durability=Durability.RENAME)
    [metadata] = uploads(gateway)
    assert metadata == files_pb2.UploadFileMetadata(
        sandbox="demo",
        workspace=metadata.workspace,
        remote_path="into",
        size_bytes=len(big_content()),
        is_archive=True,
        explicit_finish=True,
        parents=files_pb2.PARENT_POLICY_CREATE,
        durability=files_pb2.DURABILITY_RENAME,
        accepted_digests=metadata.accepted_digests,
    )
    assert len(metadata.accepted_digests) == 1
    assert not gateway.method_calls(methods.START_UPLOAD)


def test_the_result(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """ARC-10: as the sandbox says it; names are bytes there."""
    gateway.archive = files_pb2.ArchiveResult(
        entries=9,
        placed_entries=5,
        files=3,
        content_bytes=77,
        problems=[files_pb2.ArchiveProblem(path=b"a\xff", reason="INVALID_PATH", message="no")],
        more_problems=3,
    )
    seen: list[Progress] = []
    result = sandbox.upload_archive(b"archive", "into", progress=seen.append)
    assert (result.entries, result.placed, result.files, result.content_bytes) == (9, 5, 3, 77)
    assert (result.failed, result.more_problems, result.complete) == (4, 3, False)
    assert (os.fsencode(result.problems[0].path), result.problems[0].reason) == (b"a\xff", "INVALID_PATH")
    assert (result.path, result.archive_bytes, result.attempts) == ("/into", 7, 1)
    assert result.digest == words_of(b"archive", SHA256)
    assert result.durability is Durability.FSYNC
    assert (seen[-1].transferred, seen[-1].total) == (7, 7)


def pieces(data: bytes) -> Iterator[bytes]:
    yield data[:300_000]
    yield data[300_000:]


REPLAYABLE: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "file object": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("source", REPLAYABLE)
def test_a_lost_stream_is_sent_again(
    gateway: FakeGateway, sandbox: SandboxFiles, archive: Path, source: str
) -> None:
    """ARC-9: from its first byte, if the source can be read again."""
    gateway.on_upload_message = break_after(2)
    result = sandbox.upload_archive(REPLAYABLE[source](archive), "into")
    assert result.attempts == gateway.streams(methods.UPLOAD_FILE) == 2
    assert gateway.files["into"].content == big_content()


def test_a_lost_stream_of_a_stream(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """ARC-9: what cannot be read again is not sent again."""
    gateway.on_upload_message = break_after(2)
    with pytest.raises(errors.SourceNotReplayable) as caught:
        sandbox.upload_archive(itertools.repeat(big_content()), "into")
    assert isinstance(caught.value.__cause__, errors.Unavailable)
    assert gateway.streams(methods.UPLOAD_FILE) == 1


def lose_answers(gateway: FakeGateway, count: int) -> None:
    def lose(number: int) -> None:
        if number <= count:
            raise LOST

    gateway.after_publish = lose


def test_a_lost_answer(gateway: FakeGateway, sandbox: SandboxFiles, archive: Path) -> None:
    """ARC-9: the same archive again leaves the same entries."""
    lose_answers(gateway, 1)
    assert sandbox.upload_archive(archive, "into").attempts == 2


@pytest.mark.parametrize("streamed", [False, True], ids=["always", "of a stream"])
def test_an_answer_that_stays_lost(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    archive: Path,
    streamed: bool,  # noqa: FBT001
) -> None:
    """ARC-21: then it is unknown whether everything is in place."""
    lose_answers(gateway, 99)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        sandbox.upload_archive(pieces(big_content()) if streamed else archive, "into")
    assert "unpacked" in caught.value.message
    assert gateway.streams(methods.UPLOAD_FILE) == (1 if streamed else 4)


def refuse(reason: Reason) -> Callable[[int, FakeUpload, files_pb2.UploadFileRequest], None]:
    def hook(_number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        raise TransferError(reason, "so it is")

    return hook


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.ARCHIVE_INVALID, errors.InvalidArchive),
        (Reason.ARCHIVE_TOO_LARGE, errors.FileTooLarge),
        (Reason.NOT_A_DIRECTORY, errors.NotADirectory),
        (Reason.ARCHIVE_UNSUPPORTED, errors.Unsupported),
    ],
)
def test_refusals_are_not_retried(
    gateway: FakeGateway, sandbox: SandboxFiles, archive: Path, reason: Reason, kind: type[Exception]
) -> None:
    """RFC-7, ARC-1, ARC-2, ARC-4"""
    gateway.on_upload_message = refuse(reason)
    with pytest.raises(kind) as caught:
        sandbox.upload_archive(archive, "into")
    error = caught.value
    assert isinstance(error, errors.FilesError)
    assert (error.reason, error.path) == (reason.name, "into")
    assert ("upload_tree" in error.fix) == (reason is Reason.ARCHIVE_UNSUPPORTED)
    assert gateway.streams(methods.UPLOAD_FILE) == 1


def test_a_local_file_that_changes(gateway: FakeGateway, sandbox: SandboxFiles, archive: Path) -> None:
    """ARC-9: without a finish the archive is never told to be unpacked."""

    def change(_number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        os.utime(archive, ns=(1, 1))

    gateway.on_upload_message = change
    with pytest.raises(errors.LocalFileChanged):
        sandbox.upload_archive(archive, "into")
    assert "into" not in gateway.files


def test_an_error_of_the_source(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """It is the caller's own, and ends the call."""

    def broken() -> Iterator[bytes]:
        yield big_content()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sandbox.upload_archive(broken(), "into")
    assert "into" not in gateway.files


@pytest.fixture
def there(gateway: FakeGateway) -> bytes:
    """Return the archive that the sandbox sends of `d`."""
    gateway.files["d"] = FakeFile(big_content())
    gateway.archive = files_pb2.ArchiveResult(entries=3, placed_entries=3, files=2, content_bytes=5)
    return big_content()


def test_a_download(gateway: FakeGateway, sandbox: SandboxFiles, there: bytes, tmp_path: Path) -> None:
    """ARC-11, ARC-13"""
    result = sandbox.download_archive("d", tmp_path / "x.tar", allow_changes=True)
    assert (tmp_path / "x.tar").read_bytes() == there
    assert (result.entries, result.files, result.archive_bytes) == (3, 2, len(there))
    assert result.durability is None
    [request] = downloads(gateway)
    assert request.as_archive
    assert request.on_change == files_pb2.CHANGE_POLICY_ALLOW


def lose_once(
    number: int, honest: Iterator[files_pb2.DownloadFileResponse]
) -> Iterable[files_pb2.DownloadFileResponse]:
    for count, message in enumerate(honest):
        if number == 1 and count == 3:
            raise LOST
        yield message


def test_a_lost_download_begins_again(
    gateway: FakeGateway, sandbox: SandboxFiles, there: bytes, tmp_path: Path
) -> None:
    """ARC-11: it has no ranges to resume at."""
    gateway.on_download = lose_once
    result = sandbox.download_archive("d", tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == there
    assert result.attempts == 2
    assert [(one.offset, one.if_version, one.as_archive) for one in downloads(gateway)] == [(0, "", True)] * 2


def test_a_lost_download_of_a_function(gateway: FakeGateway, sandbox: SandboxFiles, there: bytes) -> None:
    """ARC-11: what was handed on cannot be taken back."""
    gateway.on_download = lose_once
    got = bytearray()
    with pytest.raises(errors.Unavailable):
        sandbox.download_archive("d", got.extend)
    assert there.startswith(got)
    assert len(downloads(gateway)) == 1


def changed(
    what: Callable[[files_pb2.DownloadFileResponse], None],
) -> Callable[[int, Iterator[files_pb2.DownloadFileResponse]], Iterable[files_pb2.DownloadFileResponse]]:
    def hook(
        _number: int, honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        for message in honest:
            what(message)
            yield message

    return hook


def no_archive(message: files_pb2.DownloadFileResponse) -> None:
    if message.HasField("header"):
        message.header.is_archive = False


def no_result(message: files_pb2.DownloadFileResponse) -> None:
    if message.HasField("trailer"):
        message.trailer.ClearField("archive")


def other_digest(message: files_pb2.DownloadFileResponse) -> None:
    if message.HasField("trailer"):
        message.trailer.digest.value = bytes(32)


def told_change(message: files_pb2.DownloadFileResponse) -> None:
    if message.HasField("trailer"):
        message.trailer.changed = True


def absurd(message: files_pb2.DownloadFileResponse) -> None:
    if message.HasField("trailer"):
        message.trailer.archive.entries = (1 << 64) - 1


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("lie", [no_archive, no_result, other_digest, told_change, absurd])
def test_what_a_sandbox_may_not_say(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    tmp_path: Path,
    lie: Callable[[files_pb2.DownloadFileResponse], None],
) -> None:
    """ARC-11, ARC-13, ARC-14: the local file does not appear."""
    gateway.on_download = changed(lie)
    with pytest.raises(errors.FilesError):
        sandbox.download_archive("d", tmp_path / "x.tar")
    assert os.listdir(tmp_path) == []
    assert len(downloads(gateway)) <= QUICK.attempts, "what is dropped is no progress"


def test_a_sandbox_without_archives(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """RFC-7: the error names what can be done instead."""

    def refused(
        _number: int, _honest: Iterator[files_pb2.DownloadFileResponse]
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        raise TransferError(Reason.ARCHIVE_UNSUPPORTED, "no")

    gateway.files["d"] = FakeFile(b"")
    gateway.on_download = refused
    with pytest.raises(errors.Unsupported) as caught:
        sandbox.download_archive("d", tmp_path / "x.tar")
    assert "download_tree" in caught.value.fix


def test_a_limit(sandbox: SandboxFiles, there: bytes, tmp_path: Path) -> None:
    with pytest.raises(errors.FileTooLarge):
        sandbox.download_archive("d", tmp_path / "x.tar", max_bytes=len(there) - 1)
    assert os.listdir(tmp_path) == []
