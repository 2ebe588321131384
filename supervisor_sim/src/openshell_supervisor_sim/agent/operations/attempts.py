"""What the content of an upload's stream goes into: a staging file, or a directory that an archive is unpacked in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.upload import Publish, StageAction
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt


class Attempt(Protocol):
    """What a stream's content goes into; see `UploadAttempt`. Methods block."""

    resumed_from: int
    interrupt: Interrupt

    @property
    def algorithm(self) -> DigestAlgorithm | None:
        """Algorithm of the finish's digest; None for a stream without one."""
        ...

    @property
    def ended(self) -> bool:
        """True if `end` has closed everything."""
        ...

    def stage(self, actions: Sequence[StageAction]) -> None:
        """Take content, in order."""
        ...

    def publish(self, finish: Publish) -> files_pb2.UploadFileResponse:
        """Carry out the finish."""
        ...

    def refuse(self, error: TransferError, *, keep: bool) -> None:
        """Apply a refusal of the rules."""
        ...

    def withdraw(self) -> None:
        """Learn that the caller cancelled after the end of its stream; any thread may call."""
        ...

    def end(self) -> None:
        """Close everything; more than once is fine."""
        ...
