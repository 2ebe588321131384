"""The rules of an upload's stream, tried without any stream or file."""

from __future__ import annotations

from typing import Any

import pytest
from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.core.upload import (
    Finish,
    Input,
    InputEnd,
    Misplaced,
    Phase,
    Publish,
    Refuse,
    Replay,
    Skip,
    Stage,
    StageHole,
    StreamLost,
    UploadCore,
    UploadTerms,
)

SHA = Digest(DigestAlgorithm.SHA256, bytes(32))


def finish(size: int, value: bytes = SHA.value) -> Finish:
    return Finish(size, SHA.algorithm.value, value)


def core(**terms: Any) -> UploadCore:
    known: dict[str, Any] = {
        "declared_size": None,
        "explicit_finish": True,
        "resumable": True,
        "staged": 0,
        "max_chunk_bytes": 100,
        "max_file_bytes": 1000,
    }
    return UploadCore(UploadTerms(**known | terms))


def refused(machine: UploadCore, event: Input) -> Refuse:
    action = machine.receive(event)
    assert isinstance(action, Refuse), action
    assert machine.phase is Phase.OVER
    return action


@pytest.mark.parametrize("event", [InputEnd(cancelled=False), InputEnd(cancelled=True), StreamLost()])
@pytest.mark.parametrize("resumable", [True, False])
def test_only_a_finish_publishes(event: Input, resumable: bool) -> None:  # noqa: FBT001
    """UPL-1, UPL-11: with all content there, the end of the stream publishes nothing."""
    machine = core(declared_size=3, resumable=resumable)
    machine.receive(Chunk(0, b"abc", 1))
    action = refused(machine, event)
    assert action.error.reason is Reason.UPLOAD_INCOMPLETE
    assert action.keep is resumable


@pytest.mark.parametrize("event", [InputEnd(cancelled=True), StreamLost()])
def test_without_explicit_finish_only_a_clean_end_publishes(event: Input) -> None:
    """UPL-1, UPL-2: a cancelled call or lost relay with all bytes publishes nothing."""
    machine = core(declared_size=3, explicit_finish=False)
    machine.receive(Chunk(None, b"abc"))
    assert refused(machine, event).error.reason is Reason.UPLOAD_INCOMPLETE


def test_declared_size_reached_exactly_is_the_finish() -> None:
    """UPL-2"""
    machine = core(declared_size=3, explicit_finish=False)
    assert machine.receive(Chunk(None, b"abc")) == Stage(0, b"abc", None)
    assert machine.receive(InputEnd(cancelled=False)) == Publish(3, None)
    assert machine.receive(StreamLost()) == Skip()


@pytest.mark.parametrize("content", [b"", b"ab"])
def test_fewer_bytes_than_declared(content: bytes) -> None:
    """UPL-31: the refused finish frees what was staged."""
    machine = core(declared_size=3, explicit_finish=False)
    machine.receive(Chunk(None, content))
    action = refused(machine, InputEnd(cancelled=False))
    assert action.error.reason is Reason.SIZE_MISMATCH
    assert action.error.metadata == {"expected_size": "3", "actual_size": str(len(content))}
    assert not action.keep


@pytest.mark.parametrize(("explicit", "keep"), [(False, False), (True, True)])
def test_more_bytes_than_declared(explicit: bool, keep: bool) -> None:  # noqa: FBT001
    """UPL-31, RSM-34: a byte too many is refused at once; only a refused finish frees."""
    machine = core(declared_size=3, explicit_finish=explicit)
    machine.receive(Chunk(None, b"abc"))
    action = refused(machine, Chunk(None, b"d"))
    assert action.error.reason is Reason.SIZE_MISMATCH
    assert action.keep is keep


def test_finish_with_size_and_digest() -> None:
    """UPL-3"""
    machine = core()
    machine.receive(Chunk(0, b"abc", 1))
    assert machine.receive(finish(3)) == Publish(3, SHA)
    assert machine.phase is Phase.FINISHED


@pytest.mark.parametrize(
    ("declared", "size"), [(None, 2), (None, 4), (4, 3), (2**64 - 1, 2**64 - 1)], ids=str
)
def test_finish_with_another_size(declared: int | None, size: int) -> None:
    """UPL-28: size of the content, of the finish and of the metadata have to agree."""
    machine = core(declared_size=declared, max_file_bytes=2**64)
    machine.receive(Chunk(0, b"abc", 1))
    action = refused(machine, finish(size))
    assert action.error.reason is Reason.SIZE_MISMATCH
    assert not action.keep


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33)])
def test_a_digest_is_mandatory(value: bytes) -> None:
    """UPL-30"""
    action = refused(core(), Finish(0, SHA.algorithm.value, value))
    assert action.error.reason is Reason.INVALID_REQUEST
    assert action.error.field_violations[0].field == "finish.digest.value"
    assert action.keep


@pytest.mark.parametrize("algorithm", DigestAlgorithm)
@pytest.mark.parametrize("given", [0, 99, *(algorithm.value for algorithm in DigestAlgorithm)])
@pytest.mark.parametrize("replayed", [False, True])
def test_the_algorithm_of_a_finish(algorithm: DigestAlgorithm, given: int, replayed: bool) -> None:  # noqa: FBT001
    """UPL-3, RSM-6, DIG-5: the upload's, also when the finish is repeated."""
    digest = Digest(algorithm, bytes(32))
    machine = core(algorithm=algorithm, published=(0, digest) if replayed else None)
    if given == algorithm.value:
        assert machine.receive(Finish(0, given, bytes(32))) == (Replay() if replayed else Publish(0, digest))
        return
    action = refused(machine, Finish(0, given, bytes(32)))
    assert action.error.reason is Reason.INVALID_REQUEST
    assert action.error.field_violations[0].field == "finish.digest.algorithm"
    assert f"DIGEST_ALGORITHM_{algorithm.name}" in action.error.field_violations[0].description
    assert action.keep


def test_unannounced_finish() -> None:
    """UPL-21"""
    action = refused(core(explicit_finish=False, declared_size=0), finish(0))
    assert action.error.field_violations[0].field == "finish"


@pytest.mark.parametrize(
    "event", [Chunk(0, b"a", 1), Chunk(None, b"a"), finish(0), Misplaced("metadata", "x")]
)
def test_nothing_follows_finish(event: Input) -> None:
    """UPL-20"""
    machine = core()
    machine.receive(finish(0))
    assert refused(machine, event).error.reason is Reason.INVALID_REQUEST


def test_metadata_again() -> None:
    """UPL-19"""
    action = refused(core(), Misplaced("metadata", "must be the only one"))
    assert action.error.field_violations[0].field == "metadata"


@pytest.mark.parametrize("offset", [0, 2, 4, 2**64 - 1])
def test_offset_must_follow(offset: int) -> None:
    """UPL-5"""
    machine = core(staged=2)
    machine.receive(Chunk(2, b"c", 1))
    action = refused(machine, Chunk(offset, b"d", 1))
    assert action.error.reason is Reason.OFFSET_MISMATCH
    assert action.error.metadata == {"expected_offset": "3", "provided_offset": str(offset)}
    assert action.keep


@pytest.mark.parametrize(
    ("first", "second"), [(Chunk(0, b"a", 1), Chunk(None, b"b")), (Chunk(None, b"a"), Chunk(1, b"b", 1))]
)
def test_chunk_and_data_are_not_mixed(first: Chunk, second: Chunk) -> None:
    """UPL-22"""
    machine = core()
    machine.receive(first)
    assert refused(machine, second).error.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize("chunk", [Chunk(0, b"a", 1, 5), Chunk(0, b"", 0)])
def test_a_chunk_is_data_or_a_hole(chunk: Chunk) -> None:
    """UPL-26"""
    assert refused(core(), chunk).error.reason is Reason.INVALID_REQUEST


def test_hole() -> None:
    """UPL-18: a hole may be larger than a chunk; its CRC is that of no bytes."""
    machine = core()
    assert machine.receive(Chunk(0, b"", 0, 500)) == StageHole(0, 500)
    assert refused(machine, Chunk(500, b"", 7, 5)).error.reason is Reason.CHUNK_CHECKSUM


def test_empty_plain_chunk_is_nothing() -> None:
    """RFC-2: a caller of the RFC may send an empty chunk."""
    assert core().receive(Chunk(None, b"")) == Skip()


@pytest.mark.parametrize("offset", [0, None])
def test_chunk_size_limit(offset: int | None) -> None:
    """UPL-24"""
    assert isinstance(core().receive(Chunk(offset, bytes(100), 0)), Stage)
    action = refused(core(), Chunk(offset, bytes(101), 0))
    assert action.error.reason is Reason.CHUNK_TOO_LARGE
    assert action.error.metadata == {"max_chunk_bytes": "100"}


@pytest.mark.parametrize("chunk", [Chunk(999, b"ab", 1), Chunk(999, b"", 0, 2**64 - 1)])
def test_file_size_limit(chunk: Chunk) -> None:
    assert refused(core(staged=999), chunk).error.reason is Reason.FILE_TOO_LARGE


def test_finish_repeated() -> None:
    """RSM-6: content is skipped, the same finish gives the same answer."""
    machine = core(published=(3, SHA))
    assert machine.receive(Chunk(1, b"bc", 1)) == Skip()
    assert machine.receive(finish(3)) == Replay()


@pytest.mark.parametrize("again", [finish(4), finish(3, bytes(31) + b"1")])
def test_finish_repeated_with_others(again: Finish) -> None:
    """RSM-21"""
    assert refused(core(published=(3, SHA)), again).error.reason is Reason.FINISH_CONFLICT


def test_replay_without_explicit_finish() -> None:
    """RSM-6, UPL-2"""
    machine = core(published=(3, SHA), explicit_finish=False, declared_size=3)
    machine.receive(Chunk(None, b"abc"))
    assert machine.receive(InputEnd(cancelled=False)) == Replay()


def test_replay_does_not_answer_a_lost_stream() -> None:
    """UPL-1"""
    assert refused(core(published=(3, SHA)), StreamLost()).error.reason is Reason.UPLOAD_INCOMPLETE


def test_an_outcome_is_decided_once() -> None:
    machine = core()
    machine.receive(StreamLost())
    with pytest.raises(RuntimeError):
        machine.receive(StreamLost())
