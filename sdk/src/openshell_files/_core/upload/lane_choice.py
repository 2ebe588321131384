"""Number of an upload's streams, called lanes (LAN-1)."""

from __future__ import annotations

import math
from typing import Final

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2

from openshell_files.errors import FilesError

#: Most streams of one upload, the first included.
MOST_LANES: Final = 8

#: For less content one stream is as fast: with its window of 4 MiB it waits
#: for a few round trips only.
LEAST_BYTES: Final = 16 * MIB

#: With a shorter round trip, a window of 4 MiB allows more than 1.6 Gbit/s. The
#: same machine and the local network are nearer.
LEAST_ROUND_TRIP_SECONDS: Final = 0.02


class LaneChoice:
    """Measures the round trip to the gateway, over all transfers of a client, and chooses the number of lanes.

    Args:
        most: most lanes of this connection.
    """

    def __init__(self, most: int = MOST_LANES) -> None:
        self._most = most
        self._quickest = math.inf
        self._answers = 0
        self._lost = False

    def answered(self, seconds: float) -> None:
        """Note the duration of a call without content and digest.

        The first call included the connection setup, and counts half.
        """
        self._quickest = min(self._quickest, seconds if self._answers else seconds / 2)
        self._answers += 1

    def lost(self) -> None:
        """Note that a lane was lost: a proxy or load balancer separates an upload's streams."""
        self._lost = True

    def connect_after(self, size: int) -> float | None:
        """Return the seconds without an answer after which lanes are worth connecting; None if they never are.

        To connect a lane takes as long as to get an answer, so lanes are
        connected while the answer is awaited.

        Args:
            size: bytes to send; 0 if unknown.
        """
        near = self._answers > 0 and self._quickest < LEAST_ROUND_TRIP_SECONDS
        if near or self._lost or self._most == 1 or size < LEAST_BYTES:
            return None
        return 2 * LEAST_ROUND_TRIP_SECONDS

    def choose(self, allowed: int, left: int | None) -> int:
        """Return the number of streams to send over.

        Args:
            allowed: limit of the gateway.
            left: bytes to send; None if unknown.
        """
        far = self._answers > 0 and self._quickest >= LEAST_ROUND_TRIP_SECONDS
        if self._lost or not far or left is None or left < LEAST_BYTES:
            return 1
        return max(1, min(allowed, self._most))


def free_lanes(error: FilesError) -> int:
    """Return the number of streams that an error TOO_MANY_LANES allows (LAN-9)."""
    said = error.metadata.get("lanes", "")
    return max(1, min(MOST_LANES, int(said))) if said.isascii() and said.isdecimal() and len(said) < 4 else 1


def lane_messages(metadata: files_pb2.UploadFileMetadata) -> list[bytes]:
    """Serialize the first messages of an upload's further streams, in their order."""
    return [
        files_pb2.UploadFileRequest(
            lane=file_options_pb2.UploadLane(
                sandbox_id=metadata.sandbox_id,
                sandbox=metadata.sandbox,
                workspace=metadata.workspace,
                upload_id=metadata.upload_id,
                epoch=metadata.epoch,
                index=index,
            )
        ).SerializeToString()
        for index in range(1, metadata.lanes)
    ]
