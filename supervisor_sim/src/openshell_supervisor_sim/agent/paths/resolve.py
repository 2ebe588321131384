"""The sandbox's root: resolves a path of a request to an open directory and a name (PTH-3 ff.).

A path is resolved once; everything afterwards uses the descriptor and the name. The kernel never
gets the same path twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import (
    FileSystem,
    devtmpfs_devices,
    is_regular,
)
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import MAX_PATH_BYTES
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.remote_path import absolute_components, refuse_staging_name
from openshell_supervisor_sim.agent.paths.ancestors import ancestors, identity_of
from openshell_supervisor_sim.agent.paths.directories import Directories
from openshell_supervisor_sim.agent.paths.guard import Guard, GuardedPlaces
from openshell_supervisor_sim.agent.paths.kernel_interfaces import FORBIDDEN_FILE_SYSTEMS
from openshell_supervisor_sim.agent.paths.location import Location, require_regular, shown
from openshell_supervisor_sim.agent.paths.walk import MAX_LINKS, MagicLinkError, walk_as_far

_LEAF_OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class SandboxRoot:
    """The directory that callers see as `/`, open.

    Attributes:
        guard: refuses guarded places; None while the agent starts.
        directories: opens directories inside the root.

    Args:
        path: of the directory.
        workdir: where relative paths start, inside the root.
        use_openat2: have the kernel resolve paths; without the call, or if False, the agent walks
            them.
        fs: system calls.

    Raises:
        OSError: the root is not a directory that can be opened.
    """

    def __init__(self, path: Path, workdir: str, *, use_openat2: bool, fs: FileSystem) -> None:
        self._fs = fs
        self._workdir = workdir
        self.guard: Guard | None = None
        self._devtmpfs = devtmpfs_devices()
        self._fd = fs.open(os.fsencode(path), os.O_PATH | os.O_DIRECTORY)
        try:
            self.directories = Directories(fs, self._fd, use_openat2=use_openat2)
        except BaseException:
            fs.close(self._fd)
            raise

    @property
    def uses_openat2(self) -> bool:
        """True if the kernel resolves the paths."""
        return self.directories.uses_openat2

    @property
    def descriptor(self) -> int:
        """O_PATH descriptor of the root."""
        return self._fd

    @property
    def has_proc(self) -> bool:
        """True if descriptors can be opened again through /proc."""
        return self.directories.has_proc

    def close(self) -> None:
        """Close the root and its guard; more than once is fine."""
        if self.guard is not None:
            self.guard.close()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._fs.close(fd)

    def locate(
        self,
        path: str,
        field: str,
        *,
        follow: bool = False,
        create_parents: bool = False,
        directories: bool = False,
    ) -> Location:
        """Resolve a path of a request to an open directory and a name.

        Args:
            path: as the caller gave it.
            field: of the request, for errors.
            follow: if the last component is a link, follow it.
            create_parents: make directories that are missing.
            directories: the path may end with a slash or be `/` or `.`.

        Raises:
            TransferError: INVALID_PATH, PARENT_NOT_FOUND, NOT_A_DIRECTORY,
                PATH_FORBIDDEN, ACCESS_DENIED and others of the path.
        """
        names: Sequence[bytes] = absolute_components(path, self._workdir, field, directories=directories)
        if not names:
            raise TransferError(
                Reason.PATH_FORBIDDEN,
                f"{field}: the sandbox's root cannot be replaced, removed, moved or copied",
            )
        for _ in range(MAX_LINKS + 1):
            location = self._locate(names, field, create_parents=create_parents)
            try:
                self.refuse_location(location)
                if not follow:
                    return location
                target = self._link_target(location)
            except BaseException:
                location.close()
                raise
            if target is None:
                return location
            location.close()
            names = self._target_names(location, target, field)
        raise invalid(field, "leads over too many symbolic links", Reason.INVALID_PATH)

    def locate_directory(self, path: str, field: str) -> tuple[int, str] | None:
        """Open the directory that a path names, over links; None if it names something else.

        Args:
            path: as the caller gave it; `/` and `.` too (PTH-23).
            field: of the request, for errors.

        Returns:
            An O_PATH descriptor, which the caller closes, and the real path for a person.

        Raises:
            TransferError: INVALID_PATH, PATH_FORBIDDEN, ACCESS_DENIED and others
                of the path.
        """
        found = self.open_directory(path, field)
        return None if found is None else (found[0], found[1].decode("utf-8", "replace"))

    def open_directory(self, path: str, field: str) -> tuple[int, bytes] | None:
        """Open a directory as `locate_directory` does, and return its real path as it is."""
        names = absolute_components(path, self._workdir, field, directories=True)
        try:
            return self.directories.open(names)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except MagicLinkError as error:
            raise _magic_link(field) from error
        except OSError as error:
            raise transfer_error(error, f"{field}: resolving {shown(names)}", field=field) from error

    def reopen(self, parent_path: bytes, name: bytes) -> Location:
        """Open a location that was resolved before.

        Raises:
            TransferError: the directory does not exist any more.
        """
        return self._locate([part for part in parent_path.split(b"/") if part] + [name], "path")

    def open_regular(self, location: Location, flags: int = os.O_RDONLY) -> int:
        """Open the regular file at a location (PTH-4, PTH-15).

        Its status is checked before it is opened for reading: opening a device can have effects.

        Raises:
            TransferError: FILE_NOT_FOUND, LEAF_IS_LINK, IS_A_DIRECTORY,
                NOT_A_REGULAR_FILE, PATH_FORBIDDEN, ACCESS_DENIED.
        """
        path = location.path
        with mapped(f"opening {path}"):
            looking = self._fs.open(location.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
            try:
                status = self.refuse_forbidden(looking, path)
                require_regular(status, path)
                if self.directories.has_proc:
                    return self._fs.reopen(looking, (flags | _LEAF_OPEN) & ~os.O_NOFOLLOW)
                return self._open_same(location, flags, status)
            finally:
                self._fs.close(looking)

    def refuse_location(self, location: Location) -> None:
        """Refuse a directory, or a name in it, that no caller may use (PTH-5, PTH-7, PTH-8).

        The file behind the name is checked when it is opened, described or replaced, because it can
        change until then.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        refuse_staging_name(location.name, location.path)
        status = self.refuse_forbidden(location.parent_fd, location.path)
        if self.guard is not None:
            self.guard.refuse_name(status, location.name, location.path)

    def refuse_replacing(self, status: os.stat_result, path: str) -> None:
        """Refuse to replace a private file of the supervisor (PTH-7).

        Args:
            status: of the file at the destination.
            path: for the error.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        if self.guard is not None:
            self.guard.refuse_private(status, path)

    def guarded_places(self) -> GuardedPlaces:
        """Return the guarded places as they are now, for an operation on many entries."""
        return GuardedPlaces({}, {}) if self.guard is None else self.guard.snapshot()

    def refuse_around(self, status: os.stat_result, path: str) -> None:
        """Refuse to remove, move or copy a directory with guarded places below it.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        with mapped(f"looking below {path}"):
            if identity_of(status) == identity_of(self._fs.fstat(self._fd)):
                raise TransferError(Reason.PATH_FORBIDDEN, f"{path} is the sandbox's root")
            if self.guard is not None:
                self.guard.refuse_around(status, path)

    def refuse_workdir(self, status: os.stat_result, path: str) -> None:
        """Refuse to remove or move the working directory, or a directory above it.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        with mapped(f"looking below {path}"):
            try:
                fd, _ = self.directories.open([name for name in self._workdir.encode().split(b"/") if name])
            except FileNotFoundError:
                return
            try:
                root = identity_of(self._fs.fstat(self._fd))
                around = identity_of(status) in ancestors(self._fs, fd, root)
            finally:
                self._fs.close(fd)
        if around:
            raise TransferError(
                Reason.PATH_FORBIDDEN, f"{path} is the sandbox's working directory, or has it below it"
            )

    def refuse_forbidden(self, fd: int, path: str) -> os.stat_result:
        """Refuse a file that lies on a kernel interface, or is guarded (PTH-5, PTH-7, PTH-8).

        Returns:
            The status of the file.

        Raises:
            TransferError: PATH_FORBIDDEN.
        """
        with mapped(f"looking at {path}"):
            kind = FORBIDDEN_FILE_SYSTEMS.get(self._fs.file_system_type(fd))
            status = self._fs.fstat(fd)
            if kind is None and status.st_dev in self._devtmpfs:
                kind = "devtmpfs"
            if kind is None and self.guard is not None:
                self.guard.refuse_at(fd, status, path)
        if kind is not None:
            raise TransferError(
                Reason.PATH_FORBIDDEN, f"{path} is on {kind}, whose files cannot be transferred", {"fs": kind}
            )
        return status

    def _open_same(self, location: Location, flags: int, seen: os.stat_result) -> int:
        fd = self._fs.open(location.name, flags | _LEAF_OPEN, dir_fd=location.parent_fd)
        now = self._fs.fstat(fd)
        if not is_regular(now) or (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
            self._fs.close(fd)
            raise TransferError(Reason.FILE_CHANGED, f"{location.path} was replaced while it was opened")
        return fd

    def _locate(self, names: Sequence[bytes], field: str, *, create_parents: bool = False) -> Location:
        *parents, name = names
        flushed = True
        try:
            fd, path = self.directories.open(parents)
        except FileNotFoundError:
            self._refuse_missing(parents)
            if not create_parents:
                raise TransferError(
                    Reason.PARENT_NOT_FOUND,
                    f"{field}: the directory {shown(parents)} does not exist",
                    {"parent": shown(parents)},
                ) from None
            fd, path, flushed = self._make_directories(parents, field)
        except MagicLinkError as error:
            raise _magic_link(field) from error
        except OSError as error:
            raise transfer_error(
                error, f"{field}: resolving {shown(parents)}", missing=Reason.PARENT_NOT_FOUND, field=field
            ) from error
        return Location(self._fs, fd, path, name, flushed)

    def _refuse_missing(self, names: Sequence[bytes]) -> None:
        """Refuse a missing directory below a forbidden one, so that no error advises to make it."""
        path = shown(names)
        with mapped(f"looking at {path}"):
            fd = walk_as_far(self._fs, self._fd, b"/" + b"/".join(names))
        try:
            self.refuse_forbidden(fd, path)
        finally:
            self._fs.close(fd)

    def _make_directories(self, names: Sequence[bytes], field: str) -> tuple[int, bytes, bool]:
        """Open a directory; make and flush its missing components.

        Returns:
            The descriptor, the real path, and whether everything was flushed.
        """
        flushed = True
        with mapped(f"{field}: creating {shown(names)}", missing=Reason.PARENT_NOT_FOUND, field=field):
            fd, path = self.directories.open([])
            for depth in range(1, len(names) + 1):
                try:
                    try:
                        self.refuse_forbidden(fd, shown(names[: depth - 1]))
                        flushed &= self.directories.make(names[depth - 1], fd)
                    finally:
                        self._fs.close(fd)
                    fd, path = self.directories.open(names[:depth])
                except MagicLinkError as error:
                    raise _magic_link(field) from error
            return fd, path, flushed

    def _link_target(self, location: Location) -> bytes | None:
        status = location.lstat()
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        with mapped(f"reading the link {location.path}"):
            return self._fs.readlink(location.name, location.parent_fd)

    def _target_names(self, location: Location, target: bytes, field: str) -> Sequence[bytes]:
        """Return the components of a leaf link's target."""
        base = b"" if target.startswith(b"/") else location.parent_path
        names = [name for name in (base + b"/" + target).split(b"/") if name not in {b"", b"."}]
        if not names or names[-1] == b".." or target.endswith((b"/", b"/.")):
            raise TransferError(Reason.IS_A_DIRECTORY, f"{field}: the link {location.path} names a directory")
        if len(b"/".join(names)) > MAX_PATH_BYTES:
            raise invalid(field, "leads over a link whose target is too long", Reason.INVALID_PATH)
        return names


def _magic_link(field: str) -> TransferError:
    return TransferError(Reason.PATH_FORBIDDEN, f"{field}: leads over a magic link of procfs (PTH-11)")
