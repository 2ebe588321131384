"""The limits of one operation: each is the stricter of the agent's and the gateway's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration
from openshell_files_protocol.digests import PREFERRED, DigestAlgorithm
from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

from openshell_supervisor_sim.agent.core.wire_numbers import set_duration, unsigned

#: Limits on trees and archives without a setting.
DEFAULT_TREE_ENTRIES: Final = 10_000_000
DEFAULT_ARCHIVE_ENTRIES: Final = 2_000_000
DEFAULT_EXTRACTED_BYTES: Final = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of an operation.

    Attributes:
        max_chunk_bytes: content of one chunk.
        max_file_bytes: size of a file.
        max_uploads: unfinished uploads in the sandbox.
        max_uploads_per_principal: unfinished uploads of one caller.
        upload_expiry: seconds without a byte after which an unfinished upload ends.
        idle_timeout: seconds to wait for the peer.
        digests: algorithms that the operators allow (DIG-12).
        max_tree_entries: entries of a tree that is received.
        max_archive_entries: entries of an archive that is unpacked.
        max_extracted_bytes: bytes that such an archive may become.
    """

    max_chunk_bytes: int = MAX_CHUNK_BYTES
    max_file_bytes: int
    max_uploads: int
    max_uploads_per_principal: int
    upload_expiry: float
    idle_timeout: float
    digests: tuple[DigestAlgorithm, ...] = tuple(DigestAlgorithm)
    max_tree_entries: int = DEFAULT_TREE_ENTRIES
    max_archive_entries: int = DEFAULT_ARCHIVE_ENTRIES
    max_extracted_bytes: int = DEFAULT_EXTRACTED_BYTES

    def stricter(self, opened: file_relay_pb2.FileRelayOpen) -> Limits:
        """Return the stricter of each of these limits and the gateway's; 0 there means no limit."""
        theirs = opened.limits
        return Limits(
            max_chunk_bytes=_least(self.max_chunk_bytes, opened.max_chunk_bytes),
            max_file_bytes=_least(self.max_file_bytes, theirs.max_file_bytes),
            max_uploads=_least(self.max_uploads, theirs.max_uploads_per_sandbox),
            max_uploads_per_principal=_least(
                self.max_uploads_per_principal, theirs.max_uploads_per_principal
            ),
            upload_expiry=_shortest(self.upload_expiry, theirs.upload_expiry),
            idle_timeout=_shortest(self.idle_timeout, theirs.idle_timeout),
            digests=tuple(one for one in self.digests if not opened.digests or one.wire in opened.digests),
            max_tree_entries=self.max_tree_entries,
            max_archive_entries=self.max_archive_entries,
            max_extracted_bytes=self.max_extracted_bytes,
        )

    def announced(self) -> file_relay_pb2.FileTransferCapability:
        """Return the capability that a supervisor's hello announces for an agent with these limits (CAP-2)."""
        capability = file_relay_pb2.FileTransferCapability(
            protocol_version=PROTOCOL_VERSION,
            keeps_relays=True,
            takes_waiting=True,
            serves_directories=True,
            serves_trees=True,
            serves_archives=True,
            max_tree_entries=unsigned(self.max_tree_entries),
            max_archive_entries=unsigned(self.max_archive_entries),
            max_extracted_bytes=unsigned(self.max_extracted_bytes),
            digests=[algorithm.wire for algorithm in PREFERRED if algorithm in self.digests],
            max_chunk_bytes=self.max_chunk_bytes,
            max_file_bytes=unsigned(self.max_file_bytes),
            max_uploads_per_sandbox=min(self.max_uploads, 0xFFFF_FFFF),
            max_uploads_per_principal=min(self.max_uploads_per_principal, 0xFFFF_FFFF),
        )
        set_duration(capability.idle_timeout, self.idle_timeout)
        set_duration(capability.upload_expiry, self.upload_expiry)
        return capability


def _least(own: int, *others: int) -> int:
    return min([own, *(value for value in others if value)])


def _shortest(own: float, other: Duration) -> float:
    theirs = seconds_of(other)
    return min(own, theirs) if theirs > 0 else own
