"""The rules of one stream of an upload (UPL-1 ff.).

`UploadCore` turns each input into an action. It does no I/O, so that tests try every order of
events. One table (`_decide`) gives the meaning of each input in each phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import DIGEST_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.chunk_check import check_chunk


class Phase(Enum):
    """The phase of an upload's stream."""

    #: The stream brings content and then the finish.
    RECEIVING = "receiving"
    #: An earlier stream published the file, and this one may repeat its finish.
    REPLAYING = "replaying"
    #: The finish has come; no message may follow (UPL-20).
    FINISHED = "finished"
    #: The outcome of the stream is decided.
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Finish:
    """UploadFinish; the number of its algorithm may be unknown."""

    size_bytes: int
    algorithm: int
    value: bytes


@dataclass(frozen=True, slots=True)
class InputEnd:
    """The caller ended its stream, or cancelled it."""

    cancelled: bool


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The relay ended, which is no end of the caller's stream (FRM-14)."""


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A message that may only be the first."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The caller waits for its source (WAI-6)."""


Input = Chunk | Finish | Waiting | InputEnd | StreamLost | Misplaced


@dataclass(frozen=True, slots=True)
class Stage:
    """Check the CRC-32C, if there is one, and put content into the staging file."""

    offset: int
    data: bytes | memoryview
    crc32c: int | None


@dataclass(frozen=True, slots=True)
class StageHole:
    """Lengthen the staging file by a hole."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Do nothing: the message has no content, or content that was published before."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Verify and publish; `digest` is None when the caller declared none (UPL-2)."""

    size_bytes: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer with the result of the earlier finish (RSM-6)."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the stream with an error.

    Attributes:
        error: for the caller.
        keep: the staged bytes stay, to be resumed (UPL-11, RSM-10).
    """

    error: TransferError
    keep: bool


Action = Stage | StageHole | Skip | Publish | Replay | Refuse
StageAction = Stage | StageHole


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTerms:
    """The terms of one stream.

    Attributes:
        declared_size: of the file; None if the caller gave none.
        explicit_finish: only an UploadFinish publishes (UPL-3), and not the end of the stream (UPL-2).
        resumable: the upload can be found again.
        staged: bytes that earlier streams staged.
        max_chunk_bytes: largest chunk (UPL-24).
        max_file_bytes: largest file.
        published: size and digest, if the file was published already.
        algorithm: of the finish's digest (DIG-5); None for a stream without both.
    """

    declared_size: int | None
    explicit_finish: bool
    resumable: bool
    staged: int
    max_chunk_bytes: int
    max_file_bytes: int
    published: tuple[int, Digest | None] | None = None
    algorithm: DigestAlgorithm | None = DigestAlgorithm.SHA256


class UploadCore:
    """Turns each message of an upload's stream into an action."""

    def __init__(self, terms: UploadTerms) -> None:
        self._terms = terms
        self._position = terms.staged
        self._kind: str | None = None
        self._phase = Phase.RECEIVING if terms.published is None else Phase.REPLAYING

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self._phase

    @property
    def explicit_finish(self) -> bool:
        """True if only an UploadFinish publishes (UPL-3), and not the end of the stream (UPL-2)."""
        return self._terms.explicit_finish

    @property
    def position(self) -> int:
        """Offset at which the next chunk must begin."""
        return self._position

    def receive(self, event: Input) -> Action:
        """Return the action for an input.

        Raises:
            RuntimeError: the outcome was decided before; the caller has a bug.
        """
        if self._phase is Phase.OVER:
            raise RuntimeError("the stream's outcome is decided")
        try:
            return self._decide(event)
        except TransferError as error:
            return self._refuse(error)

    def _decide(self, event: Input) -> Action:
        """The table: the meaning of each input in each phase."""
        match self._phase, event:
            case Phase.RECEIVING, Chunk() as chunk:
                return self._chunk(chunk)
            case Phase.RECEIVING, Finish() as finish:
                return self._finish(finish)
            case Phase.REPLAYING, Chunk() as chunk:
                return self._chunk_again(chunk)
            case Phase.REPLAYING, Finish() as finish:
                return self._finish_again(finish)
            case ((Phase.RECEIVING | Phase.REPLAYING), InputEnd() as end):
                return self._input_end(end)
            case ((Phase.RECEIVING | Phase.REPLAYING), StreamLost()):
                raise self._incomplete("was lost")
            case ((Phase.RECEIVING | Phase.REPLAYING), Waiting()):
                return Skip()
            case Phase.FINISHED, (InputEnd() | StreamLost()):
                return Skip()
            case Phase.FINISHED, _:
                raise invalid(_name(event), "no message may follow finish (UPL-20)")
            case _, Misplaced(field, description):
                raise invalid(field, description)
            case _:
                raise RuntimeError(f"no rule for {event} while {self._phase.value}")

    def _refuse(self, error: TransferError, *, keep: bool = True) -> Refuse:
        self._phase = Phase.OVER
        return Refuse(error, keep and self._terms.resumable)

    def _chunk(self, event: Chunk) -> Action:
        self._check_shape(event)
        offset = self._position
        if event.offset is not None and event.offset != offset:
            raise TransferError(
                Reason.OFFSET_MISMATCH,
                f"data.offset is {event.offset}, the next byte expected is {offset}",
                {"expected_offset": str(offset), "provided_offset": str(event.offset)},
            )
        end = offset + event.size
        declared = self._terms.declared_size
        if declared is not None and end > declared:
            # Without an explicit finish the declared size is the finish, and this refuses it.
            return self._refuse(
                _size_mismatch(f"content continues after the declared {declared} bytes", declared, end),
                keep=self._terms.explicit_finish,
            )
        if end > self._terms.max_file_bytes:
            raise TransferError(
                Reason.FILE_TOO_LARGE,
                f"content reaches {end} bytes, at most {self._terms.max_file_bytes} are allowed",
                {"max_file_bytes": str(self._terms.max_file_bytes)},
            )
        self._position = end
        if event.hole_bytes:
            return StageHole(offset, event.hole_bytes)
        return Stage(offset, event.data, event.crc32c) if len(event.data) else Skip()

    def _chunk_again(self, event: Chunk) -> Action:
        self._check_shape(event)
        self._position += event.size
        return Skip()

    def _check_shape(self, chunk: Chunk) -> None:
        """Apply the rules of a chunk by itself (UPL-22, UPL-24, UPL-26)."""
        kind = "chunk" if chunk.offset is None else "data"
        if self._kind not in {None, kind}:
            raise invalid(kind, f"{kind} and {self._kind} are mixed in one stream (UPL-22)")
        self._kind = kind
        if len(chunk.data) > self._terms.max_chunk_bytes:
            raise TransferError(
                Reason.CHUNK_TOO_LARGE,
                f"{kind} has {len(chunk.data)} bytes, at most {self._terms.max_chunk_bytes} are allowed",
                {"max_chunk_bytes": str(self._terms.max_chunk_bytes)},
            )
        if chunk.offset is None:
            return
        if chunk.hole_bytes and len(chunk.data):
            raise invalid("data.hole_bytes", "excludes data.data (UPL-26)")
        if chunk.hole_bytes:
            check_chunk(chunk.offset, b"", chunk.crc32c)
        if not chunk.size:
            raise invalid("data", "has neither data nor hole_bytes (UPL-26)")

    def _finish(self, event: Finish) -> Action:
        digest = self._digest_of(event)
        declared = self._terms.declared_size
        if declared is not None and event.size_bytes != declared:
            return self._refuse(
                _size_mismatch(
                    f"finish.size_bytes is {event.size_bytes}, metadata.size_bytes is {declared}",
                    declared,
                    event.size_bytes,
                ),
                keep=False,
            )
        if event.size_bytes != self._position:
            return self._refuse(
                _size_mismatch(
                    f"finish.size_bytes is {event.size_bytes}, {self._position} bytes were received",
                    event.size_bytes,
                    self._position,
                ),
                keep=False,
            )
        self._phase = Phase.FINISHED
        return Publish(event.size_bytes, digest)

    def _finish_again(self, event: Finish) -> Action:
        if self._terms.published != (event.size_bytes, self._digest_of(event)):
            raise TransferError(
                Reason.FINISH_CONFLICT, "finish: the upload was finished with another size or digest"
            )
        self._phase = Phase.OVER
        return Replay()

    def _digest_of(self, finish: Finish) -> Digest:
        """Return the finish's digest, which must be of the upload's algorithm (UPL-3, DIG-5)."""
        algorithm = self._terms.algorithm
        if not self._terms.explicit_finish or algorithm is None:
            raise invalid("finish", "was not announced by metadata.explicit_finish")
        if finish.algorithm != algorithm.value:
            name = files_pb2.DigestAlgorithm.Name(algorithm.wire)
            raise invalid("finish.digest.algorithm", f"is {finish.algorithm}, the upload has {name} (DIG-5)")
        if len(finish.value) != DIGEST_BYTES:
            raise invalid(
                "finish.digest.value", f"has {len(finish.value)} bytes, not {DIGEST_BYTES} (UPL-30)"
            )
        return Digest(algorithm, finish.value)

    def _input_end(self, event: InputEnd) -> Action:
        if event.cancelled or self._terms.explicit_finish:
            raise self._incomplete("was cancelled" if event.cancelled else "ended without finish")
        declared = self._terms.declared_size or 0
        if self._position != declared:
            return self._refuse(
                _size_mismatch(
                    f"the stream ended after {self._position} of {declared} bytes", declared, self._position
                ),
                keep=False,
            )
        if self._phase is Phase.REPLAYING:
            self._phase = Phase.OVER
            return Replay()
        self._phase = Phase.FINISHED
        return Publish(self._position, None)

    def _incomplete(self, what: str) -> TransferError:
        return TransferError(
            Reason.UPLOAD_INCOMPLETE,
            f"the stream {what} after {self._position} bytes; nothing was published",
            {"received_bytes": str(self._position)},
        )


def _size_mismatch(message: str, expected: int, actual: int) -> TransferError:
    return TransferError(
        Reason.SIZE_MISMATCH, message, {"expected_size": str(expected), "actual_size": str(actual)}
    )


def _name(event: Input) -> str:
    match event:
        case Chunk():
            return "chunk" if event.offset is None else "data"
        case Finish():
            return "finish"
        case Waiting():
            return "waiting"
        case Misplaced():
            return event.field
        case InputEnd() | StreamLost():
            return "stream"
