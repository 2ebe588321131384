"""A sandbox session of OpenAI's Agents SDK: thin, by our SDK's methods alone, without a command in the sandbox."""

from __future__ import annotations

import io
from pathlib import Path, PurePath
from typing import Literal

from agents.sandbox.manifest import Manifest
from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
from agents.sandbox.session.sandbox_session_state import SandboxSessionState
from agents.sandbox.snapshot import NoopSnapshot
from agents.sandbox.types import ExecResult, User
from openshell_files import AsyncSandboxFiles, Durability, LeafLink


class OpenShellState(SandboxSessionState):
    """The state of a session; this one keeps nothing between runs."""

    # The library tells its states apart by this literal.
    type: Literal["openshell"] = "openshell"  # pyright: ignore[reportIncompatibleVariableOverride]


class OpenShellSession(BaseSandboxSession):
    """Moves the entries of a manifest into one sandbox.

    Args:
        sandbox: from `AsyncFilesClient.sandbox`.
        manifest: with its root in the sandbox.
    """

    def __init__(self, sandbox: AsyncSandboxFiles, manifest: Manifest) -> None:
        self.state = OpenShellState(manifest=manifest, snapshot=NoopSnapshot(id="none"))
        self._sandbox = sandbox
        self._made = set[PurePath]()

    async def mkdir(
        self, path: Path | str, *, parents: bool = False, user: str | User | None = None
    ) -> None:  # fmt: skip
        _refuse(user)
        directory = self.normalize_path(path, for_write=True)
        # A LocalDir asks for the directory of each of its files.
        if directory not in self._made:
            await self._sandbox.make_directory(str(directory), mode=0o755, parents=parents, exist_ok=parents)
            self._made.add(directory)

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        _refuse(user)
        # A workspace is made anew after a loss of power; nothing waits for the disk.
        await self._sandbox.write_bytes(
            str(self.normalize_path(path, for_write=True)), data.read(), durability=Durability.RENAME
        )

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        _refuse(user)
        return io.BytesIO(await self._sandbox.read_bytes(str(self.normalize_path(path))))

    async def running(self) -> bool:
        await self._sandbox.stat(".", leaf_link=LeafLink.FOLLOW)
        return True

    async def persist_workspace(self) -> io.IOBase:
        packed = io.BytesIO()
        await self._sandbox.download_archive(self.state.manifest.root, packed)
        packed.seek(0)
        return packed

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        await self._sandbox.upload_archive(io.BytesIO(data.read()), self.state.manifest.root, parents=True)

    async def _exec_checked_nonzero(self, *command: str | Path) -> ExecResult:
        """Answer the `chmod` that follows each directory: `mkdir` gave it that mode already."""
        words = [str(word) for word in command]
        if len(words) == 3 and words[0] == "chmod":
            found = await self._sandbox.stat(words[2], leaf_link=LeafLink.FOLLOW)
            if found.mode == int(words[1], 8):
                return ExecResult(stdout=b"", stderr=b"", exit_code=0)
        return await self._exec_internal(*command)

    async def _exec_internal(
        self,
        *command: str | Path,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class's
    ) -> ExecResult:
        raise NotImplementedError(f"no command runs in the sandbox: {command}, timeout {timeout}")


def _refuse(user: str | User | None) -> None:
    if user is not None:
        raise NotImplementedError(f"user {user}: the agent writes as its own user")
