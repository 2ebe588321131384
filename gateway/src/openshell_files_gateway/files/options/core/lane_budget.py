"""Over how many streams one upload may travel: the rules, and what all uploads share (LAN-1).

A stream has a window, and the window of a stream that nobody reads is memory
of the gateway. So streams beyond an upload's first, its lanes, are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.core.transfer_limits import share_of

#: Streams of one upload, the first included: eight windows of 4 MiB hold two
#: and a half times what 100 ms of 1 Gbit/s do.
MOST_LANES: Final = 8


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Streams beyond the first that uploads have now, those that wait for their upload, and refused uploads."""

    taken: int
    waiting: int
    refused: int


class LaneBudget:
    """Counts the streams beyond the first of all uploads together.

    One principal may have a share of them, but always those of one upload.

    Args:
        max_total: as many there may be; 0 for none.
        share: part of them that one principal may have, above 0 and at most 1.
    """

    def __init__(self, max_total: int, share: float = 1.0) -> None:
        self._max_total = max_total
        self._max_of_principal = min(max_total, max(share_of(max_total, share), MOST_LANES - 1))
        self._of_principal: Counter[str] = Counter()
        self._waiting_of_principal: Counter[str] = Counter()
        self._taken = self._waiting = self._refused = 0

    @property
    def most_streams(self) -> int:
        """Over how many streams an upload may travel if enough are free, the first included."""
        return 1 + min(MOST_LANES - 1, self._max_of_principal)

    def offer(self, principal: str) -> int:
        """Return over how many streams one more upload of a principal may travel now, the first included."""
        free = min(self._max_total - self._taken, self._max_of_principal - self._of_principal[principal])
        return 1 + min(MOST_LANES - 1, free)

    def take(self, lanes: int, principal: str) -> None:
        """Count an upload over so many streams; `give_back` must follow.

        Raises:
            TransferError: TOO_MANY_LANES if so many are not free.
        """
        if lanes > (offer := self.offer(principal)):
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_LANES,
                f"the upload asks for {lanes} streams, and may have {offer} now",
                {"lanes": str(offer)},
            )
        self._taken += lanes - 1
        self._of_principal[principal] += lanes - 1

    def give_back(self, lanes: int, principal: str) -> None:
        """Count the end of an upload over so many streams."""
        self._taken -= lanes - 1
        _subtract(self._of_principal, principal, lanes - 1)

    def wait(self, principal: str) -> None:
        """Count a stream that has come before its upload; `wait_no_more` must follow.

        A principal has a waiting room of its own, as large as its share. All
        rooms together hold twice as many streams as there may be.

        Raises:
            TransferError: TOO_MANY_LANES if as many wait as there may be.
        """
        own = self._waiting_of_principal[principal]
        if own >= self._max_of_principal or self._waiting >= 2 * self._max_total:
            self._refused += 1
            raise TransferError(
                Reason.TOO_MANY_LANES,
                f"{self._waiting} streams are waiting for their upload, {own} of them this caller's: as many as may",
            )
        self._waiting += 1
        self._waiting_of_principal[principal] += 1

    def wait_no_more(self, principal: str) -> None:
        """Count the end of a stream's waiting."""
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
    """Return over how many streams an upload wants to travel.

    Raises:
        TransferError: INVALID_REQUEST if it must not travel over more than
            one, or names more than any upload may have.
    """
    if metadata.lanes <= 1:
        return 1
    if metadata.lanes > MOST_LANES:
        raise invalid(
            "metadata.lanes", f"at most {MOST_LANES}, and never more than the capability `lanes` says"
        )
    if not metadata.explicit_finish:
        raise invalid("metadata.explicit_finish", "must be set if the upload has lanes")
    if not metadata.upload_id:
        raise invalid("metadata.upload_id", "is missing; an upload with lanes needs the one of StartUpload")
    return metadata.lanes


def check_lane(lane: file_options_pb2.UploadLane) -> None:
    """Check what can be checked of a further stream before its upload is known.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if not lane.upload_id:
        raise invalid("lane.upload_id", "is missing")
    if not 1 <= lane.index < MOST_LANES:
        raise invalid("lane.index", f"must be from 1 to {MOST_LANES - 1}, and below metadata.lanes")
