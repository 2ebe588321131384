"""Digest of a download: the announced algorithm, a resume, and hostile answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import pytest
from digest_values import BLAKE3, SHA256, UNKNOWN, digest_of, words_of
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus
from grpc import StatusCode
from openshell_files import SandboxFiles
from openshell_files.errors import IntegrityError
from openshell_files_protocol import methods
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

SIZE = 5 * MIB


AT = 2 * MIB - 100


DATA = b"content " * 100_000


CONTENT = bytes(AT) + DATA + bytes(SIZE - AT - len(DATA))


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
    """DIG-1, DIG-4: the digest that the header says is the one that is compared and told; holes stay holes."""
    gateway.files["x"] = SPARSE_FILE
    result = sandbox.download_path("x", tmp_path / "out")
    (request,) = cast("list[files_pb2.DownloadFileRequest]", gateway.method_calls(methods.DOWNLOAD_FILE))
    assert list(request.accepted_digests) == [BLAKE3, SHA256]
    assert result.digest == words_of(CONTENT)
    assert result.digest_verified
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (tmp_path / "out").stat().st_blocks * 512 < SIZE - MIB


@pytest.mark.parametrize("second", ["same", "SHA-256"])
def test_a_download_that_goes_on(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path, second: str
) -> None:
    """DWN-2, DIG-4: each stream has its own digest; the whole is compared by the first one's."""
    gateway.files["x"] = SPARSE_FILE

    def change(number: int, message: files_pb2.DownloadFileResponse) -> None:
        if number == 1 and message.data.offset > AT + 100 * KIB:
            if second == "SHA-256":
                gateway.digests = [SHA256]
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")
        if number == 2 and message.WhichOneof("payload") == "trailer":
            gateway.digests = [BLAKE3, SHA256]

    changing(gateway, change)
    result = sandbox.download_path("x", tmp_path / "out")
    assert result.resumed_from > AT
    assert result.digest == words_of(CONTENT)
    assert result.digest_verified
    (request,) = cast("list[files_pb2.StatFileRequest]", gateway.method_calls(methods.STAT_FILE))
    assert list(request.accepted_digests) == [BLAKE3, SHA256]
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_a_server_that_computes_less_by_then(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    """DWN-10: a file without a digest of the whole is not called verified."""
    gateway.files["x"] = SPARSE_FILE

    def change(number: int, message: files_pb2.DownloadFileResponse) -> None:
        if number == 1 and message.data.offset > AT + 100 * KIB:
            gateway.digests = [SHA256]
            raise PlainStatus(StatusCode.UNAVAILABLE, "broken")

    changing(gateway, change)
    result = sandbox.download_path("x", tmp_path / "out")
    assert not result.digest_verified
    assert (tmp_path / "out").read_bytes() == CONTENT


def wrong_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "trailer":
        message.trailer.digest.value = bytes(32)


def other_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "trailer":
        message.trailer.digest.CopyFrom(digest_of(CONTENT, SHA256))


def no_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "trailer":
        message.trailer.ClearField("digest")


def unknown_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "header":
        message.header.digest_algorithm = UNKNOWN


def unsaid_digest(_number: int, message: files_pb2.DownloadFileResponse) -> None:
    if message.WhichOneof("payload") == "header":
        message.header.ClearField("digest_algorithm")


@pytest.mark.parametrize("change", [wrong_digest, other_digest, no_digest, unknown_digest, unsaid_digest])
def test_a_hostile_digest(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path, change: Change
) -> None:
    """DWN-10, DIG-4: the file does not appear."""
    gateway.files["x"] = SPARSE_FILE
    changing(gateway, change)
    with pytest.raises(IntegrityError):
        sandbox.download_path("x", tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_digest_that_was_not_accepted(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """DIG-2: announced all the same."""
    gateway.files["x"] = SPARSE_FILE

    def change(_number: int, message: files_pb2.DownloadFileResponse) -> None:
        if message.WhichOneof("payload") == "header":
            message.header.digest_algorithm = BLAKE3

    changing(gateway, change)
    with pytest.raises(IntegrityError, match="not requested"):
        sandbox.download_path("x", tmp_path / "out", digest="sha256")
    assert os.listdir(tmp_path) == []
