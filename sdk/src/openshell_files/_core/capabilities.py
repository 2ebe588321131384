"""What a gateway and a sandbox let this client do (CAP-1), and what holds if they do not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Code, Reason

from openshell_files.errors import FilesError

#: A caller that waits says so so often in an idle timeout, and no more often than this (WAI-2).
_WAITING_PER_TIMEOUT: Final = 3
_LEAST_WAITING_SECONDS: Final = 0.05

#: A call that is refused so shows that what was answered before may have changed (CAP-6).
_DOUBTS: Final = frozenset(
    reason.name for reason in (Reason.CHUNK_TOO_LARGE, Reason.TOO_MANY_LANES, Reason.TOO_MANY_TRANSFERS)
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a client may do in one sandbox. The defaults are what every server takes.

    Attributes:
        chunk_bytes: largest content of a chunk (UPL-6).
        transfers: how many file operations may run at a time (RLY-9); 0 if
            that is not known.
        lanes: over how many streams an upload may travel (LAN-1).
        waiting: seconds after which to say that the source gives nothing
            (WAI-2); None if the server does not take that.
    """

    chunk_bytes: int = MIN_CHUNK_LIMIT_BYTES
    transfers: int = 0
    lanes: int = 1
    waiting: float | None = None


#: What a server without GetTransferCapabilities is known to take.
DEFAULTS: Final = Capabilities()


def capabilities(answer: files_pb2.GetTransferCapabilitiesResponse) -> Capabilities:
    """Convert an answer that was checked."""
    return Capabilities(
        chunk_bytes=min(MAX_CHUNK_BYTES, answer.max_chunk_bytes),
        transfers=answer.max_concurrent_transfers,
        lanes=max(1, answer.lanes.max_lanes),
        waiting=_waiting_interval(answer),
    )


def if_refused(error: FilesError) -> Capabilities | None:
    """Return what holds if GetTransferCapabilities fails; None if it has to be asked again."""
    return DEFAULTS if error.code is Code.UNIMPLEMENTED else None


def fault_in(error: FilesError) -> str:
    """Return what of the answer to GetTransferCapabilities breaks the protocol; empty if it is no such error."""
    return error.message if error.reason == Reason.AGENT_PROTOCOL_ERROR.name else ""


def casts_doubt(error: FilesError) -> bool:
    """Return whether an error shows that the capabilities may have changed."""
    return error.reason in _DOUBTS


def _waiting_interval(answer: files_pb2.GetTransferCapabilitiesResponse) -> float | None:
    """Return how often to say `waiting`, in seconds.

    The gateway ends what stands still for its idle timeout. A timeout that is
    shorter than any real one would make a flood of such messages.
    """
    idle = seconds_of(answer.idle_timeout)
    if seconds_of(answer.waiting.max_pause) <= 0 or idle <= 0:
        return None
    return max(_LEAST_WAITING_SECONDS, idle / _WAITING_PER_TIMEOUT)
