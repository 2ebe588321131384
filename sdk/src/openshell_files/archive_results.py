"""Results of uploads that are unpacked, and of directories that are downloaded as an archive."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files.options import Durability
from openshell_files.tree_results import TreeProblem


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What became of the entries of an archive.

    Attributes:
        path: absolute path of the directory in the sandbox.
        entries: entries of the archive or the directory, those with a problem included.
        placed: entries that were unpacked or packed, as they are.
        files: regular files among them.
        content_bytes: size of these files.
        archive_bytes: size of the archive, as it was sent.
        digest: of the archive, `blake3:` or `sha256:` and hexadecimal digits, compared by both sides.
        seconds: duration of the call.
        attempts: streams opened by this call.
        durability: what survives a power loss in the sandbox; None of a download.
        changed: a file changed while it was packed; only with `allow_changes`.
        problems: entries that were left out; the first 1000. Paths are those of the archive.
        more_problems: number of further ones.
    """

    path: str
    entries: int
    placed: int
    files: int
    content_bytes: int
    archive_bytes: int
    digest: str
    seconds: float
    attempts: int
    durability: Durability | None
    changed: bool = False
    problems: tuple[TreeProblem, ...] = ()
    more_problems: int = 0

    @property
    def failed(self) -> int:
        """Number of entries that were left out."""
        return len(self.problems) + self.more_problems

    @property
    def complete(self) -> bool:
        """True if nothing was left out, and nothing changed meanwhile."""
        return not self.failed and not self.changed
