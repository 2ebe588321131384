"""Content on its way out, whatever its shape: digests, chunks, holes, and random breaks."""

from __future__ import annotations

import os
import tempfile

from digest_values import words_of
from fake_file_gateway import FakeGateway, FakeUpload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openshell_files import RetryPolicy
from openshell_files._core.digests import ContentDigest
from openshell_files._core.upload.outgoing import Rechunker, Span, finish_message, first_message, seal
from openshell_files._local import source_file
from openshell_files.cli.output.report import printable
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect, big_content

BLAKE3 = DigestAlgorithm.BLAKE3
QUICK = settings(deadline=None, max_examples=60)


@QUICK
@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_rechunking_changes_nothing(pieces: list[bytes], size: int) -> None:
    chunks = Rechunker(size)
    out = [bytes(chunk) for piece in pieces for chunk in chunks.feed(bytearray(piece))]
    rest = chunks.flush()
    assert all(len(chunk) == size for chunk in out)
    assert len(rest) < size
    assert b"".join([*out, rest]) == b"".join(pieces)


@QUICK
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9), st.integers(1, 9)), max_size=200), st.data())
def test_digest_can_go_back(pieces: list[bytes | int], data: st.DataObject) -> None:
    """RSM-15: after going back to any boundary, the digest is that of the prefix, or nothing."""
    digest, content, boundaries = ContentDigest(BLAKE3), b"", [0]
    for piece in pieces:
        if isinstance(piece, int):
            digest.update_zeros(piece)
            content += bytes(piece)
        else:
            digest.update(piece)
            content += piece
        boundaries.append(len(content))
    assert str(digest.digest()) == words_of(content)
    back = data.draw(st.sampled_from(boundaries))
    known = digest.rewind(back)
    assert digest.position == (back if known else 0)
    assert str(digest.digest()) == words_of(content[: digest.position])
    assert known or len(boundaries) > 100, "the latest boundaries are always remembered"


@QUICK
@given(st.integers(0, 2**40), st.binary(max_size=100), st.integers(0, 3))
def test_messages_are_those_of_protobuf(offset: int, content: bytes, hole: int) -> None:
    digest = ContentDigest(BLAKE3)
    digest.update(b"x")
    vars(digest)["_position"] = offset
    sealed = seal(digest, Span(hole_bytes=hole) if hole else Span(content))
    parsed = files_pb2.UploadFileRequest.FromString(sealed.message)
    assert (parsed.data.offset, parsed.data.hole_bytes) == (offset, hole)
    assert parsed.data.data == (b"" if hole else content)
    assert parsed.data.crc32c == (0 if hole else crc32c(content))
    assert sealed.end == offset + (hole or len(content))


def test_control_messages() -> None:
    finish = files_pb2.UploadFileRequest.FromString(finish_message(5, Digest(BLAKE3, b"d" * 32))).finish
    assert (finish.size_bytes, finish.digest) == (5, Digest(BLAKE3, b"d" * 32).message)
    metadata = files_pb2.UploadFileMetadata(remote_path="x")
    assert files_pb2.UploadFileRequest.FromString(first_message(metadata)).metadata == metadata


def test_zeros() -> None:
    hasher = ContentDigest(BLAKE3)
    hasher.update_zeros(3_000_001)
    assert str(hasher.digest()) == words_of(bytes(3_000_001))


@QUICK
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=8), st.integers(0, 1 << 22)
)
def test_extents_cover_the_file(parts: list[tuple[bool, int]], start: int) -> None:
    """Holes and content follow each other from `start` to the end, and holes really are zeros."""
    step = 128 * 1024
    with tempfile.TemporaryFile() as file:
        position = 0
        for filled, blocks in parts:
            if filled:
                os.pwrite(file.fileno(), b"x" * (blocks * step), position)
            position += blocks * step
        os.ftruncate(file.fileno(), position)
        found = source_file.inspect(file.fileno(), "f")
        here = min(start, found.size)
        for extent in source_file.extents(file.fileno(), here, found):
            assert extent.offset == here
            here += extent.size
            if extent.hole:
                assert not any(os.pread(file.fileno(), extent.size, extent.offset))
        assert here == found.size


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(breaks=st.lists(st.integers(0, 14), max_size=6), lose_answer=st.booleans())
def test_random_breaks(
    gateway: FakeGateway, connect: Connect, breaks: list[int], *, lose_answer: bool
) -> None:
    """Wherever streams break, the file arrives whole, once."""
    gateway.max_chunk_bytes = 300_000
    gateway.uploads.clear()
    base = gateway.streams("/openshell.v1.OpenShell/UploadFile")
    counts: dict[int, int] = {}

    def hook(number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        counts[number] = counts.get(number, -1) + 1
        if number - base <= len(breaks) and counts[number] == breaks[number - base - 1]:
            raise TransferError(Reason.RELAY_LOST, "broke")

    def lose(_number: int) -> None:
        if lose_answer:
            raise TransferError(Reason.RELAY_LOST, "broke")

    gateway.on_upload_message, gateway.after_publish = hook, lose
    result = connect(retry=RetryPolicy(attempts=8, initial_delay=0)).upload(big_content(), "x")
    assert gateway.files.pop("x").content == big_content()
    assert result.digest == words_of(big_content())
    assert len(gateway.uploads) == 1


@QUICK
@given(st.text())
def test_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text
