"""The paths that a confined process may use, as rules for Landlock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from openshell_supervisor_sim.confinement.landlock import (
    EVERYTHING,
    FILES,
    READ,
    READ_EXECUTE,
    USE_DEVICE,
    Right,
    Rule,
)

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

#: Files of /etc that the loader, the resolver and TLS need.
_ETC: Final = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/crypto-policies", "/etc/group", "/etc/host.conf", "/etc/hosts",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki/tls/certs", "/etc/protocols", "/etc/resolv.conf", "/etc/services",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
)  # fmt: skip


_REPLACE: Final = READ | Right.WRITE_FILE | Right.TRUNCATE | Right.MAKE_REG | Right.REMOVE_FILE


def _programs(prefixes: Iterable[str]) -> Iterator[Rule]:
    for path in (*_SYSTEM, *prefixes):
        yield Rule(path, READ_EXECUTE)
    yield from _configuration()
    for path in _DEVICES:
        yield Rule(path, USE_DEVICE)


def _configuration() -> Iterator[Rule]:
    """Yield the readable paths of /etc.

    A rule for a file applies to its inode, and `resolv.conf` is replaced when the network changes.
    So an ordinary user, for whom /etc has no secrets, may read all of it. Root may read the files
    that exist when it starts, and the directory that a link leads to.
    """
    if os.geteuid() != 0:
        yield Rule("/etc", READ)
    for path in _ETC:
        yield Rule(path, READ)
    resolver = os.path.dirname(os.path.realpath("/etc/resolv.conf"))
    if resolver.startswith("/run/"):
        yield Rule(resolver, READ)


def of_commands(root: str, prefixes: Iterable[str], *, view: bool) -> Iterator[Rule]:
    """Yield the rules of commands.

    Args:
        root: the sandbox's root as the commands see it.
        prefixes: of the interpreter.
        view: True if the root is `/` for them; then everything else is mounted for reading only.
    """
    yield Rule(root, EVERYTHING & ~(Right.MAKE_CHAR | Right.MAKE_BLOCK))
    if not view:
        yield Rule("/proc", READ)
        yield from _programs(prefixes)


def of_agent(
    *,
    root: str,
    state_dir: str,
    token_file: str | None,
    readable: Iterable[str],
) -> Iterator[Rule]:
    """Yield the rules of the supervisor, or of an agent behind a port.

    It may run no program: the exec host was started before.

    Args:
        root: the sandbox's root.
        state_dir: of the agent.
        token_file: that a renewal replaces, or None.
        readable: directories of the interpreter and of modules that are
            loaded late, and single files.
    """
    yield Rule(root, FILES)
    yield Rule(state_dir, FILES)
    if token_file is not None:
        # A link may be changed to lead to another file in the same directory.
        yield Rule(os.path.dirname(os.path.abspath(token_file)), READ)
        yield Rule(os.path.dirname(os.path.realpath(token_file)), _REPLACE)
    for path in (*_SYSTEM, *readable):
        yield Rule(path, READ)
    yield from _configuration()
    # The agent opens descriptors again through /proc, and reads the mounts from it.
    yield Rule("/proc/self", READ)
    for path in ("/dev/null", "/dev/random", "/dev/urandom"):
        yield Rule(path, Right.READ_FILE | Right.WRITE_FILE)
