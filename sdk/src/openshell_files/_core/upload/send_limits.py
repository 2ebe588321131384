"""Size of chunks and number of streams of one upload: the server's capabilities, less what it refused."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES

from openshell_files._core.capabilities import DEFAULTS, Capabilities
from openshell_files._core.upload.lane_choice import MOST_LANES, free_lanes
from openshell_files.errors import FilesError

#: After the second refusal of lanes an upload uses one stream.
_LANE_REFUSALS: Final = 2


class SendLimits:
    """Limits of the next attempt.

    Attributes:
        capabilities: answer of the server, or the defaults.
    """

    def __init__(self) -> None:
        self.capabilities: Capabilities = DEFAULTS
        self._chunk_bytes = MAX_CHUNK_BYTES
        self._lanes = MOST_LANES
        self._lane_refusals = 0

    @property
    def chunk_bytes(self) -> int:
        """Largest chunk to send."""
        return min(self.capabilities.chunk_bytes, self._chunk_bytes)

    @property
    def lanes(self) -> int:
        """Most streams to use."""
        return min(self.capabilities.lanes, self._lanes)

    @property
    def waiting(self) -> float | None:
        """Seconds without content after which to send `waiting`; None never sends it."""
        return self.capabilities.waiting

    @property
    def lanes_can_shrink(self) -> bool:
        """True until the upload was refused for its lanes twice."""
        return self._lane_refusals < _LANE_REFUSALS

    def refuse_lanes(self, error: FilesError) -> None:
        """Use as many streams as the refusal allows; one after the second refusal."""
        self._lane_refusals += 1
        self._lanes = free_lanes(error) if self.lanes_can_shrink else 1

    def refuse_chunks(self) -> None:
        """Use the chunk size that every server takes (UPL-6)."""
        self._chunk_bytes = MIN_CHUNK_LIMIT_BYTES
