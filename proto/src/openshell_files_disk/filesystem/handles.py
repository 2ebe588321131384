"""The system calls on files, in one class that tests replace to make them fail.

All of them block, and only disk threads call them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from openshell_files_disk.filesystem import syscalls

#: The kernel's clock for file times (CLOCK_REALTIME_COARSE); Python has no name for it.
_CLOCK_REALTIME_COARSE: Final = 5

#: Request of ioctl that clones a file, from linux/fs.h: _IOW(0x94, 9, int).
_FICLONE: Final = 0x4004_9409

#: Resolution of times on some file systems; far below a tick of that clock.
_BEFORE_NOW_NS: Final = 1000


class FileSystem:
    """System calls on files. Every method raises the OSError of its call."""

    def openat2(self, dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
        """Call openat2; see its manual page."""
        return syscalls.openat2(dir_fd, path, flags, resolve)

    def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
        """Return a descriptor of a file, closed on exec."""
        return os.open(name, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)

    def reopen(self, fd: int, flags: int) -> int:
        """Open the file behind `fd` again, with other flags."""
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close a descriptor. Raises only for a descriptor that is not open.

        Linux closes the descriptor even if close fails, and content is flushed before it is
        promised: an error here would only hide another.
        """
        try:
            os.close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise

    def duplicate(self, fd: int) -> int:
        """Return a second descriptor, closed on exec."""
        return os.dup(fd)

    def fstat(self, fd: int) -> os.stat_result:
        """Return the status of an open file."""
        return os.fstat(fd)

    def lstat(self, name: bytes, dir_fd: int) -> os.stat_result | None:
        """Return the status of a directory's entry without following it; None if there is none."""
        try:
            return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def may_write(self, name: bytes, dir_fd: int) -> bool:
        """Return whether this process may write a file; the name is not followed."""
        return os.access(name, os.W_OK, dir_fd=dir_fd, effective_ids=True, follow_symlinks=False)

    def readlink(self, name: bytes, dir_fd: int) -> bytes:
        """Read a symbolic link; an empty name reads the link behind `dir_fd`."""
        return os.readlink(name, dir_fd=dir_fd)

    def descriptor_path(self, fd: int) -> bytes:
        """Return the path that the kernel has for an open file."""
        return os.readlink(f"/proc/self/fd/{fd}".encode())

    def file_system_type(self, fd: int) -> int:
        """Return the magic number of the file system."""
        return syscalls.file_system_type(fd)

    def mkdir(self, name: bytes, dir_fd: int, mode: int = 0o777) -> None:
        """Make a directory, with its mode less the umask."""
        os.mkdir(name, mode, dir_fd=dir_fd)

    def names(self, fd: int) -> list[bytes]:
        """Return the names in a directory that is open for reading, in any order."""
        return [os.fsencode(name) for name in os.listdir(fd)]

    @contextmanager
    def scan(self, fd: int) -> Generator[Iterator[os.DirEntry[str]]]:
        """Read the entries of a directory that is open for reading, some at a time."""
        with os.scandir(fd) as entries:
            yield entries

    def entry_status(self, entry: os.DirEntry[str]) -> os.stat_result:
        """Return the status of an entry of `scan` without following it."""
        return entry.stat(follow_symlinks=False)

    def mount_of(self, fd: int) -> int | None:
        """Return the id of the mount that an open file is on; None where /proc does not tell."""
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                for line in file:
                    if line.startswith("mnt_id:"):
                        return int(line.split()[1])
        except OSError:
            pass
        return None

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at an offset; may write less than all."""
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read at an offset; may return less than requested, and nothing at the end."""
        return os.pread(fd, size, offset)

    def preadv(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read at an offset into a buffer; may read less than requested, and 0 at the end."""
        return os.preadv(fd, [buffer], offset)

    def seek_data(self, fd: int, offset: int) -> int:
        """Return where content begins at or after `offset`; raises ENXIO if there is none."""
        return os.lseek(fd, offset, os.SEEK_DATA)

    def seek_hole(self, fd: int, offset: int) -> int:
        """Return where the next hole begins at or after `offset`."""
        return os.lseek(fd, offset, os.SEEK_HOLE)

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of a file; growing makes a hole."""
        os.ftruncate(fd, size)

    def chmod(self, fd: int, mode: int) -> None:
        """Set the permission bits."""
        os.fchmod(fd, mode)

    def chmod_entry(self, fd: int, mode: int) -> None:
        """Set the permission bits of the file behind an O_PATH descriptor; needs /proc."""
        os.chmod(f"/proc/self/fd/{fd}", mode)

    def set_modified(self, fd: int, modified_ns: int | None) -> None:
        """Set the modified time in nanoseconds since 1970; None sets a time just before now.

        The kernel's clock for files advances only every 10 ms. With a time before its current one,
        the next write always changes the modified time.
        """
        if modified_ns is None:
            modified_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) - _BEFORE_NOW_NS
            os.utime(fd, ns=(modified_ns, modified_ns))
        else:
            os.utime(fd, ns=(os.fstat(fd).st_atime_ns, modified_ns))

    def fsync(self, fd: int) -> None:
        """Flush content and metadata to the device."""
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Flush content to the device."""
        os.fdatasync(fd)

    def rename(self, dir_fd: int, source: bytes, destination: bytes) -> None:
        """Rename within a directory, replacing a file of that name."""
        os.rename(source, destination, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def rename_noreplace(self, dir_fd: int, source: bytes, destination: bytes) -> None:
        """Rename within a directory unless the name exists."""
        syscalls.rename_noreplace(dir_fd, source, dir_fd, destination)

    def move(self, source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
        """Rename from one directory to another, replacing a file or an empty directory."""
        os.rename(source, destination, src_dir_fd=source_dir, dst_dir_fd=destination_dir)

    def move_noreplace(
        self, source_dir: int, source: bytes, destination_dir: int, destination: bytes
    ) -> None:
        """Rename from one directory to another unless the name exists."""
        syscalls.rename_noreplace(source_dir, source, destination_dir, destination)

    def link(self, dir_fd: int, source: bytes, destination: bytes) -> None:
        """Give a file a second name in its directory."""
        os.link(source, destination, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def link_between(self, source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
        """Give a file a second name in another directory; a link itself gets one."""
        os.link(source, destination, src_dir_fd=source_dir, dst_dir_fd=destination_dir, follow_symlinks=False)

    def symlink(self, target: bytes, name: bytes, dir_fd: int) -> None:
        """Make a symbolic link."""
        os.symlink(target, name, dir_fd=dir_fd)

    def set_link_time(self, name: bytes, dir_fd: int, modified_ns: int) -> None:
        """Set the times of a symbolic link itself."""
        os.utime(name, ns=(modified_ns, modified_ns), dir_fd=dir_fd, follow_symlinks=False)

    def clone(self, source: int, destination: int) -> None:
        """Let a file share the whole content of another one (FICLONE)."""
        fcntl.ioctl(destination, _FICLONE, source)

    def copy_range(self, source: int, destination: int, offset: int, size: int) -> int:
        """Copy a part of a file in the kernel; may copy less than requested, and 0 at the end."""
        return os.copy_file_range(source, destination, size, offset, offset)

    def set_times(self, fd: int, accessed_ns: int, modified_ns: int) -> None:
        """Set both times of a file in nanoseconds since 1970. The kernel cuts off what the file system cannot store."""
        os.utime(fd, ns=(accessed_ns, modified_ns))

    def lock(self, fd: int) -> bool:
        """Lock an open file or directory for this process (flock); return False if another one has the lock."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sync_file_system(self, fd: int) -> None:
        """Flush everything of the file system that a file is on."""
        syscalls.sync_file_system(fd)

    def link_descriptor(self, fd: int, dir_fd: int, name: bytes) -> None:
        """Give a name to a file without one (O_TMPFILE)."""
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=dir_fd, follow_symlinks=True)

    def unlink(self, name: bytes, dir_fd: int) -> None:
        """Remove a name; does nothing if it does not exist."""
        try:
            os.unlink(name, dir_fd=dir_fd)
        except FileNotFoundError:
            return

    def remove_file(self, name: bytes, dir_fd: int) -> None:
        """Remove a name that exists."""
        os.unlink(name, dir_fd=dir_fd)

    def remove_directory(self, name: bytes, dir_fd: int) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=dir_fd)


def is_regular(status: os.stat_result) -> bool:
    """Return whether a status is that of a regular file."""
    return stat.S_ISREG(status.st_mode)


def has_descriptor_paths() -> bool:
    """Return whether /proc is mounted, through which descriptors are opened again."""
    return os.path.exists("/proc/self/fd")


def devtmpfs_devices(mounts: Sequence[str] | None = None) -> frozenset[int]:
    """Return the device numbers of devtmpfs.

    fstatfs does not tell devtmpfs from tmpfs. A kernel has one instance of it for its whole life,
    so the numbers never change.

    Args:
        mounts: lines of /proc/self/mountinfo; None reads the file.
    """
    if mounts is None:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
                mounts = file.readlines()
        except OSError:
            return frozenset()
    devices: set[int] = set()
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] == "devtmpfs":
            major, _, minor = fields.split(" ")[2].partition(":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def process_umask() -> int:
    """Return the process's umask without changing it for a moment."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
