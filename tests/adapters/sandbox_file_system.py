"""A file system of fsspec in a sandbox: thin, by the SDK's methods alone, without a command in the sandbox."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]
from openshell_files import DirectoryEntry, FileInfo, FileType, LeafLink, SandboxFiles
from openshell_files.errors import FileNotFound, NotADirectory

_TYPES = {FileType.REGULAR: "file", FileType.DIRECTORY: "directory", FileType.SYMLINK: "link"}


class SandboxFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of one sandbox.

    Args:
        sandbox: from `FilesClient.sandbox`.
    """

    protocol = "openshell"
    root_marker = "/"
    cachable = False

    def __init__(self, sandbox: SandboxFiles, **options: Any) -> None:
        super().__init__(**options)
        self._sandbox = sandbox

    def _path(self, path: str) -> str:
        return str(self._strip_protocol(path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001 - fsspec's signature
        path = self._path(path)
        try:
            found = [
                _described(f"{path.rstrip('/')}/{entry.name}", entry)
                for entry in self._sandbox.list_directory(path)
            ]
        except NotADirectory:
            found = [self.info(path)]
        return found if detail else [one["name"] for one in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._path(path)
        return _described(path, self._sandbox.stat(path, leaf_link=LeafLink.FOLLOW))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode == "rb":
            return self._sandbox.open(path, "rb", leaf_link=LeafLink.FOLLOW)
        if mode == "wb":
            return self._sandbox.open(path, "wb", parents=True)
        if mode == "xb":
            # The sandbox decides when the file is closed; fsspec's users expect an answer when it is opened.
            if self.exists(path):
                raise FileExistsError(path)
            return self._sandbox.open(path, "xb", parents=True)
        raise NotImplementedError(f"mode {mode!r}: a file is written whole")

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: FBT001 - the same
        self._sandbox.make_directory(self._path(path), parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001 - the same
        self._sandbox.make_directory(self._path(path), parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        path = self._path(path)
        if not self.isdir(path):
            raise NotADirectoryError(path)
        self._sandbox.remove(path)

    def rm_file(self, path: str) -> None:
        self._sandbox.remove(self._path(path))

    _rm = rm_file

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: FBT001 - the same
        if maxdepth is not None:
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for one in [path] if isinstance(path, str) else path:
            self._sandbox.remove(self._path(one), recursive=recursive)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        source, destination = self._path(path1), self._path(path2)
        if self.isdir(source):
            self.makedirs(destination, exist_ok=True)
        else:
            self._sandbox.copy(source, destination, replace=True, parents=True, leaf_link=LeafLink.FOLLOW)

    def mv_file(self, path1: str, path2: str, **_: Any) -> None:
        self._sandbox.move(self._path(path1), self._path(path2), replace=True)

    def exists(self, path: str, **_: Any) -> bool:
        try:
            self.info(path)
        except (FileNotFound, NotADirectory):
            return False
        return True

    def created(self, path: str) -> Any:
        raise NotImplementedError("the protocol does not carry the time of creation")

    def modified(self, path: str) -> Any:
        return self._sandbox.stat(self._path(path)).modified_time


def _described(path: str, entry: DirectoryEntry | FileInfo) -> dict[str, Any]:
    return {
        "name": path,
        "size": entry.size,
        "type": _TYPES.get(entry.type, "other"),
        "mode": entry.mode,
        "mtime": entry.modified_time,
        "version": entry.version,
    }
