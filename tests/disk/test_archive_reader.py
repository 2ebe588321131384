"""The reader of archives: every division of the bytes, every cut, and memory."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_disk.archives.decompression import Decompression
from openshell_files_disk.archives.limits import ArchiveLimits
from openshell_files_disk.archives.names import UnusableName, clean_name
from openshell_files_disk.archives.tar_headers import Member, pax_records
from openshell_files_disk.archives.tar_reader import TarReader
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.reasons import Reason

LIMITS = ArchiveLimits(max_entries=1000, max_bytes=1 << 40, max_ratio=1000)
LONG = "a/" + "x" * 300 + "/é"


def archive(form: int) -> bytes:
    """Return an archive of each kind of member, written by tarfile."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        info = tarfile.TarInfo(LONG)
        info.size, info.mtime, info.mode = 700, 12, 0o640
        tar.addfile(info, io.BytesIO(b"c" * 700))
        info = tarfile.TarInfo("l")
        info.type, info.linkname = tarfile.SYMTYPE, "y" * 200
        tar.addfile(info)
        info = tarfile.TarInfo("d")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    return buffer.getvalue()


def read(pieces: Iterator[bytes]) -> tuple[list[Member], list[bytes]]:
    """Return the members of an archive, and their content."""
    members: list[Member] = []
    content: list[bytearray] = []
    ended = 0

    class Taking:
        def member(self, member: Member) -> None:
            assert ended == len(members)
            members.append(member)
            content.append(bytearray())

        def content(self, data: memoryview) -> None:
            content[-1] += data

        def member_end(self) -> None:
            nonlocal ended
            ended += 1

    reader = TarReader(Taking())
    decompression = Decompression(reader.feed, LIMITS)
    for piece in pieces:
        decompression.feed(piece)
    decompression.finish()
    reader.finish()
    assert ended == len(members)
    return members, [bytes(one) for one in content]


def in_steps(data: bytes, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "two members": lambda raw: gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("step", [1, 7, 511, 513, 1 << 20])
def test_any_division_gives_the_same_members(form: int, encoding: str, step: int) -> None:
    """ARC-2, ARC-3: the bytes may be divided anywhere."""
    members, content = read(in_steps(ENCODINGS[encoding](archive(form)), step))
    assert [(one.name, one.type) for one in members] == [
        (LONG.encode(), tarfile.REGTYPE),
        (b"l", tarfile.SYMTYPE),
        (b"d/", tarfile.DIRTYPE),
    ]
    assert members[0].modified_ns == 12_000_000_000
    assert (members[0].mode, members[0].size, members[1].target) == (0o640, 700, b"y" * 200)
    assert content == [b"c" * 700, b"", b""]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_cut_is_noticed(encoding: str) -> None:
    """ARC-6: no part of an archive passes for the whole, as long as its end is missing."""
    whole = archive(tarfile.PAX_FORMAT).rstrip(b"\0")
    whole += bytes(-len(whole) % 512) + bytes(512)
    encoded = ENCODINGS[encoding](whole)
    for cut in range(len(encoded)):
        with pytest.raises(TransferError) as refused:
            read(iter([encoded[:cut]]))
        assert refused.value.reason is Reason.ARCHIVE_INVALID


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_memory_does_not_grow_with_a_bomb(kind: str) -> None:
    """ARC-16: what a few bytes become is never there at once."""
    member = tarfile.TarInfo("zeros")
    member.size = 1 << 30
    plain = member.tobuf() + bytes(256 * MIB)
    bomb = gzip.compress(plain) if kind == "gzip" else zstandard.ZstdCompressor().compress(plain)
    largest = 0
    seen = 0

    def sink(data: memoryview) -> None:
        nonlocal largest, seen
        largest = max(largest, len(data))
        seen += len(data)

    del plain
    tracemalloc.start()
    try:
        decompression = Decompression(
            sink, ArchiveLimits(max_entries=1, max_bytes=1 << 40, max_ratio=1 << 20)
        )
        decompression.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == 256 * MIB + 512
    assert largest <= MIB
    assert peak < 8 * MIB


def test_the_ratio_is_of_what_was_received() -> None:
    """ARC-4: more may come after more was received."""
    limits = ArchiveLimits(max_entries=1, max_bytes=1 << 40, max_ratio=2)
    decompression = Decompression(lambda _: None, limits)
    noise = zstandard.ZstdCompressor().compress(os.urandom(200 * MIB))
    decompression.feed(noise)
    decompression.feed(zstandard.ZstdCompressor().compress(bytes(150 * MIB)))
    with pytest.raises(TransferError) as refused:
        decompression.feed(zstandard.ZstdCompressor().compress(bytes(100 * MIB)))
    assert refused.value.reason is Reason.ARCHIVE_TOO_LARGE
    assert refused.value.metadata == {"max_expansion_ratio": "2"}


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_noise_is_refused_and_nothing_else_is_raised(data: bytes, step: int) -> None:
    """ARC-2: arbitrary bytes end with ARCHIVE_INVALID."""
    with pytest.raises(TransferError) as refused:
        read(in_steps(data, step))
    assert refused.value.reason is Reason.ARCHIVE_INVALID


@given(st.data())
def test_damage_is_refused_or_read(data: st.DataObject) -> None:
    """ARC-2: a changed byte ends with ARCHIVE_INVALID or changes a value; nothing else is raised."""
    raw = bytearray(archive(tarfile.PAX_FORMAT))
    at = data.draw(st.integers(0, 4 * 512))
    raw[at] = data.draw(st.integers(0, 255))
    reason = Reason.ARCHIVE_INVALID
    try:
        read(iter([bytes(raw)]))
    except TransferError as error:
        reason = error.reason
    assert reason is Reason.ARCHIVE_INVALID


@given(st.dictionaries(st.sampled_from([b"path", b"linkpath", b"mtime", b"size"]), st.binary(max_size=300)))
def test_pax_records_are_read_as_written(records: dict[bytes, bytes]) -> None:
    """ARC-2: a value may have any bytes, line ends and spaces, too."""
    written = bytearray()
    for key, value in records.items():
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        written += str(length).encode() + body
    assert pax_records(bytes(written), 0) == records


@given(st.binary(min_size=1, max_size=60))
def test_a_clean_name_stays_inside(name: bytes) -> None:
    """ARC-5: no path of a member is absolute or has `.`, `..`, an empty component or NUL."""
    try:
        path = clean_name(name)
    except UnusableName:
        return
    assert b"\0" not in path
    assert path == b"" or not {b"", b".", b".."} & set(path.split(b"/"))
