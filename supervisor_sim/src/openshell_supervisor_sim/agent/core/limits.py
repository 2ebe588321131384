"""The limits of one operation: the agent's own and the gateway's, whichever is stricter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2

from openshell_supervisor_sim.agent.core.wire_numbers import set_duration, unsigned


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operation may use.

    Attributes:
        max_chunk_bytes: content of one chunk.
        max_file_bytes: size of a file.
        max_uploads: unfinished uploads in the sandbox.
        max_uploads_per_principal: those of them that are one caller's.
        upload_expiry: seconds without a byte that an unfinished upload lives.
        idle_timeout: seconds without anything from the peer.
        digests: algorithms that the operators allow (DIG-3).
        max_pause: seconds that the gateway lets a caller say `waiting` (UPL-18); 0 for none.
    """

    max_chunk_bytes: int = MAX_CHUNK_BYTES
    max_file_bytes: int
    max_uploads: int
    max_uploads_per_principal: int
    upload_expiry: float
    idle_timeout: float
    max_pause: float = 0.0
    digests: tuple[DigestAlgorithm, ...] = tuple(DigestAlgorithm)

    def stricter(self, opened: file_relay_pb2.FileRelayOpen) -> Limits:
        """Return these limits, made stricter by what the gateway sent; 0 means it has none."""
        theirs = opened.limits
        return Limits(
            max_chunk_bytes=_least(self.max_chunk_bytes, opened.max_chunk_bytes, theirs.max_chunk_bytes),
            max_file_bytes=_least(self.max_file_bytes, theirs.max_file_bytes),
            max_uploads=_least(self.max_uploads, theirs.max_uploads_per_sandbox),
            max_uploads_per_principal=_least(
                self.max_uploads_per_principal, theirs.max_uploads_per_principal
            ),
            upload_expiry=_shortest(self.upload_expiry, _seconds(theirs, "upload_expiry")),
            idle_timeout=_shortest(self.idle_timeout, _seconds(theirs, "idle_timeout")),
            max_pause=max(0.0, _seconds(theirs, "max_pause")),
            digests=tuple(one for one in self.digests if not opened.digests or one.wire in opened.digests),
        )

    def message(self) -> files_pb2.TransferLimits:
        """Return the limits as callers see them."""
        limits = files_pb2.TransferLimits(
            max_chunk_bytes=self.max_chunk_bytes,
            max_file_bytes=unsigned(self.max_file_bytes),
            max_uploads_per_sandbox=min(self.max_uploads, 0xFFFF_FFFF),
            max_uploads_per_principal=min(self.max_uploads_per_principal, 0xFFFF_FFFF),
        )
        set_duration(limits.idle_timeout, self.idle_timeout)
        set_duration(limits.upload_expiry, self.upload_expiry)
        if self.max_pause:
            # It is the gateway's. That it is repeated says that this agent knows `waiting`.
            set_duration(limits.max_pause, self.max_pause)
        return limits


def _least(own: int, *others: int) -> int:
    return min([own, *(value for value in others if value)])


def _shortest(own: float, other: float) -> float:
    return min(own, other) if other > 0 else own


def _seconds(
    limits: files_pb2.TransferLimits, field: Literal["idle_timeout", "upload_expiry", "max_pause"]
) -> float:
    duration: Duration = getattr(limits, field)
    return duration.seconds + duration.nanos / 1e9
