"""The directory `top` of a vector and what is beside it: made before a case, and compared after it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tree_cases import There, path_of
from vector_cases import content_of

SECOND: Final = 1_000_000_000


def with_secret(place: Path) -> None:
    """Make the directory that nothing may touch."""
    (place / "outside").mkdir()
    (place / "outside/secret").write_bytes(b"secret!")
    os.utime(place / "outside", ns=(0, SECOND))


def remove(top: Path) -> None:
    """Remove a directory that may be thousands of directories deep."""
    subprocess.run(["rm", "-rf", str(top)], check=False)


def make(top: Path, entries: Sequence[There]) -> None:
    """Make what is there before a case."""
    top.mkdir()
    root = os.fsencode(top)
    for entry in entries:
        place = os.path.join(root, path_of(entry.path))
        if entry.same_as is not None:
            os.link(os.path.join(root, entry.same_as.encode()), place)
        elif entry.type == "directory":
            os.mkdir(place)
        elif entry.type == "link":
            os.symlink(path_of(entry.link_target or ""), place)
        else:
            Path(os.fsdecode(place)).write_bytes(content_of(entry.content or ""))
    for entry in (*reversed(entries), There(path="", type="directory")):
        place, mode, seconds = os.path.join(root, path_of(entry.path)), entry.mode, entry.modified_seconds
        if entry.type == "directory":
            mode, seconds = mode or "0755", seconds or "1000000000"
        if mode is not None:
            os.chmod(place, int(mode, 8))
        if seconds is not None:
            time = int(seconds) * SECOND + entry.modified_nanos
            os.utime(place, ns=(time, time), follow_symlinks=False)


@dataclass(frozen=True)
class Present:
    """An entry on the disk."""

    kind: str
    status: os.stat_result
    content: bytes


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


def present(name: bytes, dir_fd: int) -> Present:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    kind, content = KINDS.get(stat.S_IFMT(status.st_mode), "special"), b""
    if kind == "file":
        with open(os.open(name, os.O_RDONLY, dir_fd=dir_fd), "rb") as file:
            content = file.read()
    if kind == "link":
        content = os.readlink(name, dir_fd=dir_fd)
    return Present(kind, status, content)


def everything(directory: int, above: bytes = b"") -> Iterator[tuple[bytes, Present]]:
    """Yield what is below a directory; by descriptors, since paths may be longer than one call takes."""
    for name in map(os.fsencode, os.listdir(directory)):
        found = present(name, directory)
        yield above + name, found
        if found.kind == "directory":
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                yield from everything(fd, above + name + b"/")
            finally:
                os.close(fd)


def assert_there(place: Path, expected: Sequence[There]) -> None:
    """Compare what is below the top directory; of an entry what the vector gives."""
    fd = os.open(place / "top", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {b"": present(b".", fd), **dict(everything(fd))}
    finally:
        os.close(fd)
    wanted = {path_of(entry.path): entry for entry in expected}
    assert {path: one.kind for path, one in found.items()} == {
        b"": "directory",
        **{path: "file" if entry.same_as else entry.type for path, entry in wanted.items()},
    }
    for path, entry in wanted.items():
        one = found[path]
        if entry.content is not None:
            assert one.content == content_of(entry.content), path
        if entry.link_target is not None:
            assert one.content == path_of(entry.link_target), path
        if entry.mode is not None:
            assert f"{stat.S_IMODE(one.status.st_mode):04o}" == entry.mode, path
        if entry.modified_seconds is not None:
            time = int(entry.modified_seconds) * SECOND + entry.modified_nanos
            assert one.status.st_mtime_ns == time, path
        if entry.same_as is not None:
            assert one.status.st_ino == found[entry.same_as.encode()].status.st_ino, path


def outside(place: Path) -> list[tuple[str, object]]:
    """Return all that must not change: content, and every property but the access time."""
    looked = list[tuple[str, object]]()
    for path in (place / "outside", place / "outside/secret"):
        one = path.lstat()
        looked.append((str(path), (one.st_ino, one.st_mode, one.st_nlink, one.st_size, one.st_mtime_ns)))
    looked.append(("names", sorted(os.listdir(place / "outside"))))
    looked.append(("content", (place / "outside/secret").read_bytes()))
    looked.append(("beside", sorted({*os.listdir(place), "top"})))
    return looked
