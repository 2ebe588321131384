"""System calls that Python lacks: openat2, renameat2, fstatfs, syncfs."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10
RENAME_NOREPLACE: Final = 0x01

#: The same on every architecture: calls newer than 2019 share their numbers.
_SYS_OPENAT2: Final = 437
#: Attempts after EAGAIN, which the kernel returns when a directory is moved during the resolution.
_OPENAT2_ATTEMPTS: Final = 64
#: Enough for struct statfs on every architecture; f_type comes first.
_STATFS_BYTES: Final = 256

_libc: Final = ctypes.CDLL(None, use_errno=True)


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """Open a path under constraints on its resolution (openat2).

    Returns:
        A file descriptor, closed on exec.

    Raises:
        OSError: ENOSYS if the kernel or a filter does not have the call.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_OPENAT2_ATTEMPTS):
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(path),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code != errno.EAGAIN:
            raise OSError(code, os.strerror(code))
    raise OSError(errno.EAGAIN, "the path keeps changing while it is resolved")


def rename_noreplace(source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
    """Rename unless the destination exists.

    Raises:
        OSError: EEXIST; EINVAL, ENOSYS or EPERM where the kernel, the file
            system or a filter does not have the call.
    """
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(
        source_dir, ctypes.c_char_p(source), destination_dir, ctypes.c_char_p(destination), RENAME_NOREPLACE
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def sync_file_system(fd: int) -> None:
    """Flush everything of the file system that a descriptor is on (syncfs).

    Raises:
        OSError: the device failed; ENOSYS where the C library does not have the call.
    """
    syncfs = getattr(_libc, "syncfs", None)
    if syncfs is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def file_system_type(fd: int) -> int:
    """Return the magic number of the file system that a descriptor is on."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, buffer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(ctypes.c_ulong.from_buffer(buffer).value) & 0xFFFF_FFFF
