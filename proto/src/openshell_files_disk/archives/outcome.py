"""What became of the entries of an archive: counts, and the problems that the answer lists (ARC-10)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_PATH_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.archives.limits import MAX_LISTED_BYTES, MAX_LISTED_PROBLEMS

#: Problems that the message of an error names; its reader has no list.
_NAMED_PROBLEMS: Final = 3
_NAMED_BYTES: Final = 200


@dataclass(slots=True)
class ArchiveOutcome:
    """Counts of one archive, and its problems.

    Attributes:
        entries: members, those with problems included.
        files: regular files that were placed or packed.
        content_bytes: of these files.
        problems: number of entries with a problem.
        listed: the first of them.
    """

    entries: int = 0
    files: int = 0
    content_bytes: int = 0
    problems: int = 0
    listed: list[files_pb2.ArchiveProblem] = field(default_factory=list[files_pb2.ArchiveProblem])
    _listed_bytes: int = 0

    def problem(self, path: bytes, reason: str, message: str) -> None:
        """Add the problem of an entry. A path that is longer than a path can be is cut off."""
        self.problems += 1
        if len(self.listed) >= MAX_LISTED_PROBLEMS:
            return
        problem = files_pb2.ArchiveProblem(path=path[:MAX_PATH_BYTES], reason=reason, message=message)
        self._listed_bytes += problem.ByteSize()
        if self._listed_bytes <= MAX_LISTED_BYTES:
            self.listed.append(problem)

    def message(self) -> files_pb2.ArchiveResult:
        """Return the outcome for a caller that can read it."""
        return files_pb2.ArchiveResult(
            entries=self.entries,
            placed_entries=max(0, self.entries - self.problems),
            files=self.files,
            content_bytes=self.content_bytes,
            problems=self.listed,
            more_problems=self.problems - len(self.listed),
        )

    def error(self, verb: str) -> TransferError:
        """Return the error for a caller that only learns of problems by an error.

        Args:
            verb: "unpacked" or "packed".
        """
        named = "; ".join(
            f"{one.path[:_NAMED_BYTES].decode('utf-8', 'replace')}: {one.message[:_NAMED_BYTES]}"
            for one in self.listed[:_NAMED_PROBLEMS]
        )
        return TransferError(
            Reason.ARCHIVE_INCOMPLETE,
            f"{self.problems} of {self.entries} entries were not {verb}, all others were: {named}",
            {"entries": str(self.entries), "problems": str(self.problems), "files": str(self.files)},
        )
