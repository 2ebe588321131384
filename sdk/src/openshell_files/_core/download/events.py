"""Events of a download, in the order in which its checked stream yields them."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files.results import FileInfo


@dataclass(frozen=True, slots=True)
class Opened:
    """The sandbox opened the file: first event of a download, and of each restart.

    Attributes:
        file: its description.
        start: offset at which the content begins.
        total: bytes of content; None if the file may change.
    """

    file: FileInfo
    start: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Verified content.

    Attributes:
        position: counted from the first byte of the requested range.
        data: the bytes; a view, valid until the next piece.
        hole_bytes: number of zero bytes; `data` is then empty.
    """

    position: int
    data: bytes | memoryview
    hole_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.hole_bytes or len(self.data)


@dataclass(frozen=True, slots=True)
class Closed:
    """The trailer arrived, and everything matches."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """Everything received so far is void; the content follows from its first byte."""


Event = Opened | Piece | Closed | Restarted
