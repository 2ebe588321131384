"""The sandbox's files, as the suite makes and sees them beside the agent.

A target that was launched has its root on this machine (`LocalRoot`). A remote one is reached by the program of `probe_command`, which performs the same requests, one
JSON object per line (`ProbedRoot`); this module, run with the root as its argument, is such a program.

Paths are those of the sandbox: `/sandbox/a` is `ROOT/sandbox/a`. Bytes, names included, are hexadecimal in the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.peers.deep_tree import opened, remove, walk

#: Kinds of entries, as `lstat` tells them apart.
KINDS: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
#: Beginning of the names of staging files (PTH-20).
STAGING_PREFIX: Final = b".openshell-upload-"

#: The owner of what the agent's user may not touch; no user of the machine.
OTHER_USER: Final = 54322


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in the sandbox, not followed if it is a link.

    Attributes:
        kind: file, directory, link or special.
        target: of a link.
    """

    kind: str
    size: int = 0
    mode: int = 0
    modified_ns: int = 0
    inode: int = 0
    links: int = 1
    uid: int = 0
    allocated: int = 0
    target: bytes = b""


class Performs(Protocol):
    """Performs one request on the sandbox's files."""

    async def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer, or a field `error`."""
        ...


def _text(path: bytes | str) -> str:
    return (path if isinstance(path, bytes) else os.fsencode(path)).hex()


class SandboxFiles:
    """Makes and describes entries of the sandbox, wherever it is."""

    def __init__(self, performs: Performs) -> None:
        self._performs = performs

    async def _do(self, op: str, path: bytes | str, **fields: Any) -> Mapping[str, Any]:
        answer = await self._performs({"op": op, "path": _text(path), **fields})
        if "error" in answer:
            raise CannotGoOnError(f"{op} {path!r} in the sandbox: {answer['error']}")
        return answer

    async def entry(self, path: bytes | str) -> Entry | None:
        """Describe a name; None if nothing is there."""
        found = (await self._do("entry", path))["entry"]
        return None if found is None else _entry(found)

    async def exists(self, path: bytes | str) -> bool:
        """Whether something is at a path, a dangling link included."""
        return await self.entry(path) is not None

    async def read(self, path: bytes | str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        content = (await self._do("read", path))["content"]
        return None if content is None else bytes.fromhex(content)

    async def tree(self, path: bytes | str) -> dict[bytes, Entry]:
        """Describe everything below a directory, by path relative to it."""
        found = (await self._do("tree", path))["entries"]
        return {bytes.fromhex(name): _entry(entry) for name, entry in found.items()}

    async def staging(self, path: bytes | str) -> list[bytes]:
        """Return the staging files and directories below a directory, by relative path."""
        names = await self.tree(path)
        return sorted(name for name in names if name.split(b"/")[-1].startswith(STAGING_PREFIX))

    async def write(
        self, path: bytes | str, content: bytes = b"", *, mode: int = 0o644, modified_ns: int | None = None
    ) -> None:
        """Make a file, or replace its content in place."""
        await self._do("write", path, content=content.hex(), mode=mode, modified_ns=modified_ns)

    async def many(self, path: bytes | str, count: int) -> None:
        """Make a directory with so many empty files, named by five digits."""
        await self._do("many", path, count=count)

    async def count(self, path: bytes | str) -> int:
        """Count the names in a directory; 0 if it is not there."""
        return int((await self._do("count", path))["count"])

    async def mkdir(self, path: bytes | str, mode: int = 0o755) -> None:
        """Make a directory and those above it."""
        await self._do("mkdir", path, mode=mode)

    async def link(self, path: bytes | str, target: bytes | str) -> None:
        """Make a symbolic link; one that is there is replaced by one rename."""
        await self._do("link", path, target=_text(target))

    async def hard_link(self, path: bytes | str, other: bytes | str) -> None:
        """Give the file `other` another name."""
        await self._do("hard_link", path, other=_text(other))

    async def special(self, path: bytes | str, kind: str) -> bool:
        """Make a `fifo`, `socket` or `device`; False if the suite may not."""
        return bool((await self._do("special", path, kind=kind))["made"])

    async def chmod(self, path: bytes | str, mode: int) -> None:
        """Give an entry permission bits."""
        await self._do("chmod", path, mode=mode)

    async def touch(self, path: bytes | str, modified_ns: int) -> None:
        """Set the modified time of an entry, of a link itself."""
        await self._do("touch", path, modified_ns=modified_ns)

    async def keep_touching(self, path: bytes | str) -> None:
        """Change the times of a file without end, as fast as can be, until `stop_touching`."""
        await self._do("keep_touching", path)

    async def stop_touching(self, path: bytes | str) -> None:
        """Leave the file in peace."""
        await self._do("stop_touching", path)

    async def deny(self, path: bytes | str) -> None:
        """Take every permission on an entry away from the agent's user."""
        await self._do("deny", path)

    async def rename(self, path: bytes | str, other: bytes | str) -> None:
        """Give an entry another name."""
        await self._do("rename", path, other=_text(other))

    async def remove(self, path: bytes | str) -> None:
        """Remove an entry with everything below it; nothing there is fine."""
        await self._do("remove", path)


def _entry(found: Mapping[str, Any]) -> Entry:
    fields = {name: value for name, value in found.items() if name != "target"}
    return Entry(**fields, target=bytes.fromhex(found["target"]))


class LocalRoot:
    """Performs requests on a directory of this machine.

    Args:
        root: that is the sandbox's `/`.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        status = os.stat(root)
        self._owner = (status.st_uid, status.st_gid)
        self._touched: dict[bytes, threading.Event] = {}

    def give_to(self, uid: int) -> None:
        """Give everything to a user, and all that the suite makes: the agent's user, which another than planned may be."""
        if os.geteuid() == 0 and uid != self._owner[0]:
            self._owner = (uid, uid)
            for place in (self._root, *(self._root + b"/" + path for path, _, _ in walk(self._root))):
                # Mounted procfs has owners of its own.
                with contextlib.suppress(PermissionError, FileNotFoundError):
                    os.lchown(place, uid, uid)

    async def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Perform a request."""
        # In a thread: a deep tree takes seconds, and other cases go on meanwhile.
        return await asyncio.to_thread(self.perform, request)

    def perform(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Perform a request; what fails is in the answer's `error`."""
        try:
            method = getattr(self, f"_{request['op']}")
            return cast(Mapping[str, Any], method(self._place(request["path"]), request) or {})
        except (OSError, ValueError) as error:
            return {"error": str(error)}

    def _place(self, path: str) -> bytes:
        return os.path.join(self._root, bytes.fromhex(path).lstrip(b"/"))

    def _own(self, place: bytes) -> None:
        if os.geteuid() == 0:
            os.lchown(place, *self._owner)

    def _entry(self, place: bytes, _: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            status = os.lstat(place)
            target = os.readlink(place) if stat.S_ISLNK(status.st_mode) else b""
            return {"entry": _described(status, target)}
        except (FileNotFoundError, NotADirectoryError):
            return {"entry": None}

    def _read(self, place: bytes, request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        above, _, name = place[len(self._root) :].strip(b"/").rpartition(b"/")
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            opened(self._root, above) as directory,
        ):
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:
                    return {"content": file.read().hex()}
        return {"content": None}

    def _tree(self, place: bytes, _: Mapping[str, Any]) -> Mapping[str, Any]:
        # The agent works meanwhile: what vanishes is not there.
        found = {path.hex(): _described(status, target) for path, status, target in walk(place)}
        return {"entries": found}

    def _write(self, place: bytes, request: Mapping[str, Any]) -> None:
        with open(place, "wb") as file:
            file.write(bytes.fromhex(request["content"]))
        os.chmod(place, request["mode"])
        self._own(place)
        if request["modified_ns"] is not None:
            os.utime(place, ns=(request["modified_ns"], request["modified_ns"]))

    def _many(self, place: bytes, request: Mapping[str, Any]) -> None:
        os.mkdir(place)
        with opened(place, b"") as directory:
            for number in range(request["count"]):
                name = f"{number:05}"
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=directory))
                if os.geteuid() == 0:
                    os.chown(name, *self._owner, dir_fd=directory)
        self._own(place)

    def _count(self, place: bytes, _: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return {"count": len(os.listdir(place))}
        except FileNotFoundError:
            return {"count": 0}

    def _mkdir(self, place: bytes, request: Mapping[str, Any]) -> None:
        missing: list[bytes] = []
        while not os.path.isdir(place):
            missing.append(place)
            place = os.path.dirname(place)
        for one in reversed(missing):
            os.mkdir(one)
            os.chmod(one, request["mode"] if one == missing[0] else 0o755)
            self._own(one)

    def _link(self, place: bytes, request: Mapping[str, Any]) -> None:
        beside = place + b".new"
        os.symlink(bytes.fromhex(request["target"]), beside)
        self._own(beside)
        os.rename(beside, place)

    def _hard_link(self, place: bytes, request: Mapping[str, Any]) -> None:
        os.link(self._place(request["other"]), place, follow_symlinks=False)

    def _special(self, place: bytes, request: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = request["kind"]
        try:
            if kind == "fifo":
                os.mkfifo(place)
            elif kind == "device":
                # /dev/zero: reading it never ends, so an agent that opens it is noticed.
                os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
            else:
                self._listening(place)
        except PermissionError:
            return {"made": False}
        self._own(place)
        return {"made": True}

    @staticmethod
    def _listening(place: bytes) -> None:
        # The path of a socket is short, the sandbox's may be long: so it is bound by its directory's descriptor.
        directory = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{directory}/{os.fsdecode(os.path.basename(place))}")
        finally:
            os.close(directory)

    def _chmod(self, place: bytes, request: Mapping[str, Any]) -> None:
        os.chmod(place, request["mode"])

    def _touch(self, place: bytes, request: Mapping[str, Any]) -> None:
        os.utime(place, ns=(request["modified_ns"], request["modified_ns"]), follow_symlinks=False)

    def _keep_touching(self, place: bytes, _: Mapping[str, Any]) -> None:
        stop = self._touched[place] = threading.Event()

        def touch() -> None:
            turn = 0
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    turn += 1
                    os.utime(place, ns=(turn, turn))

        threading.Thread(target=touch, daemon=True).start()

    def _stop_touching(self, place: bytes, _: Mapping[str, Any]) -> None:
        self._touched.pop(place).set()

    def _deny(self, place: bytes, _: Mapping[str, Any]) -> None:
        if os.geteuid() == 0:
            os.lchown(place, OTHER_USER, OTHER_USER)
            os.chmod(place, 0o700 if os.path.isdir(place) else 0o600)
        else:
            os.chmod(place, 0)

    def _rename(self, place: bytes, request: Mapping[str, Any]) -> None:
        os.rename(place, self._place(request["other"]))

    def _remove(self, place: bytes, _: Mapping[str, Any]) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(place) and not os.path.islink(place):
                remove(place)
            else:
                os.unlink(place)


def _described(status: os.stat_result, target: bytes) -> dict[str, Any]:
    return {
        "kind": KINDS.get(stat.S_IFMT(status.st_mode), "special"),
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "modified_ns": status.st_mtime_ns,
        "inode": status.st_ino,
        "links": status.st_nlink,
        "uid": status.st_uid,
        "allocated": status.st_blocks * 512,
        "target": target.hex(),
    }


class ProbedRoot:
    """Performs requests by a program beside the sandbox, one JSON object per line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request and return its answer.

        Raises:
            CannotGoOnError: the program has ended, or answers something else.
        """
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        async with self._turn:
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
                return cast(Mapping[str, Any], json.loads(line))
            except (OSError, ValueError) as error:
                raise CannotGoOnError(f"the program of probe_command does not answer: {error}") from error


@contextlib.asynccontextmanager
async def probed(command: Sequence[str]) -> AsyncGenerator[ProbedRoot]:
    """Run the program of `probe_command` for the length of the context."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 << 20,
    )
    try:
        yield ProbedRoot(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def main() -> None:
    """Perform requests on the root that the command line names, until the input ends."""
    root = LocalRoot(Path(sys.argv[1]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(root.perform(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
