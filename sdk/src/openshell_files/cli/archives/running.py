"""Runs `upload --extract` and `download --archive`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click
from openshell_files_protocol.reasons import Reason

from openshell_files.archive_results import ArchiveResult
from openshell_files.cli import shared
from openshell_files.cli.archives.words import archive_fields, archive_words, problem_lines
from openshell_files.cli.command import Failing
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.leaving import leaving
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.wording import Where
from openshell_files.cli.transfer.destinations import STANDARD_STREAM, Copy
from openshell_files.errors import FilesError, LocalFileError, LocalReason, local_file_error
from openshell_files.options import Durability
from openshell_files.results import ProgressCallback

if TYPE_CHECKING:
    from openshell_files import SandboxFiles

_UPLOAD_FIXES: Final[Mapping[str, str]] = {
    Reason.LEAF_IS_LINK.name: "Name the directory that the link leads to.",
    Reason.NOT_A_DIRECTORY.name: "Choose another DEST: a file is in the way there.",
    LocalReason.OUTCOME_UNKNOWN: "Repeat the command: what was unpacked is replaced by the same.",
}
_DOWNLOAD_FIXES: Final[Mapping[str, str]] = {
    Reason.NOT_A_DIRECTORY.name: "Leave --archive out to download a file.",
    Reason.FILE_CHANGED.name: "Repeat the command, or give --allow-changes.",
    LocalReason.MAX_BYTES_EXCEEDED: "Raise --max-bytes.",
}

_UPLOAD_MEND: Final = "Everything else was unpacked; mend what is listed, or leave it out of the archive."
_DOWNLOAD_MEND: Final = "Everything else is in the archive; mend what is listed in the sandbox."


@dataclass(frozen=True, slots=True)
class ArchiveCommand:
    """What both directions have in common.

    Attributes:
        connecting: to the gateway.
        name: the sandbox.
        by_id: `name` is an id.
        out: prints the report.
        copy: source and destination.
        timeout: seconds for the call; None for no limit.
    """

    connecting: Connecting
    name: str
    by_id: bool
    out: Report
    copy: Copy
    timeout: float | None

    def unpack(self, *, parents: bool, durability: Durability) -> None:
        """Upload and unpack an archive.

        Args:
            parents: make missing directories above DEST.
            durability: what survives a power loss.
        """
        local, destination = self.copy.source, self.copy.destination
        where = self._where(destination, _UPLOAD_FIXES, uploading=True)

        def call(sandbox: SandboxFiles, progress: ProgressCallback | None) -> ArchiveResult:
            return sandbox.upload_archive(
                sys.stdin.buffer if local == STANDARD_STREAM else local,
                destination,
                parents=parents,
                durability=durability,
                timeout=self.timeout,
                progress=progress,
            )

        result = self._run(
            call, local, where, "entries that are in place stay; the same command unpacks all of it again"
        )
        words = archive_words(local, result, f"{self.name}:{result.path}", uploading=True)
        self._report(local, result, words, _UPLOAD_MEND)

    def pack(self, *, parents: bool, allow_changes: bool, max_bytes: int | None, state: str) -> None:
        """Download a directory as an archive.

        Args:
            parents: make missing local directories.
            allow_changes: accept files that change meanwhile.
            max_bytes: of the archive.
            state: of DEST if this fails, in words.
        """
        local = self.copy.destination
        target = "" if local == STANDARD_STREAM else local
        where = self._where(self.copy.source, _DOWNLOAD_FIXES, uploading=False, target=target)

        def call(sandbox: SandboxFiles, progress: ProgressCallback | None) -> ArchiveResult:
            if parents and local != STANDARD_STREAM:
                os.makedirs(os.path.dirname(local) or ".", exist_ok=True)
            result = sandbox.download_archive(
                self.copy.source,
                sys.stdout.buffer if local == STANDARD_STREAM else local,
                allow_changes=allow_changes,
                max_bytes=max_bytes,
                timeout=self.timeout,
                progress=progress,
            )
            if local == STANDARD_STREAM:
                try:
                    sys.stdout.buffer.flush()
                except OSError as error:
                    raise local_file_error(error, "standard output", "cannot write") from error
            return result

        result = self._run(call, local, where, state)
        words = archive_words(local, result, f"{self.name}:{result.path}", uploading=False)
        self._report(local, result, words, _DOWNLOAD_MEND)

    def _where(self, path: str, fixes: Mapping[str, str], *, uploading: bool, target: str = "") -> Where:
        where = self.connecting.where(self.name, path, by_id=self.by_id, uploading=uploading, target=target)

        def own_fix(error: FilesError) -> str:
            if isinstance(error, LocalFileError) and error.errno == errno.EPIPE:
                return "The program that reads the pipe closed it early: let that program read to the end."
            return fixes.get(error.reason, "")

        return replace(where, own_fix=own_fix)

    def _run(
        self,
        call: Callable[[SandboxFiles, ProgressCallback | None], ArchiveResult],
        local: str,
        where: Where,
        state: str,
    ) -> ArchiveResult:
        label = os.path.basename(local) or local
        with (
            Failing(self.out, where, lambda _told: state),
            self.connecting.client() as client,
            progress_bar(label, where, shown=not self.out.quiet) as bar,
        ):
            result = call(shared.sandbox(client, self.name, by_id=self.by_id), bar)
            leaving.settle()
        return result

    def _report(self, local: str, result: ArchiveResult, words: str, mend: str) -> None:
        """Report the result.

        Raises:
            click.exceptions.Exit: an entry was left out.
        """
        fields = archive_fields(local, result)
        if not result.failed:
            self.out.success(words, fields)
            return
        for line in problem_lines(result):
            self.out.detail(line)
        self.out.failure(
            f"{words} [{ExitCode.PARTIAL.name}]. {mend}", ExitCode.PARTIAL, more=fields, fix=mend
        )
        raise click.exceptions.Exit(ExitCode.PARTIAL)
