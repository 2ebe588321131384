"""fsspec's own abstract suite on a sandbox: directories, copies, uploads and downloads as its users expect them (DIR-1)."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from adapters.sandbox_file_system import SandboxFileSystem
from dev_command import DevStack
from fsspec.tests import abstract  # type: ignore[import-untyped]
from openshell_files import FilesClient, OidcAuth


class SandboxFixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec has no types
    """The fixtures that the suite asks for."""

    @pytest.fixture
    def fs(self, stack: DevStack) -> Generator[SandboxFileSystem]:
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            yield SandboxFileSystem(client.sandbox(stack.sandboxes[0].name))

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def fs_path(self, fs: SandboxFileSystem, stack: DevStack, tmp_path: Path) -> str:
        path = posixpath.join(stack.sandboxes[0].workdir, tmp_path.name)
        fs.makedirs(path)
        return path


class TestCopy(abstract.AbstractCopyTests, SandboxFixtures):  # type: ignore[misc]
    """Copies inside the sandbox."""


class TestGet(abstract.AbstractGetTests, SandboxFixtures):  # type: ignore[misc]
    """Downloads."""


class TestPut(abstract.AbstractPutTests, SandboxFixtures):  # type: ignore[misc]
    """Uploads."""


class TestOpen(abstract.AbstractOpenTests, SandboxFixtures):  # type: ignore[misc]
    """File objects."""


class TestPipe(abstract.AbstractPipeTests, SandboxFixtures):  # type: ignore[misc]
    """Whole files."""


class TestDirectories(SandboxFixtures):
    """What the suite leaves out."""

    def test_walk_and_find(self, fs: Any, fs_path: str) -> None:
        fs.makedirs(f"{fs_path}/a/b")
        fs.pipe(f"{fs_path}/a/b/x", b"x")
        fs.pipe(f"{fs_path}/a/y", b"yy")
        assert fs.find(fs_path) == [f"{fs_path}/a/b/x", f"{fs_path}/a/y"]
        assert fs.du(fs_path) == 3
        assert fs.glob(f"{fs_path}/**/x") == [f"{fs_path}/a/b/x"]
        assert next(iter(fs.walk(fs_path))) == (fs_path, ["a"], [])

    def test_move(self, fs: Any, fs_path: str) -> None:
        fs.pipe(f"{fs_path}/x", b"x")
        fs.mv_file(f"{fs_path}/x", f"{fs_path}/y")
        assert fs.cat(f"{fs_path}/y") == b"x"
        assert not fs.exists(f"{fs_path}/x")

    def test_errors_are_those_of_files(self, fs: Any, fs_path: str) -> None:
        """DIR-1: so that code for local files handles them."""
        fs.pipe(f"{fs_path}/x", b"x")
        with pytest.raises(FileNotFoundError):
            fs.ls(f"{fs_path}/none")
        with pytest.raises(FileExistsError):
            fs.mkdir(f"{fs_path}/x")
        with pytest.raises(NotADirectoryError):
            fs.rmdir(f"{fs_path}/x")
        with pytest.raises(OSError, match="not empty"):
            fs.rmdir(fs_path)
