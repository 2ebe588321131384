"""Command `openshell-files download`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click
from openshell_files_protocol.reasons import Code

from openshell_files._local.open_files import share_a_file
from openshell_files._local.special_file import is_written_into
from openshell_files._local.target_file import Shown, showing
from openshell_files.cli import options, shared
from openshell_files.cli.archives import words as archives
from openshell_files.cli.archives.running import ArchiveCommand
from openshell_files.cli.command import Failing, Hint, with_connection
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.directories.remote_words import TimeLeft
from openshell_files.cli.leaving import leaving
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.results_in_words import download_fields, download_words
from openshell_files.cli.transfer import destinations
from openshell_files.cli.transfer.destinations import STANDARD_STREAM, Copy, SourceType
from openshell_files.cli.trees import flags as tree_flags
from openshell_files.cli.trees.flags import TreeFlags
from openshell_files.cli.trees.running import TreeCommand, Trees
from openshell_files.cli.trees.sources import is_tree
from openshell_files.cli.usage import Command, Whole, argument, flag, local_files, option
from openshell_files.errors import (
    FilesError,
    IsADirectory,
    LocalFileError,
    LocalIsADirectory,
    local_file_error,
)
from openshell_files.options import DigestChoice, Durability, LeafLink, ReadOptions
from openshell_files.results import DownloadResult, Progress, ProgressCallback
from openshell_files.tree_options import Links

if TYPE_CHECKING:
    from openshell_files import SandboxFiles


@click.command(cls=Command)
@options.name
@argument(
    "src",
    "SRC... [DEST]",
    nargs=-1,
    required=True,
    shell_complete=local_files,
    help="Files or directories in the sandbox. DEST is the local file, a directory, or `-` for standard "
    "output; without it the source's name in the current directory. For a directory DEST is the "
    "directory itself, or with `/` at its end the one that gets it; DIR/. puts its content into DEST. "
    "Several sources need a directory.",
)
@flag("--parents", help="Create missing local directories.")
@option("--mode", help="Permission bits, octal. Default: those of the file, less the umask.")
@flag("--preserve-mode", help="Keep the permission bits without regard to the umask.")
@options.preserve_mtime
@option("--offset", type=Whole(0, options.MOST), default=0, help="First byte.")
@option("--length", type=Whole(0, options.MOST), help="Most bytes to read.")
@option("--tail", type=Whole(1, options.MOST), help="Number of bytes at the end of the file.")
@option("--if-version", default="", help="Only this version of the file.")
@flag("--allow-changes", help="Read on if the file changes meanwhile; for logs.")
@option("--max-bytes", type=Whole(0, options.MOST), help="Fail if the file is larger.")
@options.digest
@options.follow
@archives.archive
@tree_flags.dry_run
@tree_flags.include
@tree_flags.exclude
@tree_flags.delete
@tree_flags.checksum
@tree_flags.download_links
@tree_flags.atomic
@option(
    "--durability",
    type=options.durability_type,
    default=Durability.FSYNC.value,
    help="Of a directory: what survives a power loss.",
)
@options.by_id
@options.timeout
@options.as_json
@options.quiet
@with_connection
def download(
    connecting: Connecting,
    name: str,
    src: Sequence[str],
    *,
    parents: bool,
    mode: str | None,
    preserve_mode: bool,
    preserve_mtime: bool,
    offset: int,
    length: int | None,
    tail: int | None,
    if_version: str,
    allow_changes: bool,
    max_bytes: int | None,
    digest: DigestChoice,
    follow: bool,
    archive: bool,
    dry_run: bool,
    include: Sequence[str],
    exclude: Sequence[str],
    delete: bool,
    checksum: bool,
    links: Links,
    atomic: bool,
    durability: Durability,
    by_id: bool,
    timeout: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Download files and directories; the first failure ends the command.

    A directory arrives except for entries that cannot; those are listed, and the exit status is 17.
    """
    with reading_options():
        copies = [archives.to_pack(name, src)] if archive else destinations.downloads(name, src)
        on_stdout = any(copy.destination == STANDARD_STREAM for copy in copies)
        if on_stdout and as_json and share_a_file(sys.stdout, sys.stderr):
            raise ValueError(
                "--json: standard output and error are one file, in which the report would be content"
            )
        out = Report(as_json=as_json, quiet=quiet, content_on_stdout=on_stdout)
        bits = shared.mode_bits(mode)
        if preserve_mode and bits is not None:
            raise ValueError("give one of --mode and --preserve-mode")
        if tail is not None and (offset or length is not None):
            raise ValueError("--tail: give neither --offset nor --length with it")
        reading = ReadOptions(
            offset=offset,
            length=length,
            tail=tail,
            if_version=if_version,
            allow_changes=allow_changes,
            leaf_link=LeafLink.FOLLOW if follow else LeafLink.REFUSE,
            max_bytes=max_bytes,
            digest=digest,
        )
        flags = TreeFlags(dry_run, include, exclude, False, delete, checksum, links, atomic, durability)
        files = _Files(reading, bits, preserve_mode, preserve_mtime, parents, timeout)
        of_files = files.given()
        if archive:
            fit = {"--allow-changes", "--max-bytes"}
            archives.check_options(
                "--archive", [*(each for each in of_files if each not in fit), *flags.given(downloading=True)]
            )
        else:
            tree_flags.check_download(src, copies, flags, of_files)
    if archive:
        command = ArchiveCommand(connecting, name, by_id, out, copies[0], timeout)
        command.pack(
            parents=parents,
            allow_changes=allow_changes,
            max_bytes=max_bytes,
            state=left_behind(copies[0].destination),
        )
        return

    moved = _Moved(copies)
    several = len(copies) > 1
    trees = Trees(
        TreeCommand(
            connecting,
            name,
            by_id,
            out,
            flags,
            parents,
            uploading=False,
            several=several,
            left=TimeLeft(timeout),
        ),
        lambda: shared.so_far(moved.done, copies),
        moved.fields,
    )
    first = connecting.where(name, copies[0].source, by_id=by_id)
    with showing(moved.on_showing), Failing(out, first, moved.on_interrupt, more=moved.fields):
        for copy in trees.checked_sources(copies, files.options.leaf_link):
            target = "" if copy.destination == STANDARD_STREAM else copy.destination
            where = replace(
                connecting.where(name, copy.source, by_id=by_id, target=target), own_fix=files.fix_for(copy)
            )
            last = len(moved.done) == len(copies) - 1
            moved.begin(copy)
            result = None
            if copy.type is not SourceType.TREE:
                with (
                    Failing(out, where, moved.on_interrupt, moved.on_failure, moved.fields),
                    connecting.client() as client,
                    progress_bar(os.path.basename(copy.source), where, shown=not quiet) as bar,
                ):
                    sandbox = shared.sandbox(client, name, by_id=by_id)
                    result = files.receive(sandbox, copy, moved.watching(bar), last=last)
            if result is None:
                moved.done.append(trees.transfer(copy.as_tree(), last=last))
                continue
            moved.done.append(download_fields(copy.destination, result))
            if not several or not as_json:
                out.success(download_words(copy.destination, result), moved.done[-1])
    trees.end()
    if several and as_json:
        out.success("", {"downloaded": moved.done})


@dataclass(frozen=True, slots=True)
class _Files:
    """How the command reads and writes each file."""

    options: ReadOptions
    mode: int | None
    preserve_mode: bool
    preserve_mtime: bool
    parents: bool
    timeout: float | None

    def given(self) -> list[str]:
        """Return the given options that are for files."""
        options = self.options
        return tree_flags.options_given(
            {
                "--mode": self.mode is not None,
                "--preserve-mode": self.preserve_mode,
                "--no-preserve-mtime": not self.preserve_mtime,
                "--offset": options.offset > 0,
                "--length": options.length is not None,
                "--tail": options.tail is not None,
                "--if-version": options.if_version != "",
                "--allow-changes": options.allow_changes,
                "--max-bytes": options.max_bytes is not None,
                "--digest": options.digest != "auto",
            }
        )

    def fix_for(self, copy: Copy) -> Callable[[FilesError], str]:
        """Return the fixes for a directory that was asked for as a file."""
        given = self.given()

        def fix(error: FilesError) -> str:
            if not isinstance(error, IsADirectory):
                return ""
            if given:
                return f"{given[0]} is for files: leave it out to download the directory."
            if copy.destination == STANDARD_STREAM:
                return (
                    "`-` is for files: give a local path, or --archive to get the directory as a tar archive."
                )
            return ""

        return fix

    def receive(
        self, sandbox: SandboxFiles, copy: Copy, progress: ProgressCallback | None, *, last: bool
    ) -> DownloadResult | None:
        """Download a file.

        Args:
            sandbox: the sandbox.
            copy: source and destination.
            progress: called while content comes.
            last: the outcome of the command is known after this file.

        Returns:
            The result; None if the source is a directory, and nothing was changed.
        """
        try:
            result = self._receive(sandbox, copy, progress)
        except (IsADirectory, LocalIsADirectory) as error:
            if self.given() or not is_tree(sandbox, copy, error, self.options.leaf_link, self.timeout):
                raise
            return None
        if last:
            leaving.settle()
        return result

    def _receive(
        self, sandbox: SandboxFiles, copy: Copy, progress: ProgressCallback | None
    ) -> DownloadResult:
        if copy.destination == STANDARD_STREAM:
            result = sandbox.download(
                copy.source, sys.stdout.buffer, options=self.options, timeout=self.timeout, progress=progress
            )
            try:
                sys.stdout.buffer.flush()
            except OSError as error:
                raise local_file_error(error, "standard output", "cannot write") from error
            return result
        if self.parents:
            os.makedirs(os.path.dirname(copy.destination) or ".", exist_ok=True)
        return sandbox.download_path(
            copy.source,
            copy.destination,
            options=self.options,
            mode=self.mode,
            preserve_mode=self.preserve_mode,
            preserve_mtime=self.preserve_mtime,
            timeout=self.timeout,
            progress=progress,
        )


#: State of a local file that a failed download did not touch: its content went to a temporary file.
UNCHANGED: Final = "nothing was changed here"


class _Moved:
    """Additions to the line about a failure: the state of this download, and the downloads before it."""

    def __init__(self, copies: list[Copy]) -> None:
        self.done: list[dict[str, object]] = []
        self._copies = copies
        self._state = UNCHANGED
        self._shown: Shown | None = None
        self._received = False

    def begin(self, copy: Copy) -> None:
        """Begin another file."""
        self._shown = None
        self._received = False
        self._state = left_behind(copy.destination)

    def on_showing(self, shown: Shown) -> None:
        """Take a file that is about to be renamed."""
        self._shown = shown

    def on_interrupt(self, _told: BaseException) -> str:
        """Return the state of the local file, by the disk."""
        shown, state = self._shown, self._state
        if shown is not None and shown.is_in_place():
            state = f"{shown.path} is in place and whole"
        return f"{state}{shared.so_far(self.done, self._copies)}"

    def on_failure(self, error: FilesError) -> Hint:
        """Return the state of the local file and the downloads before.

        The state is for a download that content reached, or whose gateway is away. An error of the local file
        names it already.
        """
        so_far = shared.so_far(self.done, self._copies)
        in_place = self._shown is not None and self._shown.is_in_place()
        told = in_place or isinstance(error, LocalFileError)
        if told or not (self._received or error.code is Code.UNAVAILABLE):
            return Hint(state=so_far.strip())
        again = "" if self._state != UNCHANGED else "; the same command downloads it from the beginning"
        state = f"{self._state[0].upper()}{self._state[1:]}{again}."
        return Hint(state=f"{state}{so_far}")

    def watching(self, bar: ProgressCallback | None) -> ProgressCallback:
        """Return the callback that notes whether content came, and updates the bar."""

        def watch(progress: Progress) -> None:
            self._received = self._received or progress.transferred > 0
            if bar is not None:
                bar(progress)

        return watch

    def fields(self) -> dict[str, object]:
        return {"downloaded": self.done} if len(self._copies) > 1 else {}


def left_behind(destination: str) -> str:
    """Return the state of a destination after an interrupted download."""
    if destination == STANDARD_STREAM:
        return "the content on standard output is incomplete"
    try:
        if is_written_into(destination):
            return f"the content of {destination} is incomplete"
    except FilesError:
        # The download will refuse the destination.
        pass
    return UNCHANGED
