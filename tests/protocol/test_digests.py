"""The digests: what they are, and that nothing but the content takes part."""

from __future__ import annotations

import pytest
from digest_values import BLAKE3, SHA256, UNKNOWN, value_of
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_protocol.digests import PREFERRED, Digest, DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import DIGEST_BYTES, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from vector_cases import DigestCase, Digests, content_of, named, read

_lengths = st.one_of(st.integers(0, 40), st.integers(MIB - 2, MIB + 2))
#: Content as it may come: (byte, repeated so often, as zeros that were not sent).
_pieces = st.lists(st.tuples(st.sampled_from([0, 0, 0, 7]), _lengths, st.booleans()), max_size=4)


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


@pytest.mark.parametrize("case", read(Digests).digests, ids=named)
def test_vectors(case: DigestCase) -> None:
    """DIG-1, DIG-10: those of the specifications among them; a hole counts as its zeros."""
    algorithm = DigestAlgorithm[case.algorithm]
    hasher = DigestHasher(algorithm)
    assert isinstance(case.content, list)
    for part in case.content:
        if part.hole:
            hasher.zeros(len(part.content))
        else:
            hasher.update(part.content)
    assert hasher.digest().value.hex() == case.value
    assert value_of(content_of(case.content), algorithm.wire).hex() == case.value


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
