"""What is in a directory, by path and without the code under test; and a generated tree of entries of every kind."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """An entry on the disk.

    Attributes:
        kind: "file", "directory", "link" or "special".
        mode: permission bits; 0 of a link, which has none.
        modified: nanoseconds since 1970.
        content: SHA-256 of a file, target of a link.
        same_as: first path, in the order of bytes, of a file that has several names.
    """

    kind: str
    mode: int
    modified: int
    content: bytes = b""
    same_as: bytes = b""


def manifest(top: Path) -> Mapping[bytes, Found]:
    """Return every entry below a directory by its relative path; the directory itself is the empty path."""
    root = os.fsencode(top)
    first = dict[tuple[int, int], bytes]()
    found = {b"": _found(root, os.lstat(root), b"", {})}
    # Sorted, so that the first name of a file is the same one in every copy.
    for path in sorted(_paths(root)):
        found[path] = _found(os.path.join(root, path), os.lstat(os.path.join(root, path)), path, first)
    return found


def _paths(root: bytes) -> Iterator[bytes]:
    pending = [b""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(root, directory)) as entries:
            for entry in entries:
                path = os.path.join(directory, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                yield path


def _found(place: bytes, status: os.stat_result, path: bytes, first: dict[tuple[int, int], bytes]) -> Found:
    mode, time = stat.S_IMODE(status.st_mode), status.st_mtime_ns
    if stat.S_ISDIR(status.st_mode):
        return Found("directory", mode, time)
    if stat.S_ISLNK(status.st_mode):
        return Found("link", 0, time, os.readlink(place))
    if not stat.S_ISREG(status.st_mode):
        return Found("special", mode, time)
    same = b"" if status.st_nlink == 1 else first.setdefault((status.st_dev, status.st_ino), path)
    with open(place, "rb") as file:
        return Found("file", mode, time, hashlib.file_digest(file, "sha256").digest(), same)


def differences(first: Mapping[bytes, Found], second: Mapping[bytes, Found]) -> list[str]:
    """Return what differs between two directories, in words."""
    return [
        f"{path!r}: {first.get(path)} and {second.get(path)}"
        for path in sorted({*first, *second})
        if first.get(path) != second.get(path)
    ]


@dataclass(frozen=True)
class Generated:
    """A tree of entries of every kind.

    Attributes:
        top: the tree.
        special: paths that cannot be carried.
        special_bits: paths whose set-id and sticky bits are not carried.
    """

    top: Path
    special: frozenset[bytes]
    special_bits: frozenset[bytes]

    def expected(self) -> Mapping[bytes, Found]:
        """Return what arrives of it."""
        return {
            path: Found(found.kind, found.mode & 0o777, found.modified, found.content, found.same_as)
            for path, found in manifest(self.top).items()
            if path not in self.special
        }


_SIZES: Final = (0, 1, 100, 1000, 4095, 4096, 10_000)
_MODES: Final = (0o644, 0o444, 0o755, 0o600, 0o777, 0o640)
_TIMES: Final = (0, 1, -1, -5 * SECOND + 7, 1_234_567_890_123_456_789, 4_000_000_000 * SECOND + 999_999_999)


def generate(top: Path, count: int, seed: int = 1) -> Generated:
    """Make a tree like a kernel's sources, with entries of every other kind among them.

    Args:
        top: the directory to make.
        count: entries, about.
        seed: of everything that is chosen.
    """
    chance = random.Random(seed)
    root = os.fsencode(top)
    os.mkdir(root)
    directories, files, special, bits = [b""], list[bytes](), set[bytes](), set[bytes]()
    for number in range(count):
        parent = chance.choice(directories[-40:] if chance.random() < 0.7 else directories)
        path = os.path.join(parent, _name(chance, number))
        place = os.path.join(root, path)
        kind = chance.random()
        if kind < 0.07:
            os.mkdir(place)
            directories.append(path)
        elif kind < 0.11:
            os.symlink(chance.choice([b"nothing", b"/etc/passwd", b"../" * 5, b"\xff\n", *files[-1:]]), place)
            os.utime(place, ns=(0, chance.choice(_TIMES)), follow_symlinks=False)
        elif kind < 0.13 and files:
            os.link(os.path.join(root, chance.choice(files)), place)
        elif kind < 0.135:
            _special(place)
            special.add(path)
        else:
            _file(chance, place)
            if chance.random() < 0.005:
                os.chmod(place, 0o4755)
                bits.add(path)
            else:
                files.append(path)
    _finish(chance, root, directories, bits)
    return Generated(top, frozenset(special), frozenset(bits))


def _name(chance: random.Random, number: int) -> bytes:
    kind = chance.random()
    unique = str(number).encode()
    if kind < 0.02:
        return b"\xff\xfe-" + unique
    if kind < 0.03:
        return unique + b"n" * (255 - len(unique))
    if kind < 0.04:
        return b" -\n*'\"\\" + unique
    return "ä".encode() * (kind < 0.06) + b"file" + unique + b".c"


def _file(chance: random.Random, place: bytes) -> None:
    with open(place, "wb") as file:
        size = 1_100_000 if chance.random() < 0.002 else chance.choice(_SIZES)
        file.write(chance.randbytes(size))
        if chance.random() < 0.01:
            file.seek(1 << 20, os.SEEK_CUR)
            file.write(b"after a hole")
            file.truncate(file.tell() + (1 << 20))
    os.chmod(place, chance.choice(_MODES))
    os.utime(place, ns=(0, chance.choice(_TIMES) + chance.randrange(1000)))


def _special(place: bytes) -> None:
    if len(place) % 2:
        os.mkfifo(place)
        return
    with socket.socket(socket.AF_UNIX) as made:
        # A socket's name has at most 107 bytes, so it is made from where it is.
        here = os.open(".", os.O_PATH | os.O_DIRECTORY)
        try:
            os.chdir(os.path.dirname(place))
            name = os.path.basename(place)
            if len(name) > 100:
                os.mkfifo(name)
            else:
                made.bind(name)
        finally:
            os.fchdir(here)
            os.close(here)


def _finish(chance: random.Random, root: bytes, directories: list[bytes], bits: set[bytes]) -> None:
    """Give directories modes and times, those below first."""
    for path in reversed(directories):
        place = os.path.join(root, path)
        mode = chance.choice((0o755, 0o700, 0o555, 0o750))
        if path and chance.random() < 0.02:
            mode |= stat.S_ISVTX
            bits.add(path)
        os.chmod(place, mode)
        os.utime(place, ns=(0, chance.choice(_TIMES)))
