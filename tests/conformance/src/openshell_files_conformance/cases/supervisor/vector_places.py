"""The directory of a vector of trees or archives: what is in it before, and what has to be in it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openshell_files_conformance.peers.sandbox_root import Entry
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.vectors_data import value

_SECOND = 10**9


def path_of(name: str | Sequence[Mapping[str, Any]], n: int = 0) -> bytes:
    """Return the bytes of a path; `n` is how often its entry was repeated before."""
    if isinstance(name, str):
        return name.replace("{n}", str(n)).encode()
    return b"".join(
        (one.get("text", "").replace("{n}", str(n)).encode() + bytes.fromhex(one.get("hex", "")))
        * (n if one.get("times") == "n" else one.get("times", 1))
        for one in name
    )


class Place:
    """A directory `top` in an otherwise empty one, with a secret beside it."""

    def __init__(self, env: SupervisorEnv) -> None:
        self._env = env
        self.top = env.path("top")
        self._outside: dict[bytes, Entry] = {}

    async def make(self, before: Sequence[Mapping[str, Any]] | None) -> None:
        """Make what is there before; without a list there is no `top`."""
        files = self._env.files
        await files.mkdir(self._env.path("outside"))
        await files.write(self._env.path("outside/secret"), b"secret!")
        if before is not None:
            await files.mkdir(self.top)
            for there in before:
                await self._put(there)
            # Times come last: an entry changes the time of its directory.
            for there in reversed(before):
                await self._date(there)
            if all(there["path"] != "" for there in before):
                await files.touch(self.top, 10**9 * _SECOND)
        self._outside = await files.tree(self._env.path("outside"))

    def _at(self, there: Mapping[str, Any]) -> bytes:
        path = path_of(there["path"])
        return self.top.encode() + (b"/" + path if path else b"")

    async def _put(self, there: Mapping[str, Any]) -> None:
        files, at = self._env.files, self._at(there)
        mode = int(there["mode"], 8) if "mode" in there else None
        if there.get("same_as") is not None:
            await files.hard_link(at, f"{self.top}/{there['same_as']}")
            return
        match there.get("type", "file"):
            case "directory":
                await files.mkdir(at, 0o755)
                if mode is not None:
                    await files.chmod(at, mode)
            case "link":
                await files.link(at, path_of(there.get("link_target") or ""))
            case "special":
                await files.special(at, "fifo")
            case _:
                await files.write(at, value(there.get("content") or ""), mode=0o644 if mode is None else mode)

    async def _date(self, there: Mapping[str, Any]) -> None:
        seconds = there.get("modified_seconds")
        if seconds is None and there.get("type") == "directory":
            seconds = "1000000000"
        if seconds is not None:
            at = int(seconds) * _SECOND + int(there.get("modified_nanos", 0))
            await self._env.files.touch(self._at(there), at)

    async def differences(self, expected: Sequence[Mapping[str, Any]] | None) -> list[str]:
        """Return how what is below `top` differs from what has to be there."""
        if expected is None:
            return []
        files = self._env.files
        found = await files.tree(self.top)
        wanted = {path_of(there["path"]): there for there in expected}
        wrong = [f"{path!r} is there" for path in found if path not in wanted]
        top = await files.entry(self.top)
        for path, there in wanted.items():
            entry = found.get(path) if path else top
            if entry is None:
                wrong.append(f"{path!r} is not there")
                continue
            wrong += [f"{path!r}: {text}" for text in await self._unlike(path, entry, there)]
        return wrong

    async def _unlike(self, path: bytes, entry: Entry, there: Mapping[str, Any]) -> list[str]:
        files, wrong = self._env.files, list[str]()
        if entry.kind != there.get("type", "file"):
            wrong.append(f"is a {entry.kind}")
        if there.get("mode") is not None and entry.mode != int(there["mode"], 8):
            wrong.append(f"has the mode {entry.mode:o}, not {there['mode']}")
        if there.get("modified_seconds") is not None:
            at = int(there["modified_seconds"]) * _SECOND + int(there.get("modified_nanos", 0))
            if entry.modified_ns != at:
                wrong.append(f"was modified at {entry.modified_ns}, not {at}")
        if there.get("link_target") is not None and entry.target != path_of(there["link_target"]):
            wrong.append(f"leads to {entry.target!r}")
        if there.get("content") is not None:
            content = await files.read(f"{self.top}/".encode() + path)
            if content != value(there["content"]):
                wrong.append(f"has the content {(content or b'')[:32]!r}")
        if there.get("same_as") is not None:
            other = await files.entry(f"{self.top}/{there['same_as']}")
            if other is None or other.inode != entry.inode:
                wrong.append(f"is not the same file as {there['same_as']}")
        return wrong

    async def beside(self) -> list[str]:
        """Return what is beside `top` and must not be, what changed in `outside`, and staging files that are left."""
        files = self._env.files
        names = await files.tree(self._env.home)
        wrong = [f"{name!r} is there" for name in names if name.split(b"/")[0] not in {b"top", b"outside"}]
        if await files.tree(self._env.path("outside")) != self._outside:
            wrong.append("what is outside was changed")
        return wrong + [f"{name!r} is left" for name in await self._env.left()]
