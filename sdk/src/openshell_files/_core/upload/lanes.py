"""Whether an upload travels over one stream or several (LAN-1)."""

from __future__ import annotations

import math
from typing import Final

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2

from openshell_files.errors import FilesError

#: Streams of one upload, the first included; no gateway allows more.
MOST_LANES: Final = 8

#: With less left to send, one stream is as good: its window is 4 MiB, so it
#: waits for a few round trips only.
LEAST_BYTES: Final = 16 * MIB

#: Nearer than this a stream's window of 4 MiB does not slow it down below
#: 1.6 Gbit/s. Nothing on the machine itself or in its network is so far away.
LEAST_ROUND_TRIP_SECONDS: Final = 0.02


class LaneChoice:
    """What a client knows of the way to its gateway, over all its transfers.

    Args:
        most: streams that an upload may have here.
    """

    def __init__(self, most: int = MOST_LANES) -> None:
        self._most = most
        self._quickest = math.inf
        self._answers = 0
        self._lost = False

    def answered(self, seconds: float) -> None:
        """Note how long a call took that the gateway answered without moving or hashing content.

        The first one had to wait for the connection, too, and counts half.
        """
        self._quickest = min(self._quickest, seconds if self._answers else seconds / 2)
        self._answers += 1

    def lost(self) -> None:
        """Note that a lane was lost: something on the way takes an upload's streams apart."""
        self._lost = True

    def connect_after(self, size: int) -> float | None:
        """Return how long an answer may take, in seconds, before it says that lanes will pay; None if they cannot.

        Lanes are connections, and it takes as long to connect as to have an
        answer. So they are begun before it is there.

        Args:
            size: bytes to send; 0 if that is not known.
        """
        near = self._answers > 0 and self._quickest < LEAST_ROUND_TRIP_SECONDS
        if near or self._lost or self._most == 1 or size < LEAST_BYTES:
            return None
        return 2 * LEAST_ROUND_TRIP_SECONDS

    def choose(self, allowed: int, left: int | None) -> int:
        """Return over how many streams to send.

        Args:
            allowed: by the gateway.
            left: bytes to send; None if that is not known.
        """
        far = self._answers > 0 and self._quickest >= LEAST_ROUND_TRIP_SECONDS
        if self._lost or not far or left is None or left < LEAST_BYTES:
            return 1
        return max(1, min(allowed, self._most))


def free_lanes(error: FilesError) -> int:
    """Return over how many streams an upload may travel that TOO_MANY_LANES refused (LAN-9)."""
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
