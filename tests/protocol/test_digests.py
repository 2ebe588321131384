"""The digests: what they are, and that nothing but the content takes part."""

from __future__ import annotations

import re
from typing import Final

import pytest
from clause_index import PROTOCOL
from digest_values import BLAKE3, SHA256, UNKNOWN, value_of
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_protocol.digests import PREFERRED, Digest, DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import DIGEST_BYTES, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2

#: What the table of vectors in docs/protocol.md calls its contents.
VECTORS: Final[dict[str, bytes]] = {"nothing": b"", "`abc`": b"abc", "1 MiB of zeros": bytes(MIB)}

#: From the specifications: FIPS 180-4, and the test vectors of BLAKE3 (bytes 0 to 250, over and over).
PUBLISHED: Final = {
    (DigestAlgorithm.SHA256, b"abc"): "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    (DigestAlgorithm.BLAKE3, b""): "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    (DigestAlgorithm.BLAKE3, b"\0"): "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    (
        DigestAlgorithm.BLAKE3,
        bytes(range(64)),
    ): "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98",
}

_lengths = st.one_of(st.integers(0, 40), st.integers(MIB - 2, MIB + 2))
#: Content as it may come: (byte, repeated so often, as zeros that were not sent).
_pieces = st.lists(st.tuples(st.sampled_from([0, 0, 0, 7]), _lengths, st.booleans()), max_size=4)


@pytest.mark.parametrize(("of", "value"), PUBLISHED.items(), ids=str)
def test_published_vectors(of: tuple[DigestAlgorithm, bytes], value: str) -> None:
    """DIG-1: the algorithms are those that everybody knows by these names."""
    assert hashed(*of).value.hex() == value


@given(pieces=_pieces, cuts=st.lists(st.integers(1, MIB + 1), max_size=8))
def test_only_the_content_counts(pieces: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    """DIG-10: neither holes nor the cut of chunks take part; a copy goes on by itself."""
    content = b"".join(bytes([value]) * length for value, length, _ in pieces)
    for algorithm in DigestAlgorithm:
        with_holes, cut = DigestHasher(algorithm), DigestHasher(algorithm)
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
        expected = Digest(algorithm, value_of(content, algorithm.wire))
        assert cut.digest() == with_holes.digest() == cut.copy().digest() == expected


@pytest.mark.parametrize("algorithm", DigestAlgorithm)
def test_a_long_computation_can_be_stopped(algorithm: DigestAlgorithm) -> None:
    """DIG-1: hashing zeros asks before every MiB whether anybody waits."""
    asked = list[None]()

    def stop() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise InterruptedError

    hasher = DigestHasher(algorithm)
    with pytest.raises(InterruptedError):
        hasher.zeros(2**60, stop)
    assert hasher.digest() == hashed(algorithm, bytes(2 * MIB))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    """DIG-1: the table in the document, so that another implementation can be compared."""
    text = PROTOCOL.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (SHA256|BLAKE3) \| `([0-9a-f]{64})` \|$", text, re.MULTILINE)
    table = {(content, DigestAlgorithm[algorithm]): value for content, algorithm, value in rows}
    assert {content for content, _ in table} == set(VECTORS)
    for algorithm in DigestAlgorithm:
        assert table[name, algorithm] == hashed(algorithm, VECTORS[name]).value.hex()


def test_numbers_and_words() -> None:
    """DIG-1: every algorithm has its number, its word and 32 bytes; what is not known is none of them."""
    assert DigestAlgorithm.all_known([UNKNOWN, BLAKE3, 0, SHA256]) == PREFERRED
    assert [DigestAlgorithm.known(number) for number in (0, -1, UNKNOWN)] == [None] * 3
    assert set(PREFERRED) == set(DigestAlgorithm)
    for algorithm in DigestAlgorithm:
        digest = hashed(algorithm, b"abc")
        assert len(digest.value) == DIGEST_BYTES
        assert Digest.of(digest.message) == digest
        assert str(digest) == f"{algorithm.word}:{digest.value.hex()}"
        assert files_pb2.DigestAlgorithm.Name(algorithm.wire) == f"DIGEST_ALGORITHM_{algorithm.name}"
    assert Digest.of(files_pb2.Digest(value=bytes(32))) is None


def hashed(algorithm: DigestAlgorithm, content: bytes) -> Digest:
    hasher = DigestHasher(algorithm)
    hasher.update(content)
    return hasher.digest()
