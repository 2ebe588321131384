"""Landlock: limits the file rights of a process and its children, even as root.

The kernel's interface grew over time: a program asks for its version, and omits the rights that
this version lacks. The numbers are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag
from typing import Final, NamedTuple

from openshell_supervisor_sim.confinement import kernel

_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

#: Newest version that this module uses.
_NEWEST_ABI: Final = 7

#: No abstract unix sockets and no signals out of the domain (version 6).
_SCOPE_ALL: Final = 0x3


class Right(IntFlag):
    """Rights on files. A ruleset handles a set of them, and denies each unless a rule allows it."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    #: Since version 2: move or link between directories.
    REFER = 1 << 13
    #: Since version 3.
    TRUNCATE = 1 << 14
    #: Since version 5.
    IOCTL_DEV = 1 << 15


_VERSION_1: Final = Right((1 << 13) - 1)
_OF_FILES: Final = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV

READ: Final = Right.READ_FILE | Right.READ_DIR
READ_EXECUTE: Final = READ | Right.EXECUTE
EVERYTHING: Final = Right((1 << 16) - 1)
#: Every right but those to run programs and to create devices.
FILES: Final = EVERYTHING & ~(Right.EXECUTE | Right.MAKE_CHAR | Right.MAKE_BLOCK | Right.IOCTL_DEV)
USE_DEVICE: Final = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV


class Rule(NamedTuple):
    """A rule: the rights that are allowed at a path and below it."""

    path: str
    rights: Right


def abi_version() -> int:
    """Return the kernel's version of the interface; 0 if it has none."""
    try:
        return kernel.syscall(
            "landlock_create_ruleset",
            _SYS_CREATE_RULESET,
            None,
            ctypes.c_size_t(0),
            ctypes.c_uint(_CREATE_RULESET_VERSION),
        )
    except OSError as error:
        # Landlock is not built in, is switched off at boot, or a system call filter forbids it.
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def handled_rights(abi: int) -> Right:
    """Return the rights of a version of the interface."""
    rights = _VERSION_1
    if abi >= 2:
        rights |= Right.REFER
    if abi >= 3:
        rights |= Right.TRUNCATE
    if abi >= 5:
        rights |= Right.IOCTL_DEV
    return rights


def restrict(rules: Iterable[Rule]) -> int:
    """Restrict this thread, and every thread and process that it starts later.

    Cannot be undone. `no_new_privs` must have been set.

    Args:
        rules: those of paths that do not exist are omitted; such paths stay forbidden.

    Returns:
        The version that was used; 0 if the kernel has no Landlock, and nothing changed.

    Raises:
        OSError: the kernel refused.
    """
    abi = min(abi_version(), _NEWEST_ABI)
    if not abi:
        return 0
    handled = handled_rights(abi)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", 0)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPE_ALL)
    ruleset = kernel.syscall(
        "landlock_create_ruleset",
        _SYS_CREATE_RULESET,
        ctypes.c_char_p(attributes),
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint(0),
    )
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
        kernel.syscall("landlock_restrict_self", _SYS_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    return abi


def _add(ruleset: int, rule: Rule, handled: Right) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    try:
        rights = rule.rights & handled
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        if rights:
            kernel.syscall(
                f"landlock_add_rule {rule.path}",
                _SYS_ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(_RULE_PATH_BENEATH),
                ctypes.c_char_p(struct.pack("=Qi", rights, descriptor)),
                ctypes.c_uint(0),
            )
    finally:
        os.close(descriptor)
