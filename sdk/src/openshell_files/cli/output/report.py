"""Reports of the command: one line about success, one line about failure.

If a report cannot be written, a failure keeps its exit status, and a success
gets the status `ExitCode.REPORT_LOST`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from openshell_files_process.standard_streams import say
from openshell_files_protocol.reasons import Retry

from openshell_files._local.open_files import share_a_file
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.mistakes import ReportLostError
from openshell_files.errors import FilesError, UnfinishedUpload

_PROGRAM = "openshell-files"


class Report:
    """Writes to standard output and error.

    Args:
        as_json: print one line of JSON instead of text.
        quiet: print no text about success.
        content_on_stdout: standard output carries a file, so reports go to
            standard error.
    """

    def __init__(self, *, as_json: bool, quiet: bool = False, content_on_stdout: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._beside_content = content_on_stdout
        self._out: TextIO = sys.stderr if content_on_stdout else sys.stdout

    def success(self, words: str, fields: Mapping[str, object]) -> None:
        """Report success.

        Raises:
            ReportLostError: the report cannot be written.
        """
        if self.as_json:
            self._must(json.dumps({"ok": True, **fields}))
        elif not self.quiet:
            if self._beside_content:
                # The words are for people. In the file of the content they would be content.
                if not share_a_file(sys.stdout, sys.stderr):
                    say(self._out, printable(words))
            else:
                self._must(printable(words))

    def lines(self, words: Sequence[str], fields: Mapping[str, object]) -> None:
        """Print results, even if quiet.

        Raises:
            ReportLostError: they cannot be written.
        """
        if self.as_json:
            self._must(json.dumps({"ok": True, **fields}))
        elif words:
            self._must("\n".join(printable(line) for line in words))

    def note(self, words: str) -> None:
        """Print a note that is no failure."""
        if not self.as_json and not self.quiet:
            say(sys.stderr, printable(f"{_PROGRAM}: note: {words}"))

    def detail(self, words: str) -> None:
        """Print one of several lines about a failure, before that of the failure itself; JSON has them as fields."""
        if not self.as_json:
            say(sys.stderr, printable(f"{_PROGRAM}: {words}"))

    def failure(
        self,
        words: str,
        exit_code: int,
        error: FilesError | None = None,
        more: Mapping[str, object] | None = None,
        fix: str = "",
        left: UnfinishedUpload | None = None,
    ) -> None:
        """Report a failure and its fix in one line.

        Args:
            words: the line.
            exit_code: exit status of the command.
            error: error of the SDK.
            more: further fields of the JSON line.
            fix: instruction that mends the error; its own field in the JSON line.
            left: the upload that the command left in the sandbox.
        """
        if self.as_json:
            failed = failure_fields(words, exit_code, error, fix)
            if left is not None:
                failed |= {"upload_id": left.upload_id, "staged": left.staged}
            fields = {"ok": False, "error": failed, **(more or {})}
            if say(self._out, json.dumps(fields)) is None:
                return
        # If the line of JSON cannot be written, print text to standard error.
        say(sys.stderr, printable(f"{_PROGRAM}: error: {words}"))

    def _must(self, line: str) -> None:
        lost = say(self._out, line)
        if lost is not None:
            raise ReportLostError(lost.strerror or str(lost))


def failure_fields(words: str, exit_code: int, error: FilesError | None, fix: str) -> dict[str, object]:
    """Return the JSON fields of a failure."""
    fields: dict[str, object] = {
        "message": words,
        "exit_code": exit_code,
        "reason": ExitCode(exit_code).name,
        "retry": str(Retry.NEVER),
        "fix": fix,
    }
    if error is not None:
        fields |= {
            "message": error.message,
            "reason": error.reason,
            "retry": str(error.retry),
            "fix": fix or error.fix,
            "path": error.path,
            "metadata": dict(error.metadata),
        }
        if error.upload_id:
            fields |= {"upload_id": error.upload_id, "staged": error.staged}
    return fields


def printable(text: str) -> str:
    r"""Return text with control characters escaped, such as `\x1b`, so that it cannot control a terminal."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text
    )
