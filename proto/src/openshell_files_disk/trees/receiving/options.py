"""Where a tree is received, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openshell_files_protocol.digests import DigestAlgorithm


def _no_note(_parent: bytes, _name: bytes) -> None:
    """Do nothing."""


def _no_check() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class TreePlace:
    """Name of a top directory that exists or will be made.

    Attributes:
        parent_fd: descriptor of the directory that has the name, also one of O_PATH. Its owner closes it, after
            the receiver.
        parent_path: absolute path of that directory, for notes and errors.
        name: of the top directory; one component.
    """

    parent_fd: int
    parent_path: bytes
    name: bytes

    @property
    def shown(self) -> str:
        """Path of the top directory, for an error."""
        return (self.parent_path.rstrip(b"/") + b"/" + self.name).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveOptions:
    """How a tree is received.

    Attributes:
        delete_others: remove what the tree does not have from its directories (TRE-14).
        atomic: stage the tree, and publish it by one rename (TRE-12).
        dry_run: change nothing (TRE-11).
        compare_content: a file is unchanged if its digest is that of the entry (TRE-8).
        fsync: flush the file system before the end (TRE-52).
        algorithm: of all digests; a number of the wire, too.
        max_entries: of the tree; 0 is no limit (TRE-36).
        max_file_bytes: of one file, holes included; 0 is no limit (TRE-36).
        ordered: the order of TRE-4 and all of TRE-20 to TRE-27 is required. If False, for archives (ARC-7, ARC-20): entries
            come in any order, missing directories are made, a directory may come again, a later entry of a name
            replaces the earlier one, a hard link may name any file below the top directory, and files are never
            taken for unchanged.
        umask: of directories that are made and not announced.
        folds: the file system takes names for one that differ in case or normalisation; None tries it out.
        note: called with parent path and name before a staging directory is made.
        forget: called with the same after it was removed.
        check: called between the steps of long work; raises to end it.
    """

    delete_others: bool = False
    atomic: bool = False
    dry_run: bool = False
    compare_content: bool = False
    fsync: bool = False
    algorithm: DigestAlgorithm | int = DigestAlgorithm.BLAKE3
    max_entries: int = 0
    max_file_bytes: int = 0
    ordered: bool = True
    umask: int = 0o022
    folds: bool | None = None
    note: Callable[[bytes, bytes], None] = _no_note
    forget: Callable[[bytes, bytes], None] = _no_note
    check: Callable[[], None] = _no_check

    def __post_init__(self) -> None:
        if self.delete_others and not self.ordered:
            raise ValueError(
                "delete_others needs ordered entries: others are known after a directory's last entry"
            )
