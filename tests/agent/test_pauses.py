"""What the agent does with a caller that waits for its source."""

from __future__ import annotations

from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.core.upload import (
    Finish,
    Publish,
    Refuse,
    Skip,
    Stage,
    UploadCore,
    UploadTerms,
    Waiting,
)

SHA = Digest(DigestAlgorithm.SHA256, bytes(32))


def core(published: tuple[int, Digest] | None = None) -> UploadCore:
    return UploadCore(
        UploadTerms(
            declared_size=None,
            explicit_finish=True,
            resumable=True,
            staged=0,
            max_chunk_bytes=100,
            max_file_bytes=1000,
            published=published,
        )
    )


def test_waiting_changes_nothing() -> None:
    """WAI-6, WAI-3: before, between and behind chunks, until the finish."""
    machine = core()
    assert machine.receive(Waiting()) == Skip()
    assert machine.receive(Chunk(0, b"abc", 1)) == Stage(0, b"abc", 1)
    assert machine.receive(Waiting()) == Skip()
    assert machine.position == 3
    assert machine.receive(Finish(3, SHA.algorithm.value, SHA.value)) == Publish(3, SHA)


def test_waiting_before_a_finish_that_is_replayed() -> None:
    """WAI-3, RSM-6"""
    assert core((3, SHA)).receive(Waiting()) == Skip()


def test_nothing_is_waited_for_behind_the_finish() -> None:
    """UPL-20, WAI-7"""
    machine = core()
    machine.receive(Finish(0, SHA.algorithm.value, SHA.value))
    action = machine.receive(Waiting())
    assert isinstance(action, Refuse)
    assert action.error.reason is Reason.INVALID_REQUEST
    assert action.error.field_violations[0].field == "waiting"
