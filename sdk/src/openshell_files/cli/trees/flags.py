"""Options for directories, and the check that no option meets the wrong type of source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from openshell_files.cli.transfer.destinations import STANDARD_STREAM, Copy, SourceType
from openshell_files.cli.trees import placement
from openshell_files.cli.usage import OneOf, flag, option
from openshell_files.options import Durability
from openshell_files.tree_options import Links, TreeOptions

dry_run: Final = flag("--dry-run", help="Of a directory: print what would be done, and change nothing.")
include: Final = option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Of a directory: only files that the pattern matches, in the syntax of .gitignore. Repeatable.",
)
exclude: Final = option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Of a directory: leave out what the pattern matches; prevails over --include. Repeatable.",
)
gitignore: Final = flag("--gitignore", help="Of a directory: only files that git tracks or does not ignore.")
delete: Final = flag(
    "--delete", help="Of a directory: delete what the destination has and the source has not."
)
checksum: Final = flag(
    "--checksum", help="Of a directory: find unchanged files by content, not by size and modification time."
)
upload_links: Final = option(
    "--links",
    type=OneOf(Links),
    default=Links.KEEP.value,
    help="Symbolic links in a directory: keep them, follow them inside the directory, or skip them.",
)
download_links: Final = option(
    "--links",
    type=OneOf(Links),
    default=Links.KEEP.value,
    metavar="<keep|skip>",
    help="Symbolic links in a directory: keep them, or skip them.",
)
atomic: Final = flag(
    "--atomic", help="Of a directory: all or nothing; it appears at once, and must not exist before."
)


@dataclass(frozen=True, slots=True)
class TreeFlags:
    """The options for directories of one command line."""

    dry_run: bool
    include: Sequence[str]
    exclude: Sequence[str]
    gitignore: bool
    delete: bool
    checksum: bool
    links: Links
    atomic: bool
    durability: Durability

    def given(self, *, downloading: bool = False) -> list[str]:
        """Return the options for directories that differ from their default.

        Args:
            downloading: --durability is one of them.
        """
        values = {
            "--dry-run": self.dry_run,
            "--include": self.include,
            "--exclude": self.exclude,
            "--gitignore": self.gitignore,
            "--delete": self.delete,
            "--checksum": self.checksum,
            "--links": self.links is not Links.KEEP,
            "--atomic": self.atomic,
            "--durability": downloading and self.durability is not Durability.FSYNC,
        }
        return [name for name, value in values.items() if value]

    def rules(self) -> str:
        """Return the options that leave entries out, as the reason of one that was left out."""
        values = {
            "--include": self.include,
            "--exclude": self.exclude,
            "--gitignore": self.gitignore,
            "--links skip": self.links is Links.SKIP,
        }
        return " or ".join(name for name, value in values.items() if value)

    def options(self, *, parents: bool) -> TreeOptions:
        """Return the options of the call."""
        return TreeOptions(
            include=self.include,
            exclude=self.exclude,
            gitignore=self.gitignore,
            delete=self.delete,
            checksum=self.checksum,
            links=self.links,
            atomic=self.atomic,
            dry_run=self.dry_run,
            parents=parents,
            durability=self.durability,
        )


def options_given(values: Mapping[str, bool]) -> list[str]:
    """Return the options that are given, by their names."""
    return [name for name, given in values.items() if given]


def check_upload(copies: Sequence[Copy], flags: TreeFlags, of_files: Sequence[str]) -> None:
    """Refuse options that contradict each other or do not fit the sources, before any call.

    Args:
        copies: the sources.
        flags: the options for directories.
        of_files: given options that are for files.

    Raises:
        ValueError: one does not fit.
    """
    _check(copies, flags.given(), of_files)
    _check_together(flags)


def _check_together(flags: TreeFlags) -> None:
    if flags.delete and flags.atomic:
        raise ValueError(
            "--delete: does not fit --atomic, whose destination must not exist; leave one of them out"
        )


def check_download(
    words: Sequence[str], copies: Sequence[Copy], flags: TreeFlags, of_files: Sequence[str]
) -> None:
    """As `check_upload`; a source whose type is unknown is checked when it is known.

    Args:
        words: SRC... [DEST].
        copies: the sources.
        flags: the options for directories.
        of_files: given options that are for files.

    Raises:
        ValueError: one does not fit.
    """
    _check(copies, flags.given(downloading=True), of_files)
    _check_together(flags)
    if flags.links is Links.FOLLOW:
        raise ValueError("--links: follow is for uploads; give keep or skip")
    if flags.delete and len(words) == 2:
        placement.check_deletion(*words)


def _check(copies: Sequence[Copy], of_trees: Sequence[str], of_files: Sequence[str]) -> None:
    if of_trees and of_files:
        raise ValueError(
            f"{of_trees[0]} is for directories and {of_files[0]} for files: leave one of them out"
        )
    for copy in copies:
        if copy.type is SourceType.TREE and of_files:
            raise ValueError(f"{of_files[0]}: is for files, and {copy.source!r} is a directory")
        if copy.type is SourceType.FILE and of_trees:
            streams = STANDARD_STREAM in {copy.source, copy.destination}
            what = "a standard stream" if streams else repr(copy.source)
            raise ValueError(f"{of_trees[0]}: is for directories, and {what} is none")
