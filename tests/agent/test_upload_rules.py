"""The rules of an upload's stream, tried without any stream or file."""

from __future__ import annotations

from typing import Any

import pytest
from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm, DigestHasher
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.core.chunk_check import check_chunk
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
    Waiting,
)
from vector_cases import (
    Message,
    Upload,
    UploadCase,
    UploadOutcome,
    Uploads,
    content_of,
    digest_message,
    named,
    read,
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


class Agent:
    """The rules, and around them what an agent does with content."""

    def __init__(self, upload: Upload) -> None:
        published = upload.published
        self.machine = UploadCore(
            UploadTerms(
                declared_size=None if upload.size_bytes is None else int(upload.size_bytes),
                explicit_finish=upload.explicit_finish,
                resumable=upload.resumable,
                staged=int(upload.staged),
                max_chunk_bytes=upload.max_chunk_bytes,
                max_file_bytes=int(upload.max_file_bytes),
                published=None
                if published is None
                else (int(published.size_bytes), Digest.of(digest_message(published.digest))),
                algorithm=DigestAlgorithm[upload.algorithm],
            )
        )
        self.hasher = DigestHasher(DigestAlgorithm[upload.algorithm])
        self.outcome = UploadOutcome(result="more")

    def take(self, message: Message) -> None:
        """Take a message; the outcome is that of the last one that had any."""
        try:
            action = self.machine.receive(event_of(message))
            if isinstance(action, Stage | StageHole):
                self.stage(action)
            elif isinstance(action, Publish):
                self.publish(action)
            elif isinstance(action, Replay):
                self.outcome = UploadOutcome(result="replayed")
            elif isinstance(action, Refuse):
                self.refuse(action.error, kept=action.keep)
        except TransferError as error:
            self.refuse(error, kept=error.reason is not Reason.DIGEST_MISMATCH)

    def stage(self, action: Stage | StageHole) -> None:
        """Compare the CRC, and take the content."""
        if isinstance(action, StageHole):
            if action.length < 2**20:
                self.hasher.zeros(action.length)
            return
        check_chunk(action.offset, action.data, action.crc32c)
        self.hasher.update(action.data)

    def publish(self, action: Publish) -> None:
        """Compare the digest, and publish."""
        if action.digest not in {None, self.hasher.digest()}:
            raise TransferError(Reason.DIGEST_MISMATCH, "another digest")
        self.outcome = UploadOutcome(result="published")

    def refuse(self, error: TransferError, *, kept: bool) -> None:
        """End with an error."""
        field = error.field_violations[0].field if error.field_violations else None
        self.outcome = UploadOutcome(
            reason=error.reason.name, field=field, metadata=dict(error.metadata), kept=kept
        )


def event_of(message: Message) -> Input:
    """Return what the agent makes of a message of the caller's stream."""
    if message.chunk is not None:
        return Chunk(None, content_of(message.chunk))
    if (data := message.data) is not None:
        return Chunk(int(data.offset), content_of(data.data), int(data.crc32c, 16), int(data.hole_bytes))
    if (given := message.finish) is not None:
        digest = digest_message(given.digest)
        return Finish(int(given.size_bytes), digest.algorithm, digest.value)
    if message.end is not None:
        return StreamLost() if message.end == "lost" else InputEnd(cancelled=message.end == "cancelled")
    return Waiting() if message.waiting else Misplaced("metadata", "must be the only one")


@pytest.mark.parametrize("case", read(Uploads).uploads, ids=named)
def test_vectors(case: UploadCase) -> None:
    """UPL-1 to UPL-5, UPL-18 to UPL-31, RSM-6, RSM-21, DIG-5, WAI-7: the outcome of the last message, and none before."""
    agent = Agent(case.upload)
    *before, last = case.messages
    for message in before:
        agent.take(message)
        assert agent.outcome.reason is None
    agent.take(last)
    assert agent.outcome == case.outcome
    assert (agent.machine.phase is Phase.OVER) or case.outcome.reason in {
        None,
        "CHUNK_CHECKSUM",
        "DIGEST_MISMATCH",
    }


def refused(machine: UploadCore, event: Input) -> Refuse:
    action = machine.receive(event)
    assert isinstance(action, Refuse), action
    assert machine.phase is Phase.OVER
    return action


def test_declared_size_reached_exactly_is_the_finish() -> None:
    """UPL-2"""
    machine = core(declared_size=3, explicit_finish=False)
    assert machine.receive(Chunk(None, b"abc")) == Stage(0, b"abc", None)
    assert machine.receive(InputEnd(cancelled=False)) == Publish(3, None)
    assert machine.receive(StreamLost()) == Skip()


def test_finish_with_size_and_digest() -> None:
    """UPL-3"""
    machine = core()
    machine.receive(Chunk(0, b"abc", 1))
    assert machine.receive(finish(3)) == Publish(3, SHA)
    assert machine.phase is Phase.FINISHED


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


def test_hole() -> None:
    """UPL-18: a hole may be larger than a chunk; its CRC is that of no bytes."""
    machine = core()
    assert machine.receive(Chunk(0, b"", 0, 500)) == StageHole(0, 500)
    assert refused(machine, Chunk(500, b"", 7, 5)).error.reason is Reason.CHUNK_CHECKSUM


def test_empty_plain_chunk_is_nothing() -> None:
    """RFC-2: a caller of the RFC may send an empty chunk."""
    assert core().receive(Chunk(None, b"")) == Skip()


def test_finish_repeated() -> None:
    """RSM-6: content is skipped, the same finish gives the same answer."""
    machine = core(published=(3, SHA))
    assert machine.receive(Chunk(1, b"bc", 1)) == Skip()
    assert machine.receive(finish(3)) == Replay()


def test_an_outcome_is_decided_once() -> None:
    machine = core()
    machine.receive(StreamLost())
    with pytest.raises(RuntimeError):
        machine.receive(StreamLost())
