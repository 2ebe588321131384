"""Limits on the lanes of one upload, of one principal and of all uploads (LAN-9, LAN-18).

Each lane has an HTTP/2 window, and data in a window takes memory of the
gateway. So the number of lanes is limited.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.core.transfer_limits import share_of

#: Limit on the streams of one upload, the first included: eight windows of 4 MiB
#: hold two and a half times the content of 100 ms at 1 Gbit/s.
MOST_LANES: Final = 8


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Lanes of running uploads, lanes that wait for their upload, and refusals."""

    taken: int
    waiting: int
    refused: int


class LaneBudget:
    """Counts the lanes of all uploads against the limits.

    One principal may take a share of all lanes, and at least the lanes of one upload.

    Args:
        max_total: limit on lanes; 0 refuses all lanes.
        share: part of all lanes that one principal may take, above 0 and at most 1.
    """

    def __init__(self, max_total: int, share: float = 1.0) -> None:
        self._max_total = max_total
        self._max_of_principal = min(max_total, max(share_of(max_total, share), MOST_LANES - 1))
        self._of_principal: Counter[str] = Counter()
        self._waiting_of_principal: Counter[str] = Counter()
        self._taken = self._waiting = self._refused = 0

    @property
    def most_streams(self) -> int:
        """Limit on the streams of one upload, the first included, if enough lanes are free."""
        return 1 + min(MOST_LANES - 1, self._max_of_principal)

    def offer(self, principal: str) -> int:
        """Return the number of streams, the first included, that a new upload of a principal can take now."""
        free = min(self._max_total - self._taken, self._max_of_principal - self._of_principal[principal])
        return 1 + min(MOST_LANES - 1, free)

    def take(self, lanes: int, principal: str) -> None:
        """Take the lanes of an upload; `give_back` must follow.

        Args:
            lanes: number of the upload's streams, the first included.
            principal: the caller's key.

        Raises:
            TransferError: TOO_MANY_LANES if fewer are free.
        """
        if lanes > (offer := self.offer(principal)):
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_LANES,
                f"metadata.lanes asks for {lanes} streams, but {offer} are free",
                {"lanes": str(offer)},
            )
        self._taken += lanes - 1
        self._of_principal[principal] += lanes - 1

    def give_back(self, lanes: int, principal: str) -> None:
        """Free the lanes of an upload; arguments as for `take`."""
        self._taken -= lanes - 1
        _subtract(self._of_principal, principal, lanes - 1)

    def wait(self, principal: str) -> None:
        """Count a lane that arrived before its upload; `wait_no_more` must follow.

        One principal may have as many waiting lanes as it may take; all
        principals together, twice the limit on lanes.

        Raises:
            TransferError: TOO_MANY_LANES if too many lanes wait.
        """
        own = self._waiting_of_principal[principal]
        if own >= self._max_of_principal or self._waiting >= 2 * self._max_total:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_LANES,
                f"limit reached: {own} streams of this caller, and {self._waiting} of all callers, wait for their upload",
            )
        self._waiting += 1
        self._waiting_of_principal[principal] += 1

    def wait_no_more(self, principal: str) -> None:
        """Count a lane that no longer waits."""
        self._waiting -= 1
        _subtract(self._waiting_of_principal, principal, 1)

    def statistics(self) -> LaneStatistics:
        """Return the counts."""
        return LaneStatistics(self._taken, self._waiting, self._refused)


def _subtract(counter: Counter[str], key: str, count: int) -> None:
    counter[key] -= count
    if not counter[key]:
        del counter[key]


def lanes_of(metadata: files_pb2.UploadFileMetadata) -> int:
    """Return the number of streams that an upload asks for.

    Raises:
        TransferError: INVALID_REQUEST if it asks for lanes without an explicit
            finish or an upload id, or for more streams than any upload may have.
    """
    if metadata.lanes <= 1:
        return 1
    if metadata.lanes > MOST_LANES:
        raise invalid(
            "metadata.lanes",
            f"must be at most {MOST_LANES}, and at most `max_lanes` of the capability `lanes`",
        )
    if not metadata.explicit_finish:
        raise invalid("metadata.explicit_finish", "must be set if the upload has lanes")
    if not metadata.upload_id:
        raise invalid(
            "metadata.upload_id",
            "is missing; set the id that StartUpload returned, since the upload has lanes",
        )
    return metadata.lanes


def check_lane(lane: file_options_pb2.UploadLane) -> None:
    """Check the first message of a lane, as far as possible without its upload.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not lane.upload_id:
        raise invalid("lane.upload_id", "is missing")
    if not 1 <= lane.index < MOST_LANES:
        raise invalid("lane.index", f"must be from 1 to {MOST_LANES - 1}, and below metadata.lanes")
