"""The view of commands: a mount namespace in which the sandbox's root is `/`.

The root itself is mounted at `/`, so that commands see uploaded files at once and callers can
download their output. The machine's programs and libraries (unless the root has its own), the
interpreter, some files of /etc, /proc and a small /dev are mounted into it for reading.

Mount points stay in the sandbox's root as empty directories and files. The mounts themselves are
private to this process and end with it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from openshell_supervisor_sim.confinement import kernel
from openshell_supervisor_sim.confinement.kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
)

_SYSTEM_DIRECTORIES: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")

#: A root with one of these has its own system.
_SIGNS_OF_A_SYSTEM: Final = ("bin/sh", "usr/bin/env")

#: Files of /etc that the loader, the resolver, TLS and alternatives need. None has a secret.
_ETC: Final = (
    "alternatives", "ca-certificates", "crypto-policies", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "passwd", "pki/tls/certs",
    "protocols", "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf",
)  # fmt: skip

_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_DEV_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


class MountPoints:
    """Mount points in the sandbox's root, created if they are missing.

    Earlier commands may have changed the root's content, so it is walked by descriptors without
    following links: a link is no mount point.

    Args:
        root: descriptor of the root.
    """

    def __init__(self, root: int) -> None:
        self._root = root

    def exists(self, path: str) -> bool:
        """Return whether a path exists, even as a dangling link."""
        try:
            directory = self._walk(os.path.dirname(path), make=False)
        except OSError:
            return False
        try:
            os.stat(os.path.basename(path), dir_fd=directory, follow_symlinks=False)
        except OSError:
            return False
        finally:
            os.close(directory)
        return True

    def directory(self, path: str) -> int:
        """Return a descriptor of the directory at a relative path.

        Raises:
            OSError: the path is something else, or cannot be created.
        """
        return self._walk(path, make=True)

    def file(self, path: str) -> int | None:
        """Return a descriptor of an empty file at a relative path; None if the sandbox has its own.

        Raises:
            OSError: it cannot be created.
        """
        directory = self._walk(os.path.dirname(path), make=True)
        name = os.path.basename(path)
        try:
            try:
                made = os.open(
                    name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=directory
                )
                os.close(made)
            except FileExistsError:
                pass
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            return descriptor
        os.close(descriptor)
        return None

    def _walk(self, path: str, *, make: bool) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current = os.open(".", flags, dir_fd=self._root)
        for name in path.split("/"):
            if not name:
                continue
            try:
                if make:
                    _make_directory(name, current)
                below = os.open(name, flags, dir_fd=current)
            finally:
                os.close(current)
            current = below
        return current


def _make_directory(name: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)


def prepare(root: str, prefixes: Iterable[str], hidden: Iterable[str]) -> None:
    """Create mount points while the process still has its rights; a failure shows when one is needed.

    In a user namespace, root may not write into a directory of another user.
    """
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        points = MountPoints(descriptor)
        wanted = [source for source in _sources(points, prefixes) if os.path.isdir(source)]
        for path in (*wanted, "proc", "dev", *(os.path.relpath(path, root) for path in hidden)):
            with suppress(OSError):  # reported when the mount point is needed
                os.close(points.directory(path.lstrip("/")))
        if not _has_own_system(points):
            with suppress(OSError):
                os.close(points.directory("etc"))
            for name in _ETC:
                _prepare_either(points, f"/etc/{name}")
    finally:
        os.close(descriptor)


def _prepare_either(points: MountPoints, source: str) -> None:
    path = source.lstrip("/")
    with suppress(OSError):
        if os.path.isdir(source):
            if not points.exists(path):
                os.close(points.directory(path))
        elif os.path.isfile(source):
            descriptor = points.file(path)
            if descriptor is not None:
                os.close(descriptor)


def _has_own_system(points: MountPoints) -> bool:
    return any(points.exists(path) for path in _SIGNS_OF_A_SYSTEM)


def _sources(points: MountPoints, prefixes: Iterable[str]) -> list[str]:
    """Return the directories of the machine that are mounted."""
    system = [] if _has_own_system(points) else [f"/{name}" for name in _SYSTEM_DIRECTORIES]
    return [*system, *_outside_of_system(prefixes)]


class Made(NamedTuple):
    """The view that was mounted.

    Attributes:
        lacks: sources that could not be mounted, for the log.
        covered: mount points, relative to the root. File methods refuse these directories, since
            commands do not see the sandbox's files there (PTH-8). Every mount is noted here.
    """

    lacks: list[str]
    covered: list[str]


def enter(root: str, prefixes: Iterable[str], hidden: Iterable[str]) -> Made:
    """Mount the view and enter it; the process must have its own mount and process namespaces.

    Args:
        root: the sandbox's root.
        prefixes: directories that are mounted at their own path.
        hidden: paths below the root that must be empty for commands.

    Raises:
        OSError: the view failed; the process cannot be used any more.
    """
    kernel.mount(None, "/", None, MS_REC | MS_PRIVATE)
    kernel.mount(root, root, None, MS_BIND | MS_REC)
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.mount_setattr(root, kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)
    points = MountPoints(descriptor)
    made = Made([], [])
    own_system = _has_own_system(points)
    for source in _sources(points, prefixes):
        _mount_directory(points, source, made)
    if not own_system:
        for name in _ETC:
            _mount_either(points, f"/etc/{name}", made)
    for path in hidden:
        _hide(points, os.path.relpath(path, root), made)
    _mount_proc(points, made)
    _mount_dev(points, made)
    os.fchdir(descriptor)
    os.close(descriptor)
    kernel.make_working_directory_the_root()
    return made


def _outside_of_system(prefixes: Iterable[str]) -> list[str]:
    """Return the prefixes that lie outside of the directories that are mounted anyway."""
    system = tuple(f"/{name}/" for name in _SYSTEM_DIRECTORIES)
    return [prefix for prefix in prefixes if not f"{prefix}/".startswith(system)]


def _mount_directory(points: MountPoints, source: str, made: Made) -> None:
    if not os.path.isdir(source):
        return
    try:
        descriptor = points.directory(source.lstrip("/"))
    except OSError as error:
        made.lacks.append(f"{source} ({error.strerror})")
        return
    _bind_read_only(source, descriptor)
    made.covered.append(source.lstrip("/"))


def _mount_either(points: MountPoints, source: str, made: Made) -> None:
    if os.path.isdir(source):
        if not points.exists(source.lstrip("/")) or _is_empty(points, source.lstrip("/")):
            _mount_directory(points, source, made)
        return
    if not os.path.isfile(source):
        return
    try:
        descriptor = points.file(source.lstrip("/"))
    except OSError as error:
        made.lacks.append(f"{source} ({error.strerror})")
        return
    if descriptor is not None:
        _bind_read_only(source, descriptor)
        made.covered.append(source.lstrip("/"))


def _is_empty(points: MountPoints, path: str) -> bool:
    try:
        descriptor = points.directory(path)
    except OSError:
        return False
    try:
        with os.scandir(f"/proc/self/fd/{descriptor}") as entries:
            return next(entries, None) is None
    finally:
        os.close(descriptor)


def _bind_read_only(source: str, descriptor: int) -> None:
    """Mount a directory or file at a descriptor, which is closed."""
    target = f"/proc/self/fd/{descriptor}"
    try:
        path = os.readlink(target)
        kernel.mount(os.path.realpath(source), target, None, MS_BIND | MS_REC)
    finally:
        os.close(descriptor)
    # The descriptor still refers to the covered directory, and the path to the mount. No command
    # runs here yet that could change the path; if a process outside changed it, this fails.
    kernel.mount_setattr(path, kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)


def _hide(points: MountPoints, path: str, made: Made) -> None:
    descriptor = points.directory(path)
    try:
        flags = kernel.MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        kernel.mount("tmpfs", f"/proc/self/fd/{descriptor}", "tmpfs", flags, "size=4k,mode=0555")
        made.covered.append(path)
    finally:
        os.close(descriptor)


def _mount_proc(points: MountPoints, made: Made) -> None:
    descriptor = points.directory("proc")
    try:
        target = f"/proc/self/fd/{descriptor}"
        flags = kernel.MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        kernel.mount("proc", target, "proc", flags)
        made.covered.append("proc")
    except OSError as error:
        # In a container whose own /proc is partly covered the kernel allows no new one.
        if error.errno != errno.EPERM:
            raise
        made.lacks.append("/proc (the kernel allows none here)")
    finally:
        os.close(descriptor)


def _mount_dev(points: MountPoints, made: Made) -> None:
    descriptor = points.directory("dev")
    target = f"/proc/self/fd/{descriptor}"
    path = os.readlink(target)
    kernel.mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755")
    made.covered.append("dev")
    os.close(descriptor)
    for name in _DEVICES:
        with open(f"{path}/{name}", "xb"):
            pass
        kernel.mount(f"/dev/{name}", f"{path}/{name}", None, MS_BIND)
    for name, link in _DEV_LINKS.items():
        os.symlink(link, f"{path}/{name}")
    # For semaphores and shared memory.
    os.mkdir(f"{path}/shm")
    kernel.mount("tmpfs", f"{path}/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64m,mode=1777")
    kernel.mount(None, path, None, kernel.MS_REMOUNT | MS_BIND | kernel.MS_RDONLY | MS_NOSUID | MS_NOEXEC)
