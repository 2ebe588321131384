"""Results as text for people and as JSON fields for programs.

Sizes and rates count in powers of ten (kB, MB, GB). The JSON lines have the
fields of the SDK's results, `local`, and beside each `mode`, which is a
number, `mode_octal` in the form of `chmod`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, cast

from openshell_files.results import DownloadResult, FileInfo, UploadInfo, UploadResult

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size_words(size: float) -> str:
    """Return a size as in `1.5 MB`."""
    for unit in _UNITS:
        # 999.95 would be rounded to 1000.0.
        if size < 999.95 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit takes every size")


def seconds_words(seconds: float) -> str:
    """Return a duration as in `0.24 s`, `3:05` or `2:03:05`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _pace_words(moved: int, seconds: float) -> str:
    rate = f", {size_words(moved / seconds)}/s" if moved and seconds > 0 else ""
    return f" in {seconds_words(seconds)}{rate}"


def upload_fields(local: str, result: UploadResult) -> dict[str, object]:
    """Return the JSON fields of the result of an upload."""
    return {"local": local, **_with_octal(asdict(result))}


def upload_words(local: str, result: UploadResult) -> str:
    """Return the result of an upload as text."""
    if result.already_identical:
        return f"{result.path} is identical already ({result.size} bytes); nothing was sent"
    resumed = f", resumed at {result.resumed_from}" if result.resumed_from else ""
    pace = _pace_words(result.bytes_sent, result.seconds)
    return f"{local} -> {result.path} ({result.size} bytes{pace}{resumed}, {result.digest})"


def download_fields(local: str, result: DownloadResult) -> dict[str, object]:
    """Return the JSON fields of the result of a download."""
    return {"local": local, **_with_octal(asdict(result))}


def download_words(local: str, result: DownloadResult) -> str:
    """Return the result of a download as text."""
    resumed = f", resumed at {result.resumed_from}" if result.resumed_from else ""
    changed = ", changed while it was read" if result.changed else ""
    pace = _pace_words(result.bytes_received, result.seconds)
    return f"{result.path} -> {local} ({result.size} bytes{pace}{resumed}{changed}, {result.digest})"


def file_fields(file: FileInfo) -> dict[str, object]:
    """Return the JSON fields of the description of a file."""
    return _with_octal(asdict(file))


def file_words(file: FileInfo) -> list[str]:
    """Return the description of a file as text."""
    lines = [
        f"path      {file.path}",
        f"type      {file.type}",
        f"size      {file.size}",
        f"mode      {file.mode:04o}",
        f"modified  {_time_words(file)}",
        f"version   {file.version}",
    ]
    if file.link_target:
        lines.append(f"target    {file.link_target}")
    return lines if file.digest is None else [*lines, f"digest    {file.digest}"]


def _time_words(file: FileInfo) -> str:
    try:
        moment = file.modified_time
        return "-" if moment is None else moment.isoformat()
    except (ValueError, OverflowError, OSError):
        # A file system may have times outside the calendar.
        return f"{file.modified_ns} ns since 1970"


def upload_info_fields(upload: UploadInfo) -> dict[str, object]:
    """Return the JSON fields of an upload."""
    return _with_octal(asdict(upload))


def listing_words(upload: UploadInfo) -> str:
    """Return one line about an unfinished upload."""
    size = "?" if upload.size is None else str(upload.size)
    return f"{upload.upload_id}  {upload.state}  {upload.staged}/{size}  {upload.path}"


def _with_octal(fields: Mapping[str, object]) -> dict[str, object]:
    """Add `mode_octal` beside every `mode`."""
    made: dict[str, object] = {}
    for name, value in fields.items():
        made[name] = _with_octal(cast("Mapping[str, object]", value)) if isinstance(value, dict) else value
        if name == "mode" and isinstance(value, int):
            made["mode_octal"] = f"{value:04o}"
    return made
