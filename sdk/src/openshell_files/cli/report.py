"""What the command says: one line about success, one line about failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TextIO

from openshell_files.errors import FilesError
from openshell_files.results import DownloadResult, FileInfo, UploadInfo, UploadResult

_PROGRAM = "openshell-files"


class Report:
    """Writes to standard output and error.

    Args:
        as_json: one line of JSON instead of words.
        quiet: no words about success.
        content_on_stdout: standard output carries a file, so everything else
            goes to standard error.
    """

    def __init__(self, *, as_json: bool, quiet: bool = False, content_on_stdout: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._out: TextIO = sys.stderr if content_on_stdout else sys.stdout

    def success(self, words: str, fields: Mapping[str, object]) -> None:
        """Say what was done."""
        if self.as_json:
            self._line(self._out, json.dumps({"ok": True, **fields}))
        elif not self.quiet:
            self._line(self._out, printable(words))

    def lines(self, words: list[str], fields: Mapping[str, object]) -> None:
        """Say what was found, however quiet."""
        if self.as_json:
            self._line(self._out, json.dumps({"ok": True, **fields}))
            return
        for line in words:
            self._line(self._out, printable(line))

    def note(self, words: str) -> None:
        """Say something that is no failure."""
        if not self.as_json and not self.quiet:
            self._line(sys.stderr, printable(f"{_PROGRAM}: note: {words}"))

    def failure(self, words: str, exit_code: int, error: FilesError | None = None) -> None:
        """Say what went wrong, and what to do, in one line."""
        if self.as_json:
            self._line(self._out, json.dumps({"ok": False, "error": failure_fields(words, exit_code, error)}))
        else:
            self._line(sys.stderr, printable(f"{_PROGRAM}: error: {words}"))

    @staticmethod
    def _line(stream: TextIO, text: str) -> None:
        stream.write(f"{text}\n")
        stream.flush()


def failure_fields(words: str, exit_code: int, error: FilesError | None) -> dict[str, object]:
    """Return a failure for programs."""
    fields: dict[str, object] = {"message": words, "exit_code": exit_code}
    if error is not None:
        fields |= {
            "message": error.message,
            "reason": error.reason,
            "retry": str(error.retry),
            "fix": error.fix,
            "path": error.path,
            "metadata": dict(error.metadata),
        }
        if error.upload_id:
            fields |= {"upload_id": error.upload_id, "staged": error.staged}
    return fields


def failure_words(error: FilesError, where: str) -> str:
    """Return what, where, and what to do."""
    subject = error.path or where
    what = error.message if subject and subject in error.message else f"{subject}: {error.message}"
    line = f"{what.rstrip('.')} [{error.reason}]"
    return f"{line}. {error.fix}" if error.fix else line


def upload_fields(local: str, result: UploadResult) -> dict[str, object]:
    """Return the result of an upload for programs."""
    return {"local": local, **asdict(result)}


def upload_words(local: str, result: UploadResult) -> str:
    """Return the result of an upload for people."""
    if result.already_identical:
        return f"{result.path} is identical already ({result.size} bytes); nothing was sent"
    resumed = f", resumed at {result.resumed_from}" if result.resumed_from else ""
    return f"{local} -> {result.path} ({result.size} bytes{resumed}, {_digest_words(result)})"


def download_fields(local: str, result: DownloadResult) -> dict[str, object]:
    """Return the result of a download for programs."""
    return {"local": local, **asdict(result)}


def download_words(local: str, result: DownloadResult) -> str:
    """Return the result of a download for people."""
    resumed = f", resumed at {result.resumed_from}" if result.resumed_from else ""
    changed = ", changed while it was read" if result.changed else ""
    return f"{result.path} -> {local} ({result.size} bytes{resumed}{changed}, {_digest_words(result)})"


def _digest_words(result: UploadResult | DownloadResult) -> str:
    if result.sha256 is None and result.sha256_blocks is not None:
        return f"sha256-blocks {result.sha256_blocks}"
    return f"sha256 {result.sha256}"


def file_words(file: FileInfo) -> list[str]:
    """Return the description of a file for people."""
    lines = [
        f"path      {file.path}",
        f"type      {file.type}",
        f"size      {file.size}",
        f"mode      {file.mode:04o}",
        f"modified  {file.modified_time.isoformat() if file.modified_time else '-'}",
        f"version   {file.version}",
    ]
    return lines if file.sha256 is None else [*lines, f"sha256    {file.sha256}"]


def listing_words(upload: UploadInfo) -> str:
    """Return one line about an unfinished upload."""
    size = "?" if upload.size is None else str(upload.size)
    return f"{upload.upload_id}  {upload.state}  {upload.staged}/{size}  {upload.path}"


def printable(text: str) -> str:
    r"""Return text that cannot steer a terminal: control characters become `\x1b` and the like."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text
    )
