"""System calls that take rights away or mount a view of the file system.

Python lacks them. Each raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x4_0000
MNT_DETACH: Final = 0x2

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_SET_CHILD_SUBREAPER: Final = 36

#: NOROOT, NO_SETUID_FIXUP, and both locked: user 0 has no capabilities.
_SECUREBITS_NO_ROOT: Final = 0x0F

_CAPABILITY_VERSION_3: Final = 0x2008_0522
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000

#: The same on every architecture: calls newer than 2019 share their numbers.
_SYS_MOUNT_SETATTR: Final = 442

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    """Make a system call by its number.

    Args:
        what: name of the call, for the error.
        number: of the call.
        arguments: ctypes values, one per argument.

    Raises:
        OSError: the call failed.
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def _prctl(what: str, option: int, value: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), what)


def set_no_new_privileges() -> None:
    """Keep programs from gaining rights by set-id bits (no_new_privs)."""
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def has_no_new_privileges() -> bool:
    """Return whether this thread has no_new_privs."""
    return _prctl("no_new_privs", _PR_GET_NO_NEW_PRIVS) == 1


def set_dumpable() -> None:
    """Make this process the owner of its files in /proc again, which a change of the user takes from it."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 1)


def set_undumpable() -> None:
    """Keep other processes of the same user out of this one's memory and /proc."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def become_subreaper() -> None:
    """Adopt orphans among the descendants of this process."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Call mount; see its manual page."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _checked(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {source or kind} on {target}",
    )


def mount_setattr(path: str, attributes: int) -> None:
    """Set attributes of a mount and of everything mounted below it (Linux 5.12)."""
    value = struct.pack("=QQQQ", attributes, 0, 0, 0)
    syscall(
        f"mount_setattr {path}",
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.c_char_p(value),
        ctypes.c_size_t(len(value)),
    )


def make_working_directory_the_root() -> None:
    """Make the working directory, which is a mount, the root, and unmount everything else."""
    # pivot_root(2): with both at ".", the old root lies above the new one.
    pivot_root = getattr(_libc, "pivot_root", None)
    if pivot_root is None:
        raise OSError(38, "the C library has no pivot_root")
    _checked(pivot_root(b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", ctypes.c_int(MNT_DETACH)), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability for good, even as user 0 and for later programs.

    The order matters: the last step drops the capabilities that the first steps need.
    """
    _bound_capabilities(0)
    _prctl("PR_SET_SECUREBITS", _PR_SET_SECUREBITS, _SECUREBITS_NO_ROOT)
    set_capabilities(0)


def keep_capabilities(mask: int) -> None:
    """Give up every capability but those of a mask for good; see `drop_capabilities`."""
    # Root of a container may not; its capabilities are given up all the same.
    with suppress(PermissionError):
        _bound_capabilities(mask)
    set_capabilities(mask)


def _bound_capabilities(mask: int) -> None:
    for capability in _capabilities():
        if not mask >> capability & 1:
            _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)


def set_capabilities(mask: int) -> None:
    """Keep only the permitted capabilities of a mask, and no inheritable ones.

    Args:
        mask: bit n is capability n.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    data = struct.pack("=IIIIII", low, low, 0, high, high, 0)
    _checked(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")


def effective_capabilities() -> int:
    """Return the effective capabilities of this thread as a mask."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data), "capget")
    low, _, _, high, _, _ = struct.unpack("=IIIIII", data.raw[:24])
    return int(low) | int(high) << 32


def _capabilities() -> Iterator[int]:
    """Yield the numbers of all capabilities that this kernel has."""
    for number in range(64):
        if _libc.prctl(ctypes.c_int(_PR_CAPBSET_READ), ctypes.c_ulong(number), 0, 0, 0) < 0:
            return
        yield number
