"""Decides the entries of manifests (TRE-4 to TRE-8, TRE-20 to TRE-24, TRE-35, TRE-36, TRE-46)."""

from __future__ import annotations

import os
import stat
from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import (
    DIGEST_BYTES,
    MAX_MANIFEST_ENTRIES,
    MAX_PATH_BYTES,
    STAGING_PREFIX,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import is_regular
from openshell_files_disk.trees.receiving.comparison import adjust, has_content
from openshell_files_disk.trees.receiving.completion import Completion
from openshell_files_disk.trees.receiving.content import Contents, NeededFile, opened
from openshell_files_disk.trees.receiving.directories import Directory, OpenDirectories
from openshell_files_disk.trees.receiving.links import Links
from openshell_files_disk.trees.receiving.names import check_name, check_path, folded, violation
from openshell_files_disk.trees.receiving.reception import Reception

_NANOS: Final = 1_000_000_000
_REGULAR: Final = files_pb2.FILE_TYPE_REGULAR
_DIRECTORY: Final = files_pb2.FILE_TYPE_DIRECTORY
_SYMLINK: Final = files_pb2.FILE_TYPE_SYMLINK

_MOST_MODE: Final = 0o777


class Entries:
    """Takes the entries of a tree.

    Args:
        reception: of the tree.
        completion: completes directories.
        contents: files whose content is needed.
        links: of the tree.
    """

    def __init__(
        self, reception: Reception, completion: Completion, contents: Contents, links: Links
    ) -> None:
        self._reception = reception
        self._completion = completion
        self._contents = contents
        self._links = links
        self._ordered = reception.options.ordered
        self._compares_content = reception.options.compare_content
        #: The open directories; None before the first entry.
        self.directories: OpenDirectories | None = None
        self.top: Directory | None = None
        #: Directory of which `_dir_fd` is a descriptor; owned by `Reception.looking`.
        self._looked: Directory | None = None
        self._dir_fd = -1

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
                raise TransferError(
                    Reason.TREE_TOO_LARGE,
                    f"the tree has more than {most} entries",
                    {"max_entries": str(most)},
                )
            reception.announced = number + 1
            path = entry.path
            if self.directories is None:
                self._begin(entry, number, path)
                if not path:
                    continue
            elif not path:
                self._top_again(entry, number)
                continue
            self._entry(entry, number, path)

    def _begin(self, entry: trees_pb2.TreeEntry, number: int, path: bytes) -> None:
        """Take the first entry: make or open the top directory."""
        if self._ordered and (path or entry.type != _DIRECTORY or entry.excluded or entry.reason):
            raise violation(number, "must be the top directory, with an empty path (TRE-4)")
        _check_attributes(entry, number)
        reception = self._reception
        self.top = top = Directory(None, b"", number if not path else -1, fresh=True, folds=False)
        top.mode_before = reception.start()
        top.fresh = reception.created
        if reception.folds:
            top = self.top = self._made_again(top)
        self.directories = OpenDirectories(top)
        if path:
            if reception.created:
                top.mode = 0o777 & ~reception.options.umask
            return
        self._guard(top)
        top.mode, top.modified_ns = entry.mode, _modified(entry)
        if reception.created:
            reception.reply.changed.append(number)

    def _made_again(self, top: Directory) -> Directory:
        other = Directory(None, b"", top.entry, fresh=top.fresh, folds=True)
        other.mode_before = top.mode_before
        return other

    def _guard(self, directory: Directory) -> None:
        guard = self._reception.guard
        if guard is not None and not directory.fresh:
            directory.private = guard.names_in(self._reception.fs.fstat(self._fd_of(directory)))

    def _top_again(self, entry: trees_pb2.TreeEntry, number: int) -> None:
        if self._ordered or entry.type != _DIRECTORY:
            raise violation(number, "has an empty path, as entry 0 had (TRE-4)")
        _check_attributes(entry, number)
        top = self.top
        if top is not None:
            top.entry, top.mode, top.modified_ns = number, entry.mode, _modified(entry)
            self._reception.reply.changed.append(number)

    # Paths

    def _entry(self, entry: trees_pb2.TreeEntry, number: int, path: bytes) -> None:
        directories = self.directories
        if directories is None:
            raise AssertionError("the first entry was taken")
        parent, slash, name = path.rpartition(b"/")
        if parent != directories.path:
            self._go_to(directories, parent, number, path)
        elif slash and not parent:
            raise violation(number, "has an absolute path (TRE-21)")
        if not name or len(path) > MAX_PATH_BYTES or len(name) > 200 or name[0] == 46 or b"\0" in name:  # `.`
            check_name(number, path, name)
        directory = directories.current
        type_ = entry.type
        if self._ordered:
            refused = self._add_name(directory, number, name, entry, type_)
        else:
            refused = self._replace_earlier(path)
        if entry.excluded:
            return
        if entry.reason:
            self._reception.problems += 1
            return
        _check_attributes(entry, number)
        if refused is None:
            refused = self._refusal(directory, name)
        if refused is not None:
            self._refuse(directories, number, path, name, type_, refused)
        elif type_ == _REGULAR and not entry.hard_link:
            self._file(entry, number, path, name, directory)
        elif type_ == _DIRECTORY:
            self._directory(entry, number, path, name, directories)
        else:
            self._link(entry, number, path, name, directory)

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
        start = len(directories.path) + 1 if directories.path else 0
        here = directories.path
        for name in parent[start:].split(b"/"):
            above = directories.current
            here = here + b"/" + name if here else name
            child = Directory(above, name, -1, fresh=False, folds=False)
            refused = self._refusal(above, name)
            if refused is None:
                try:
                    self._make_or_open(child, here, self._status(above, name))
                except (OSError, TransferError) as error:
                    child.failed = True
                    self._reception.not_placed.add(here)
                    if isinstance(error, TransferError) and error.reason is Reason.DISK_FULL:
                        raise
            else:
                child.failed = True
            if child.fresh:
                child.mode = 0o777 & ~self._reception.options.umask
            above.pending += 1
            directories.enter(child, here)

    # Names

    def _add_name(
        self, directory: Directory, number: int, name: bytes, entry: trees_pb2.TreeEntry, type_: int
    ) -> tuple[Reason, str] | None:
        """Note a name; return why the entry is refused.

        Raises:
            TransferError: INVALID_REQUEST, the name was announced before (TRE-22).
        """
        names = directory.names
        if names is None or not names.add(name):
            raise violation(number, "has a name that was announced in its directory before (TRE-22)")
        if type_ != _REGULAR or entry.hard_link or entry.excluded or entry.reason:
            sent = not (entry.excluded or entry.reason)
            directory.add_other(name, directory=type_ == _DIRECTORY and sent)
        if directory.folded is not None and not directory.folded.add(folded(name)):
            return (
                Reason.FILE_EXISTS,
                "its name differs only in case or Unicode normalisation from another one of its directory, "
                "and the file system takes both for one (TRE-22)",
            )
        return None

    def _replace_earlier(self, path: bytes) -> None:
        """Drop an earlier file of an archive whose content is still to come."""
        file = self._contents.at(path)
        if file is not None:
            file.replaced = True
            self._reception.not_placed.add(path)

    def _refusal(self, directory: Directory, name: bytes) -> tuple[Reason, str] | None:
        """Return why an entry is refused before anything is looked at."""
        if directory.failed:
            return Reason.PARENT_NOT_FOUND, "its directory is not in place (TRE-35)"
        if name.startswith(STAGING_PREFIX):
            return Reason.PATH_FORBIDDEN, "names with its prefix are kept for unfinished uploads (TRE-23)"
        guard = self._reception.guard
        if guard is not None and directory.private is not None:
            message = guard.named(directory.private, name)
            if message is not None:
                return Reason.PATH_FORBIDDEN, message
        return None

    def _refuse(
        self,
        directories: OpenDirectories,
        number: int,
        path: bytes,
        name: bytes,
        type_: int,
        refused: tuple[Reason, str],
    ) -> None:
        self._reception.problem(number, *refused)
        if type_ == _DIRECTORY:
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

    # What is there

    def _fd_of(self, directory: Directory) -> int:
        """Return a descriptor of a directory in which entries are looked at."""
        if self._looked is not directory:
            looking = self._reception.looking
            if looking is None:
                raise AssertionError("a missing directory is not looked at")
            self._looked = None
            self._dir_fd = opened(looking.directory, directory.path)
            self._looked = directory
        return self._dir_fd

    def _status(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """Return the status of what has a name; None if there is nothing."""
        if directory.fresh and self._ordered:
            return None
        if self._reception.looking is None:
            return None
        return self._reception.fs.lstat(name, self._fd_of(directory))

    def _file(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, name: bytes, directory: Directory
    ) -> None:
        """Decide a regular file."""
        reception = self._reception
        size = entry.size_bytes
        most = reception.options.max_file_bytes
        if most and size > most:
            reception.problem(
                number, Reason.FILE_TOO_LARGE, f"it has {size} bytes, at most {most} are allowed (TRE-36)"
            )
            reception.not_placed.add(path)
            return
        modified_ns = entry.modified_seconds * _NANOS + entry.modified_nanos
        if not directory.fresh or not self._ordered:
            try:
                there = self._status(directory, name)
                if there is not None and self._settled(
                    entry, number, path, name, directory, there, modified_ns
                ):
                    return
            except (OSError, TransferError) as error:
                reception.failed(number, error, "comparing the file")
                reception.not_placed.add(path)
                return
        if reception.options.dry_run:
            reception.reply.changed.append(number)
            reception.not_placed.add(path)
            return
        self._contents.need(NeededFile(number, path, directory, size, entry.mode, modified_ns))

    def _settled(
        self,
        entry: trees_pb2.TreeEntry,
        number: int,
        path: bytes,
        name: bytes,
        directory: Directory,
        there: os.stat_result,
        modified_ns: int,
    ) -> bool:
        """Decide a file by what has its name; return False if its content is needed."""
        reception = self._reception
        if not is_regular(there):
            return self._in_the_way(number, path, name, directory, there)
        if reception.guard is not None and (message := reception.guard.file(there)) is not None:
            raise TransferError(Reason.PATH_FORBIDDEN, message)
        if there.st_size != entry.size_bytes or not self._ordered:
            return False
        if not self._compares_content:
            if there.st_mtime_ns != modified_ns:
                return False
        else:
            if len(entry.digest) != DIGEST_BYTES:
                raise violation(number, "has no digest, and content is compared (TRE-8)")
            if not self._same_content(entry, name, directory, there):
                return False
        mode = entry.mode
        if there.st_mode & 0o777 != mode or there.st_mtime_ns != modified_ns:
            adjust(reception, name, self._fd_of(directory), there, mode, modified_ns)
            reception.reply.changed.append(number)
        return True

    def _same_content(
        self, entry: trees_pb2.TreeEntry, name: bytes, directory: Directory, there: os.stat_result
    ) -> bool:
        try:
            return has_content(self._reception, name, self._fd_of(directory), there, entry.digest)
        except OSError:
            return False  # It cannot be read, so it is replaced.

    def _in_the_way(
        self, number: int, path: bytes, name: bytes, directory: Directory, there: os.stat_result
    ) -> bool:
        """Decide what is no regular file and has the name of a file or link; return True if it stays."""
        reception = self._reception
        if not stat.S_ISDIR(there.st_mode):
            if reception.guard is not None and (message := reception.guard.file(there)) is not None:
                raise TransferError(Reason.PATH_FORBIDDEN, message)
            return False
        if not reception.options.delete_others:
            reception.problem(number, Reason.IS_A_DIRECTORY, "a directory is in its place (TRE-46)")
            reception.not_placed.add(path)
            return True
        if reception.options.dry_run:
            reception.remove(name, self._fd_of(directory), path)
        return False

    def _link(
        self, entry: trees_pb2.TreeEntry, number: int, path: bytes, name: bytes, directory: Directory
    ) -> None:
        """Decide a symbolic link or a hard link."""
        reception = self._reception
        if entry.hard_link and self._ordered and self.directories is not None:
            self._links.check_named(number, entry.hard_link, self.directories)
        elif entry.hard_link:
            check_path(number, entry.hard_link)
        try:
            there = self._status(directory, name)
            if there is not None and not is_regular(there):
                if self._in_the_way(number, path, name, directory, there):
                    return
            elif there is not None and reception.guard is not None:
                message = reception.guard.file(there)
                if message is not None:
                    raise TransferError(Reason.PATH_FORBIDDEN, message)
            if entry.hard_link:
                self._links.hard(number, path, directory, entry.hard_link)
                return
            dir_fd = -1 if there is None else self._fd_of(directory)
            self._links.symbolic(number, path, directory, entry.link_target, _modified(entry), there, dir_fd)
        except (OSError, TransferError) as error:
            reception.failed(number, error, "making the link")

    # Directories

    def _directory(
        self,
        entry: trees_pb2.TreeEntry,
        number: int,
        path: bytes,
        name: bytes,
        directories: OpenDirectories,
    ) -> None:
        """Make a directory, or enter one that exists."""
        reception = self._reception
        above = directories.current
        child = Directory(above, name, number, fresh=False, folds=reception.folds)
        try:
            there = self._status(above, name)
            self._make_or_open(child, path, there)
        except (OSError, TransferError) as error:
            reception.failed(number, error, "making the directory")
            self._enter_failed(directories, number, path, name)
            return
        if child.fresh:
            reception.reply.changed.append(number)
        child.mode, child.modified_ns = entry.mode, _modified(entry)
        above.pending += 1
        directories.enter(child, path)

    def _make_or_open(self, child: Directory, path: bytes, there: os.stat_result | None) -> None:
        """Make a directory, or open it where it is.

        Raises:
            OSError: it could not be made.
            TransferError: NOT_A_DIRECTORY, LEAF_IS_LINK, MOUNT_POINT, PATH_FORBIDDEN.
        """
        reception, above = self._reception, child.above
        if above is None:
            raise AssertionError("the top directory is opened by `Reception`")
        dry_run = reception.options.dry_run
        if there is not None and not stat.S_ISDIR(there.st_mode):
            is_link = stat.S_ISLNK(there.st_mode)
            if not reception.options.delete_others:
                reason = Reason.LEAF_IS_LINK if is_link else Reason.NOT_A_DIRECTORY
                what = "a symbolic link" if is_link else "a file"
                raise TransferError(reason, f"{what} is in its place (TRE-46)")
            if not reception.remove(child.name, self._fd_of(above), path, above.private):
                raise TransferError(Reason.PATH_FORBIDDEN, "a forbidden file is in its place")
            there = None
        if there is None:
            child.fresh = True
            if not dry_run:
                reception.fs.mkdir(child.name, self._fd_of(above), 0o700)
            return
        looking = reception.looking
        if looking is None:
            raise AssertionError("what is there was looked at")
        self._looked = None
        dir_fd = opened(looking.directory, path)
        if reception.guard is not None:
            status = reception.fs.fstat(dir_fd)
            message = reception.guard.directory(status)
            if message is not None:
                raise TransferError(Reason.PATH_FORBIDDEN, message)
            child.private = reception.guard.names_in(status)
        if not dry_run:
            child.mode_before = reception.made_usable(looking, path)
        self._looked, self._dir_fd = child, dir_fd


def _modified(entry: trees_pb2.TreeEntry) -> int:
    return entry.modified_seconds * _NANOS + entry.modified_nanos


def _check_attributes(entry: trees_pb2.TreeEntry, number: int) -> None:
    """Refuse values that no entry has (TRE-24)."""
    type_ = entry.type
    if entry.mode > _MOST_MODE:
        raise violation(number, f"has mode {entry.mode:o}, and permission bits are at most 777 (TRE-24)")
    if entry.modified_nanos >= _NANOS:
        raise violation(number, "has modified_nanos of a second or more (TRE-24)")
    if type_ == _REGULAR:
        return
    if type_ == _SYMLINK:
        if not entry.link_target or b"\0" in entry.link_target:
            raise violation(number, "is a link whose target is empty or has NUL (TRE-24)")
    elif type_ != _DIRECTORY:
        raise violation(number, f"has type {type_}, and no reason why it cannot be sent (TRE-24)")
    if entry.hard_link:
        raise violation(number, "is a hard link, and no regular file (TRE-27)")
