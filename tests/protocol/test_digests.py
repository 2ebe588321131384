"""The digests: what they are, and that nothing but the content takes part."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import pytest
from clause_index import PROTOCOL
from hypothesis import given
from hypothesis import strategies as st
from naive_digests import blocks_of, sha256_of
from openshell_files_protocol.digests import (
    BLOCK_BYTES,
    BlocksDigest,
    Digest,
    DigestAlgorithm,
    WholeDigest,
    new_hasher,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2

#: What the table of vectors in docs/protocol.md calls its contents.
VECTORS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "one byte, `00`": b"\0",
    "one byte, `01`": b"\1",
    "1 MiB of zeros": bytes(BLOCK_BYTES),
    "1 MiB and one byte of zeros": bytes(BLOCK_BYTES + 1),
    "1 MiB of zeros, then `ff`": bytes(BLOCK_BYTES) + b"\xff",
    "`ff`, then 1 MiB of zeros": b"\xff" + bytes(BLOCK_BYTES),
    "3 MiB: `01` in all of the first and the last block, zeros between": (
        b"\1" * BLOCK_BYTES + bytes(BLOCK_BYTES) + b"\1" * BLOCK_BYTES
    ),
}


class CountingHasher:
    """SHA-256 that counts what it is given."""

    def __init__(self) -> None:
        self.inner = hashlib.sha256()
        self.count = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self.inner.update(data)
        self.count += len(data)

    def digest(self) -> bytes:
        return self.inner.digest()

    def copy(self) -> CountingHasher:
        other = CountingHasher()
        other.inner, other.count = self.inner.copy(), self.count
        return other


#: Content as it may come: (bytes, repeated so often, as zeros that were not sent). Lengths lie around blocks.
_lengths = st.one_of(
    st.integers(0, 40),
    st.integers(BLOCK_BYTES - 2, BLOCK_BYTES + 2),
    st.integers(2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 1),
)
_pieces = st.lists(st.tuples(st.sampled_from([0, 0, 0, 7]), _lengths, st.booleans()), max_size=4)


@given(pieces=_pieces, cuts=st.lists(st.integers(1, BLOCK_BYTES + 1), max_size=8))
def test_only_the_content_counts(pieces: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    """DIG-1, DIG-2: neither holes nor the cut of chunks take part; a copy goes on by itself."""
    content = b"".join(bytes([value]) * length for value, length, _ in pieces)
    for algorithm in DigestAlgorithm:
        with_holes, cut, whole = new_hasher(algorithm), new_hasher(algorithm), new_hasher(algorithm)
        for value, length, hole in pieces:
            if hole and not value:
                with_holes.zeros(length)
            else:
                with_holes.update(bytes([value]) * length)
        begin = 0
        for size in cuts:
            cut.update(memoryview(content)[begin : begin + size])
            cut.copy().update(b"something else")
            cut.digest()
            begin += size
        cut.update(memoryview(content)[begin:])
        whole.update(content)
        expected = blocks_of(content) if algorithm is DigestAlgorithm.SHA256_BLOCKS else sha256_of(content)
        assert whole.digest() == cut.digest() == with_holes.digest() == whole.copy().digest() == expected


@given(
    content=st.binary(min_size=1, max_size=50),
    before=st.integers(0, BLOCK_BYTES + 30),
    after=st.integers(0, BLOCK_BYTES + 30),
    at=st.integers(0, 2**40),
    bit=st.integers(0, 7),
)
def test_every_change_counts(content: bytes, before: int, after: int, at: int, bit: int) -> None:
    """DIG-2: also a byte among the zeros that are left out, and a zero more or less."""
    whole = bytes(before) + content + bytes(after)
    position = at % len(whole)
    flipped = bytearray(whole)
    flipped[position] ^= 1 << bit
    digests = {blocks(whole), blocks(bytes(flipped)), blocks(whole + b"\0"), blocks(b"\0" + whole)}
    digests.add(blocks(whole[:-1]))
    # A zero in front of nothing but zeros is a zero behind them.
    assert len(digests) == (5 if any(whole) else 4)


def test_zeros_cost_nothing() -> None:
    """DIG-2: what is hashed is what holds content, however large the file is."""
    hasher = CountingHasher()
    digest = BlocksDigest(hasher)
    digest.zeros(2**62)
    digest.update(b"content")
    digest.zeros(2**62)
    digest.update(bytes(3 * BLOCK_BYTES))
    assert hasher.count == 8 + BLOCK_BYTES
    assert digest.digest() != BlocksDigest().digest()
    plain = CountingHasher()
    WholeDigest(plain).zeros(BLOCK_BYTES + 1)
    assert plain.count == BLOCK_BYTES + 1


def test_a_long_computation_can_be_stopped() -> None:
    """DIG-1: hashing zeros one by one asks now and then whether anybody waits."""

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        WholeDigest().zeros(2**60, stop)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    """DIG-2: the table in the document, so that another implementation can be compared."""
    text = PROTOCOL.read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (.+?) \| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    assert set(table) == set(VECTORS)
    assert table[name] == blocks(VECTORS[name]).hex() == blocks_of(VECTORS[name]).hex()


def test_what_is_not_known_is_sha256() -> None:
    """DIG-3: the default, also for the algorithms of a later peer."""
    numbers = {0: "SHA256", 1: "SHA256", 2: "SHA256_BLOCKS", 3: "SHA256", 99: "SHA256"}
    assert {number: DigestAlgorithm.of(number).name for number in numbers} == numbers
    assert DigestAlgorithm.SHA256.wire == files_pb2.DIGEST_ALGORITHM_UNSPECIFIED
    assert DigestAlgorithm.of(DigestAlgorithm.SHA256_BLOCKS.wire) is DigestAlgorithm.SHA256_BLOCKS


def test_a_digest_goes_into_its_own_field() -> None:
    whole = Digest(DigestAlgorithm.SHA256, b"w")
    by_blocks = Digest(DigestAlgorithm.SHA256_BLOCKS, b"b")
    assert (whole.sha256, whole.sha256_blocks) == (b"w", b"")
    assert (by_blocks.sha256, by_blocks.sha256_blocks) == (b"", b"b")
    assert [algorithm.field for algorithm in DigestAlgorithm] == ["sha256", "sha256_blocks"]


def blocks(content: bytes) -> bytes:
    digest = BlocksDigest()
    digest.update(content)
    return digest.digest()
