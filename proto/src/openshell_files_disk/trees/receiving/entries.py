"""Decides the entries of manifests (TRE-4 to TRE-8, TRE-20 to TRE-24, TRE-35, TRE-36, TRE-46)."""

from __future__ import annotations

import os
import stat
from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import (
    DIGEST_BYTES,
    MAX_MANIFEST_ENTRIES,
    MAX_NAME_BYTES,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import is_regular
from openshell_files_disk.trees.receiving.comparison import (
    adjust,
    check_attributes,
    differs,
    has_content,
    modified_of,
)
from openshell_files_disk.trees.receiving.completion import Completion
from openshell_files_disk.trees.receiving.content import Contents, NeededFile
from openshell_files_disk.trees.receiving.directories import Directory, OpenDirectories
from openshell_files_disk.trees.receiving.errors import EntryError
from openshell_files_disk.trees.receiving.links import PlacedLinks
from openshell_files_disk.trees.receiving.looking import Looking
from openshell_files_disk.trees.receiving.names import Names, check_name, check_path, folded, violation
from openshell_files_disk.trees.receiving.reception import Reception

_REGULAR: Final = files_pb2.FILE_TYPE_REGULAR
_DIRECTORY: Final = files_pb2.FILE_TYPE_DIRECTORY
_SYMLINK: Final = files_pb2.FILE_TYPE_SYMLINK

_DOT: Final = ord(".")

_FOLDED: Final = (
    "its name differs only in case or Unicode normalisation from another one of its directory, and the file system "
    "takes both for one (TRE-22)"
)


class Entries:
    """Takes the entries of a tree.

    Args:
        reception: of the tree.
        completion: completes directories.
        contents: files whose content is needed.
        links: of the tree.
    """

    def __init__(
        self, reception: Reception, completion: Completion, contents: Contents, links: PlacedLinks
    ) -> None:
        self._reception = reception
        self._completion = completion
        self._contents = contents
        self._links = links
        self._looking = Looking(reception)
        self._ordered = reception.options.ordered
        self._compares_content = reception.options.compare_content
        #: The open directories; None before the first entry.
        self.directories: OpenDirectories | None = None
        self.top: Directory | None = None
        #: Directories that an archive has an entry of.
        self._announced = Names()

    def take(self, manifest: trees_pb2.TreeManifest) -> None:
        """Decide entries.

        Raises:
            TransferError: INVALID_REQUEST for a violation, TREE_TOO_LARGE, and others of TRE-59.
        """
        reception, options = self._reception, self._reception.options
        if len(manifest.entries) > MAX_MANIFEST_ENTRIES:
            raise invalid(
                "manifest.entries",
                f"has {len(manifest.entries)} entries, at most {MAX_MANIFEST_ENTRIES} are allowed (TRE-5)",
            )
        most = options.max_entries
        for entry in manifest.entries:
            number = reception.announced
            if most and number >= most:
                message, facts = f"the tree has more than {most} entries", {"max_entries": str(most)}
                raise TransferError(Reason.TREE_TOO_LARGE, message, facts)
            reception.announced = number + 1
            path = entry.path
            directories = self.directories
            if directories is None:
                directories = self._begin(entry, number, path)
                if path:
                    self._entry(entry, number, path, directories)
            elif path:
                self._entry(entry, number, path, directories)
            else:
                self._top_again(entry, number)

    def _begin(self, entry: trees_pb2.TreeEntry, number: int, path: bytes) -> OpenDirectories:
        """Take the first entry: make or open the top directory."""
        if self._ordered and (path or entry.type != _DIRECTORY or entry.excluded or entry.reason):
            raise violation(number, "must be the top directory, with an empty path (TRE-4)")
        if path:
            return self.begin_unannounced()[1]
        check_attributes(entry, number)
        reception = self._reception
        before, top, directories = self._begin_top(number)
        top.mode, top.modified_ns = entry.mode, modified_of(entry)
        # A staged one is in place when it is published.
        is_staged = reception.options.atomic and not reception.options.dry_run
        if not is_staged and (before is None or differs(entry, before)):
            reception.reply.changed.append(number)
        return directories

    def begin_unannounced(self) -> tuple[Directory, OpenDirectories]:
        """Make or open the top directory of an archive that has not announced it, perhaps because it has no entries."""
        _, top, directories = self._begin_top(-1)
        if top.fresh:
            top.mode = 0o777 & ~self._reception.options.umask
        return top, directories

    def _begin_top(self, number: int) -> tuple[os.stat_result | None, Directory, OpenDirectories]:
        """Make or open the top directory; return its status before, itself, and the open directories."""
        reception = self._reception
        before = reception.start()
        self.top = top = Directory(None, b"", number, fresh=reception.created, folds=reception.folds)
        self.directories = directories = OpenDirectories(top)
        top.mode_before = reception.top_mode_before
        if before is not None:
            self._looking.guard_names(top)
        return before, top, directories

    def _top_again(self, entry: trees_pb2.TreeEntry, number: int) -> None:
        if self._ordered or entry.type != _DIRECTORY:
            raise violation(number, "has an empty path, as entry 0 had (TRE-4)")
        check_attributes(entry, number)
        top = self.top
        if top is not None:
            top.entry, top.mode, top.modified_ns = number, entry.mode, modified_of(entry)
            self._reception.reply.changed.append(number)

    # Paths

    def _entry(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, directories: OpenDirectories
    ) -> None:
        """Take an entry below the top directory."""
        parent, slash, name = path.rpartition(b"/")
        if parent != directories.path or (slash and not parent):
            self._go_to(directories, parent, number, path)
        # Most names need no closer look.
        if not name or name[0] == _DOT or len(path) > MAX_NAME_BYTES or b"\0" in path:
            check_name(number, path, name)
        directory = directories.current
        refused = None
        if self._ordered:
            refused = self._add_name(directory, number, name, entry)
        else:
            self._replace_earlier(path)
        if entry.excluded:
            return
        if entry.reason:
            # The sender knows the problem.
            self._reception.problems += 1
            return
        check_attributes(entry, number)
        refused = refused or self._looking.refusal(directory, name)
        if refused is not None:
            self._refuse(directories, number, path, name, entry, refused)
        elif entry.type == _DIRECTORY:
            self._directory(entry, number, path, name, directories)
        elif entry.type == _SYMLINK or entry.hard_link:
            self._link(entry, number, path, name, directory)
        else:
            self._file(entry, number, path, name, directory)

    def _go_to(self, directories: OpenDirectories, parent: bytes, number: int, path: bytes) -> None:
        """Leave the directories that are complete, up to the parent of an entry."""
        if path.startswith(b"/"):
            raise violation(number, "has an absolute path (TRE-21)")
        if self._ordered and not directories.contains(parent):
            check_path(number, path)
            raise violation(
                number, "is in a directory that was not announced before, or that is complete (TRE-20)"
            )
        while not directories.is_at_or_above(parent):
            self.leave()
        if not self._ordered and parent != directories.path:
            check_path(number, path)
            self._enter_parents(directories, parent)

    def leave(self) -> None:
        """Leave the current directory, which is complete."""
        if self.directories is not None:
            for _ in self._completion.leave(self.directories.leave()):
                self._reception.options.check()

    def _enter_parents(self, directories: OpenDirectories, parent: bytes) -> None:
        """Enter the directories above an entry of an archive; make those that are missing (ARC-5)."""
        here = directories.path
        for name in parent[len(here) + 1 if here else 0 :].split(b"/"):
            above = directories.current
            here = here + b"/" + name if here else name
            child = Directory(above, name, -1, fresh=False, folds=False)
            self._open_parent(child, here, above)
            above.pending += 1
            directories.enter(child, here)

    def _open_parent(self, child: Directory, path: bytes, above: Directory) -> None:
        reception = self._reception
        if self._looking.refusal(above, child.name) is not None:
            child.failed = True
            return
        try:
            there = self._looking.status(above, child.name)
            self._looking.make_or_open(child, path, there)
        except (OSError, EntryError) as error:
            reception.refusal(error, "making a directory")
            child.failed = True
            reception.not_placed.add(path)
            return
        if child.fresh:
            child.mode = 0o777 & ~reception.options.umask
        elif there is not None and path in self._announced:
            # It has mode and time of its entry already.
            child.mode = there.st_mode & 0o777
            child.modified_ns = there.st_mtime_ns

    # Names

    def _add_name(
        self, directory: Directory, number: int, name: bytes, entry: trees_pb2.TreeEntry
    ) -> tuple[Reason, str] | None:
        """Note a name; return why the entry is refused.

        Raises:
            TransferError: INVALID_REQUEST, the name was announced before (TRE-22).
        """
        names = directory.names
        if names is None or not names.add(name):
            raise violation(number, "has a name that was announced in its directory before (TRE-22)")
        type_ = entry.type
        if type_ != _REGULAR or entry.hard_link or entry.excluded or entry.reason:
            is_sent = not (entry.excluded or entry.reason)
            directory.add_other(name, directory=is_sent and type_ == _DIRECTORY)
        if directory.folded is not None and not directory.folded.add(folded(name)):
            return Reason.FILE_EXISTS, _FOLDED
        return None

    def _replace_earlier(self, path: bytes) -> None:
        """Drop an earlier file of an archive whose content is still to come."""
        file = self._contents.at(path)
        if file is not None:
            file.replaced = True
            self._reception.not_placed.add(path)

    def _refuse(
        self,
        directories: OpenDirectories,
        number: int,
        path: bytes,
        name: bytes,
        entry: trees_pb2.TreeEntry,
        refused: tuple[Reason, str],
    ) -> None:
        self._reception.problem(number, *refused)
        if entry.type == _DIRECTORY:
            self._enter_failed(directories, number, path, name)
        else:
            self._reception.not_placed.add(path)

    def _enter_failed(self, directories: OpenDirectories, number: int, path: bytes, name: bytes) -> None:
        """Enter a directory that is not in place, so that its content is refused, too."""
        self._reception.not_placed.add(path)
        child = Directory(directories.current, name, number, fresh=False, folds=False)
        child.failed = True
        directories.current.pending += 1
        directories.enter(child, path)

    # Files and links

    def _file(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, name: bytes, directory: Directory
    ) -> None:
        """Decide a regular file."""
        reception = self._reception
        options = reception.options
        size = entry.size_bytes
        modified_ns = modified_of(entry)
        if self._compares_content and len(entry.digest) != DIGEST_BYTES:
            raise violation(number, "has no digest, and content is compared (TRE-8)")
        try:
            if options.max_file_bytes and size > options.max_file_bytes:
                raise _too_large(size, options.max_file_bytes)
            there = self._looking.status(directory, name)
            if there is not None:
                if self._is_unchanged(entry, name, directory, there, modified_ns):
                    if not differs(entry, there):
                        return
                    if there.st_nlink == 1:
                        dir_fd = self._looking.fd_of(directory)
                        adjust(reception, name, dir_fd, there, entry.mode, modified_ns)
                        reception.reply.changed.append(number)
                        return
                    # Its other names, of which some may be outside, would get mode and time, too (TRE-32).
                if not is_regular(there):
                    self._looking.clear_way(path, name, directory, there)
        except (OSError, EntryError) as error:
            reception.failed(number, error, "comparing the file")
            reception.not_placed.add(path)
            return
        if options.dry_run:
            reception.reply.changed.append(number)
            reception.would_write.add(path)
            return
        self._contents.need(NeededFile(number, path, directory, size, entry.mode, modified_ns))

    def _is_unchanged(
        self,
        entry: trees_pb2.TreeEntry,
        name: bytes,
        directory: Directory,
        there: os.stat_result,
        modified_ns: int,
    ) -> bool:
        """Return whether what has a file's name is that file (TRE-7, TRE-8)."""
        if not stat.S_ISREG(there.st_mode):
            return False
        reception = self._reception
        if reception.guard is not None and (message := reception.guard.file(there)) is not None:
            raise EntryError(Reason.PATH_FORBIDDEN, message)
        if there.st_size != entry.size_bytes or not self._ordered:
            return False
        if not self._compares_content:
            return there.st_mtime_ns == modified_ns
        try:
            return has_content(reception, name, self._looking.fd_of(directory), there, entry.digest)
        except OSError:
            return False  # It cannot be read, so it is replaced.

    def _link(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, name: bytes, directory: Directory
    ) -> None:
        """Decide a symbolic link or a hard link."""
        first = entry.hard_link
        if first and self._ordered and self.directories is not None:
            self._links.check_named(number, first, self.directories)
        elif first:
            check_path(number, first)
        looking = self._looking
        try:
            there = looking.status(directory, name)
            if there is not None:
                looking.clear_way(path, name, directory, there)
            if first:
                self._links.hard(number, path, directory, first)
                return
            dir_fd = -1 if there is None else looking.fd_of(directory)
            self._links.symbolic(
                number, path, directory, entry.link_target, modified_of(entry), there, dir_fd
            )
        except (OSError, EntryError) as error:
            self._reception.failed(number, error, "making the link")

    # Directories

    def _directory(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, name: bytes, directories: OpenDirectories
    ) -> None:
        """Make a directory, or enter one that exists."""
        reception = self._reception
        above = directories.current
        child = Directory(above, name, number, fresh=False, folds=reception.folds)
        try:
            there = self._looking.status(above, name)
            self._looking.make_or_open(child, path, there)
        except (OSError, EntryError) as error:
            reception.failed(number, error, "making the directory")
            self._enter_failed(directories, number, path, name)
            return
        if child.fresh or there is None or differs(entry, there):
            reception.reply.changed.append(number)
        child.mode, child.modified_ns = entry.mode, modified_of(entry)
        if not self._ordered:
            self._announced.add(path)
        above.pending += 1
        directories.enter(child, path)


def _too_large(size: int, most: int) -> EntryError:
    return EntryError(Reason.FILE_TOO_LARGE, f"it has {size} bytes, at most {most} are allowed (TRE-36)")
