"""Entries of a listing as text for people, and as JSON fields for programs."""

from __future__ import annotations

import base64
import stat
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from openshell_files.results import DirectoryEntry, FileInfo, FileType

_TYPE_BITS: Final[Mapping[FileType, int]] = {
    FileType.REGULAR: stat.S_IFREG,
    FileType.DIRECTORY: stat.S_IFDIR,
    FileType.SYMLINK: stat.S_IFLNK,
}


def entry_words(entry: DirectoryEntry, *, long: bool) -> str:
    """Return an entry as one line: its name, or with `long` mode, size, time, name and target."""
    if not long:
        return entry.name
    target = "" if entry.link_target is None else f" -> {entry.link_target}"
    return f"{_mode_words(entry)} {entry.size:>12} {_time_words(entry):<25} {entry.name}{target}"


def _mode_words(entry: DirectoryEntry) -> str:
    if entry.type is FileType.UNKNOWN:
        return "?" * 10
    words = stat.filemode(_TYPE_BITS.get(entry.type, 0) | entry.mode)
    # FIFO, socket or device.
    return f"s{words[1:]}" if entry.type is FileType.SPECIAL else words


def _time_words(entry: DirectoryEntry) -> str:
    try:
        moment = entry.modified_time
    except (ValueError, OverflowError, OSError):
        # A file system may have times outside the calendar.
        return f"{entry.modified_ns} ns"
    return "-" if moment is None else moment.isoformat(timespec="seconds")


def entry_fields(entry: DirectoryEntry) -> dict[str, object]:
    """Return the JSON fields of an entry.

    JSON text is Unicode: a name or target that is not UTF-8 has U+FFFD there, and its bytes in
    `name_base64` or `link_target_base64`.
    """
    fields: dict[str, object] = {}
    for name, value in asdict(entry).items():
        fields[name] = value
        if name == "mode":
            fields["mode_octal"] = f"{entry.mode:04o}"
        if isinstance(value, str):
            fields |= bytes_fields(name, value)
    return fields


def bytes_fields(name: str, value: str) -> dict[str, object]:
    """Return a text that may have surrogates as JSON fields."""
    data = value.encode("utf-8", "surrogateescape")
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {
            name: data.decode("utf-8", "replace"),
            f"{name}_base64": base64.b64encode(data).decode("ascii"),
        }


def entry_of(name: str, file: FileInfo) -> DirectoryEntry:
    """Return the entry of a path that names a file itself."""
    return DirectoryEntry(
        name,
        file.type,
        file.size,
        file.mode,
        file.modified_ns,
        file.version,
        file.allocated,
        file.link_target,
    )
