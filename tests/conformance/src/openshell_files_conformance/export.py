"""The command `export`: all that an implementer needs besides the suite, as files: messages, vectors, schemas, guides."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from openshell_files_conformance.clauses import clauses
from openshell_files_conformance.config import ConfigError

#: Folder in the package, and where its files go: an import in a .proto file is relative to `proto`.
FOLDERS: Final = {
    "proto": "proto/openshell",
    "vectors": "vectors",
    "schemas": "schemas",
    "guides": "guides",
}


def export(directory: Path) -> list[Path]:
    """Write the files, and return their paths.

    Raises:
        ConfigError: there is something already.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty")
    written = list[Path]()
    package = files("openshell_files_conformance")
    for folder, place in FOLDERS.items():
        for name, source in _files(package.joinpath(folder)):
            written.append(directory / place / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_bytes(source.read_bytes())
    written.append(directory / "clauses.md")
    written[-1].write_text(
        "".join(f"- **{one.id}** ({one.level}) {one.text}\n" for one in clauses().values()), "utf-8"
    )
    return written


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _files(item, f"{prefix}{item.name}/")
        else:
            yield f"{prefix}{item.name}", item
