"""A sandbox that lies: nothing it sends is shown, and nothing it sends chooses a path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from digest_values import BLAKE3, digest_of
from fake_file_gateway import EndWithoutWord, FakeFile, FakeGateway
from openshell_files import NO_RETRY, SandboxFiles
from openshell_files.errors import FilesError, FileTooLarge, IncompleteDownload, IntegrityError
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import Connect, big_content

Response = files_pb2.DownloadFileResponse
Messages = list[Response]
CONTENT = big_content()


def chunk(offset: int, data: bytes) -> Response:
    return Response(data=files_pb2.FileChunk(offset=offset, data=data, crc32c=crc32c(data)))


def short(messages: Messages) -> list[Response | bytes]:
    return [*messages[:3], messages[-1]]


def gap(messages: Messages) -> list[Response | bytes]:
    return [*messages[:3], *messages[4:]]


def regress(messages: Messages) -> list[Response | bytes]:
    return [*messages[:3], *messages[2:]]


def extra(messages: Messages) -> list[Response | bytes]:
    return [*messages[:-1], chunk(len(CONTENT), b"extra"), messages[-1]]


def extra_and_trailer(messages: Messages) -> list[Response | bytes]:
    messages[-1].trailer.end_offset += 5
    return [*messages[:-1], chunk(len(CONTENT), b"extra"), messages[-1]]


def after_trailer(messages: Messages) -> list[Response | bytes]:
    return [*messages, chunk(len(CONTENT), b"more")]


def two_headers(messages: Messages) -> list[Response | bytes]:
    return [messages[0], *messages]


def no_header(messages: Messages) -> list[Response | bytes]:
    return [*messages[1:]]


def trailer_only(messages: Messages) -> list[Response | bytes]:
    return [messages[-1]]


def unchecked(messages: Messages) -> list[Response | bytes]:
    return [messages[0], Response(chunk=messages[1].data.data), *messages[2:]]


def wrong_crc(messages: Messages) -> list[Response | bytes]:
    messages[2].data.crc32c ^= 1
    return [*messages]


def flipped_bit(messages: Messages) -> list[Response | bytes]:
    data = messages[2].data.data
    messages[2].data.data = bytes([data[0] ^ 1]) + data[1:]
    return [*messages]


def consistent_lie(messages: Messages) -> list[Response | bytes]:
    """The bytes are others, with a CRC that fits them."""
    messages[2] = chunk(messages[2].data.offset, bytes(len(messages[2].data.data)))
    return [*messages]


def wrong_digest(messages: Messages) -> list[Response | bytes]:
    messages[-1].trailer.digest.value = bytes(32)
    return [*messages]


def no_digest(messages: Messages) -> list[Response | bytes]:
    messages[-1].trailer.ClearField("digest")
    return [*messages]


def wrong_end(messages: Messages) -> list[Response | bytes]:
    messages[-1].trailer.end_offset -= 1
    return [*messages]


def changed_unasked(messages: Messages) -> list[Response | bytes]:
    messages[-1].trailer.changed = True
    return [*messages]


def larger_header(messages: Messages) -> list[Response | bytes]:
    messages[0].header.size_bytes += 1
    return [*messages]


def wrong_start(messages: Messages) -> list[Response | bytes]:
    messages[0].header.start_offset = 1
    return [*messages]


def neither(messages: Messages) -> list[Response | bytes]:
    return [messages[0], Response(data=files_pb2.FileChunk()), *messages[1:]]


def both(messages: Messages) -> list[Response | bytes]:
    messages[1].data.hole_bytes = 5
    return [*messages]


def huge_hole(messages: Messages) -> list[Response | bytes]:
    return [messages[0], Response(data=files_pb2.FileChunk(offset=0, hole_bytes=2**63))]


def garbage(messages: Messages) -> list[Response | bytes]:
    return [messages[0], b"\xff\xff\xff\xff not protobuf"]


def nothing(messages: Messages) -> list[Response | bytes]:
    return [messages[0], b"", *messages[1:]]


LIES: list[Callable[[Messages], list[Response | bytes]]] = [
    short,
    gap,
    regress,
    extra,
    extra_and_trailer,
    after_trailer,
    two_headers,
    no_header,
    trailer_only,
    unchecked,
    wrong_crc,
    flipped_bit,
    consistent_lie,
    wrong_digest,
    no_digest,
    wrong_end,
    changed_unasked,
    larger_header,
    wrong_start,
    neither,
    both,
    huge_hole,
    garbage,
    nothing,
]


def lying(lie: Callable[[Messages], list[Response | bytes]], streams: int) -> object:
    def hook(number: int, honest: Iterator[Response]) -> Iterator[Response | bytes]:
        yield from lie(list(honest)) if number <= streams else honest

    return hook


@pytest.fixture(autouse=True)
def remote(gateway: FakeGateway) -> None:
    gateway.files["big"] = FakeFile(CONTENT)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_never_shown(
    gateway: FakeGateway,
    connect: Connect,
    tmp_path: Path,
    lie: Callable[[Messages], list[Response | bytes]],
) -> None:
    """DWN-10."""
    gateway.on_download = lying(lie, 1000)  # type: ignore[assignment]  # mypy wants the alias
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(FilesError) as caught:
        connect(retry=NO_RETRY).download_path("big", tmp_path / "out")
    assert isinstance(caught.value, IntegrityError) or lie is changed_unasked
    assert caught.value.path == "big"
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("lie", [wrong_crc, gap, wrong_digest, consistent_lie, garbage])
def test_an_accident_is_survived(
    gateway: FakeGateway,
    sandbox: SandboxFiles,
    tmp_path: Path,
    lie: Callable[[Messages], list[Response | bytes]],
) -> None:
    """What is wrong once is asked for again: from the last good byte, or from the start."""
    gateway.on_download = lying(lie, 1)  # type: ignore[assignment]  # mypy wants the alias
    result = sandbox.download_path("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert result.attempts == 2
    assert result.digest_verified


def test_no_trailer_is_incomplete(gateway: FakeGateway, connect: Connect, tmp_path: Path) -> None:
    """DWN-2: a stream whose status is OK is not a whole file."""

    def hook(_number: int, honest: Iterator[Response]) -> Iterator[Response | bytes]:
        yield from list(honest)[:-1]
        raise EndWithoutWord

    gateway.on_download = hook
    with pytest.raises(IncompleteDownload):
        connect(retry=NO_RETRY).download_path("big", tmp_path / "out")
    with pytest.raises(IncompleteDownload):
        connect(retry=NO_RETRY).read_bytes("big")
    with pytest.raises(IncompleteDownload):
        list(connect(retry=NO_RETRY).iter_download("big"))


def test_names_from_the_sandbox_choose_nothing(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    def hook(_number: int, honest: Iterator[Response]) -> Iterator[Response | bytes]:
        for message in honest:
            if message.HasField("header"):
                message.header.file.path = "../../../tmp/evil\x1b[2J"
            yield message

    gateway.on_download = hook
    sandbox.download_path("big", tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_endless_content_is_bounded(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """A file that may change has no announced end: max_bytes is the only one."""

    def hook(_number: int, honest: Iterator[Response]) -> Iterator[Response | bytes]:
        yield next(honest)
        position = 0
        while True:
            yield chunk(position, bytes(100_000))
            position += 100_000

    gateway.on_download = hook
    with pytest.raises(FileTooLarge):
        sandbox.read_bytes("big", allow_changes=True, max_bytes=5_000_000)


def test_another_file_under_a_resumed_download(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    """A sandbox that ignores if_version is found out by the version, or by the whole file's digest."""

    def hook(number: int, honest: Iterator[Response]) -> Iterator[Response | bytes]:
        messages = list(honest)
        if number == 1:
            yield from messages[:4]
            raise EndWithoutWord
        if number == 2:
            # Other bytes, consistent in themselves: the trailer of this stream is right.
            start = messages[0].header.start_offset
            forged = bytes(len(CONTENT) - start)
            yield messages[0]
            for position in range(0, len(forged), 65536):
                yield chunk(start + position, forged[position : position + 65536])
            messages[-1].trailer.digest.CopyFrom(digest_of(forged, BLAKE3))
            yield messages[-1]
            return
        yield from messages

    gateway.on_download = hook
    result = sandbox.download_path("big", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert result.attempts == 3
