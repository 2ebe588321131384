"""Capabilities of a gateway and a sandbox (CAP-1), and the defaults without an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Code, Reason

from openshell_files.errors import FilesError

#: Messages `waiting` per idle timeout, and their least interval in seconds (WAI-2).
_WAITING_PER_TIMEOUT: Final = 3
_LEAST_WAITING_SECONDS: Final = 0.05

#: Errors that show that the limits may have changed (CAP-6).
_DOUBTS: Final = frozenset(
    reason.name for reason in (Reason.CHUNK_TOO_LARGE, Reason.TOO_MANY_LANES, Reason.TOO_MANY_TRANSFERS)
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Limits of one sandbox. The defaults suit every server.

    Attributes:
        chunk_bytes: largest content of a chunk (UPL-24).
        transfers: most concurrent file operations (RLY-24); 0 if unknown.
        lanes: most streams of an upload (LAN-1).
        waiting: seconds without content after which to send `waiting`
            (WAI-2); None if the server does not take that message.
        digests: that both gateway and sandbox have, best first (CAP-8); empty if unknown.
    """

    chunk_bytes: int = MIN_CHUNK_LIMIT_BYTES
    transfers: int = 0
    lanes: int = 1
    waiting: float | None = None
    digests: tuple[DigestAlgorithm, ...] = ()


#: Limits for a server without GetTransferCapabilities (CAP-5).
DEFAULTS: Final = Capabilities()


def capabilities(answer: files_pb2.GetTransferCapabilitiesResponse) -> Capabilities:
    """Convert a checked answer."""
    return Capabilities(
        chunk_bytes=min(MAX_CHUNK_BYTES, answer.max_chunk_bytes),
        transfers=answer.max_concurrent_transfers,
        lanes=max(1, answer.lanes.max_lanes),
        waiting=_waiting_interval(answer),
        digests=DigestAlgorithm.all_known(answer.digests),
    )


def if_refused(error: FilesError) -> Capabilities | None:
    """Return the limits after GetTransferCapabilities failed; None if it has to be called again."""
    return DEFAULTS if error.code is Code.UNIMPLEMENTED else None


def fault_in(error: FilesError) -> str:
    """Return the fault of an answer that breaks the protocol; empty for another error."""
    return error.message if error.reason == Reason.AGENT_PROTOCOL_ERROR.name else ""


def casts_doubt(error: FilesError) -> bool:
    """Return whether an error shows that the limits may have changed."""
    return error.reason in _DOUBTS


def _waiting_interval(answer: files_pb2.GetTransferCapabilitiesResponse) -> float | None:
    """Return the interval of `waiting` messages, in seconds.

    The gateway ends a transfer that is idle for its idle timeout. The least
    interval prevents a flood of messages if that timeout is absurdly short.
    """
    idle = seconds_of(answer.idle_timeout)
    if seconds_of(answer.waiting.max_pause) <= 0 or idle <= 0:
        return None
    return max(_LEAST_WAITING_SECONDS, idle / _WAITING_PER_TIMEOUT)
