"""Command `openshell-files upload`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click

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
from openshell_files.cli.output.results_in_words import upload_fields, upload_words
from openshell_files.cli.transfer import destinations
from openshell_files.cli.transfer.destinations import STANDARD_STREAM, Copy, SourceType
from openshell_files.cli.transfer.resume_store import ResumeStore
from openshell_files.cli.transfer.upload_memory import UploadMemory
from openshell_files.cli.trees import flags as tree_flags
from openshell_files.cli.trees.flags import TreeFlags
from openshell_files.cli.trees.running import TreeCommand, Trees
from openshell_files.cli.usage import Command, argument, flag, local_files, option
from openshell_files.errors import FilesError, UnfinishedUpload
from openshell_files.options import Condition, DigestChoice, Durability, LeafLink, WriteOptions
from openshell_files.results import ProgressCallback, UploadResult
from openshell_files.tree_options import Links

if TYPE_CHECKING:
    from openshell_files import SandboxFiles


@click.command(cls=Command)
@options.name
@argument(
    "local",
    "LOCAL... [DEST]",
    nargs=-1,
    required=True,
    shell_complete=local_files,
    help="Files or directories, or `-` for standard input. DEST is the file in the sandbox or, ending "
    "with `/`, the directory; without it the file's name in the working directory. A directory is put "
    "into DEST under its name, and DIR/. puts its content into DEST. Several sources need a directory.",
)
@option("--to", metavar="DEST", help="DEST as an option; every word is then a LOCAL.")
@flag("--parents", help="Create missing directories.")
@options.mode
@options.preserve_mtime
@flag("--if-absent", help="Only if DEST does not exist.")
@flag("--if-present", help="Only if DEST exists.")
@option("--if-match-version", help="Only if DEST has this version.")
@option("--if-match-digest", help="Only if DEST has this digest.")
@options.follow
@flag("--replace-link", help="Replace a symbolic link.")
@flag("--keep-read-only", help="Refuse to replace a read-only file.")
@option(
    "--durability",
    type=options.durability_type,
    default=Durability.FSYNC.value,
    help="What survives a power loss.",
)
@flag("--skip-identical", help="Send nothing if DEST has the same content.")
@options.digest
@flag("--resume", help="Resume the last unfinished upload of this file.")
@option("--upload-id", help="Resume this unfinished upload.")
@archives.extract
@tree_flags.dry_run
@tree_flags.include
@tree_flags.exclude
@tree_flags.gitignore
@tree_flags.delete
@tree_flags.checksum
@tree_flags.upload_links
@tree_flags.atomic
@options.by_id
@options.timeout
@options.as_json
@options.quiet
@with_connection
def upload(
    connecting: Connecting,
    name: str,
    local: Sequence[str],
    *,
    to: str | None,
    parents: bool,
    mode: str | None,
    preserve_mtime: bool,
    if_absent: bool,
    if_present: bool,
    if_match_version: str | None,
    if_match_digest: str | None,
    follow: bool,
    replace_link: bool,
    keep_read_only: bool,
    durability: Durability,
    skip_identical: bool,
    digest: DigestChoice,
    resume: bool,
    upload_id: str | None,
    extract: bool,
    dry_run: bool,
    include: Sequence[str],
    exclude: Sequence[str],
    gitignore: bool,
    delete: bool,
    checksum: bool,
    links: Links,
    atomic: bool,
    by_id: bool,
    timeout: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Upload files and directories; the first failure ends the command.

    A directory arrives except for entries that cannot; those are listed, and the exit status is 17.
    """
    out = Report(as_json=as_json, quiet=quiet)
    with reading_options():
        copies = [archives.to_unpack(name, local, to)] if extract else destinations.uploads(name, local, to)
        _check_upload_id(upload_id, copies)
        writing = WriteOptions(
            mode=shared.mode_bits(mode),
            parents=parents,
            leaf_link=_leaf_link(follow=follow, replace_link=replace_link),
            condition=_condition(
                absent=if_absent, present=if_present, version=if_match_version, digest=if_match_digest
            ),
            durability=durability,
            keep_read_only=keep_read_only,
            skip_identical=skip_identical,
            digest=digest,
        )
        flags = TreeFlags(dry_run, include, exclude, gitignore, delete, checksum, links, atomic, durability)
        of_files = tree_flags.options_given(
            {
                "--mode": mode is not None,
                "--no-preserve-mtime": not preserve_mtime,
                "--if-absent": if_absent,
                "--if-present": if_present,
                "--if-match-version": if_match_version is not None,
                "--if-match-digest": if_match_digest is not None,
                "--follow": follow,
                "--replace-link": replace_link,
                "--keep-read-only": keep_read_only,
                "--skip-identical": skip_identical,
                "--digest": digest != "auto",
                "--resume": resume,
                "--upload-id": upload_id is not None,
            }
        )
        if extract:
            archives.check_options("--extract", [*of_files, *flags.given()])
        else:
            tree_flags.check_upload(copies, flags, of_files)
    if extract:
        command = ArchiveCommand(connecting, name, by_id, out, copies[0], timeout)
        command.unpack(parents=parents, durability=durability)
        return

    def send(
        sandbox: SandboxFiles, copy: Copy, memory: UploadMemory, progress: ProgressCallback
    ) -> UploadResult:
        if copy.source == STANDARD_STREAM:
            result = sandbox.upload(
                sys.stdin.buffer,
                copy.destination,
                options=replace(writing, skip_identical=False),
                upload_id=memory.upload_id,
                timeout=timeout,
                progress=progress,
            )
        else:
            result = sandbox.upload_path(
                copy.source,
                copy.destination,
                options=writing,
                preserve_mtime=preserve_mtime,
                upload_id=memory.upload_id,
                timeout=timeout,
                progress=progress,
            )
        if copy is copies[-1]:
            leaving.settle()
        memory.published()
        return result

    words = _Words(copies)
    several = len(copies) > 1
    trees = Trees(
        TreeCommand(
            connecting,
            name,
            by_id,
            out,
            flags,
            parents,
            uploading=True,
            several=several,
            left=TimeLeft(timeout),
        ),
        lambda: shared.so_far(words.done, copies),
        words.fields,
    )
    first = connecting.where(name, copies[0].destination, by_id=by_id, uploading=True)
    with Failing(out, first, words.on_interrupt, words.on_failure, words.fields, words.left):
        for copy in copies:
            where = connecting.where(name, copy.destination, by_id=by_id, uploading=True)
            words.begin(None)
            if copy.type is SourceType.TREE:
                words.done.append(trees.transfer(copy, last=copy is copies[-1]))
                continue
            store = None
            if copy.source != STANDARD_STREAM:
                store = ResumeStore(
                    connecting.endpoint, connecting.workspace, name, copy.destination, copy.source
                )
            memory = UploadMemory(store, out, upload_id or "", resume=resume)
            words.begin(memory)
            with (
                closing(memory),
                Failing(out, where, words.on_interrupt, words.on_failure, words.fields, words.left),
                connecting.client() as client,
                progress_bar(os.path.basename(copy.source) or copy.source, where, shown=not quiet) as bar,
            ):
                sandbox = shared.sandbox(client, name, by_id=by_id)
                memory.begin(sandbox, timeout)
                result = send(sandbox, copy, memory, memory.watching(bar))
                memory.finished(sandbox, result)
            words.done.append(upload_fields(copy.source, result))
            if not several or not as_json:
                out.success(upload_words(copy.source, result), words.done[-1])
    trees.end()
    if several and as_json:
        out.success("", {"uploaded": words.done})


class _Words:
    """Additions to the line about a failure: the state of this upload, and the uploads before it."""

    def __init__(self, copies: list[Copy]) -> None:
        self.done: list[dict[str, object]] = []
        self._memory: UploadMemory | None = None
        self._copies = copies

    def begin(self, memory: UploadMemory | None) -> None:
        """Begin another file."""
        self._memory = memory

    def on_interrupt(self, told: BaseException) -> str:
        state = "nothing was published" if self._memory is None else self._memory.on_interrupt(told)
        return f"{state}{shared.so_far(self.done, self._copies)}"

    def left(self, told: BaseException) -> UnfinishedUpload | None:
        return None if self._memory is None else self._memory.left(told)

    def on_failure(self, error: FilesError) -> Hint:
        hint = shared.form_hint(error, self._copies[-1].destination)
        known = Hint() if self._memory is None else self._memory.on_failure(error)
        return Hint(f"{known.fix}{hint}".strip(), shared.so_far(self.done, self._copies).strip())

    def fields(self) -> dict[str, object]:
        return {"uploaded": self.done} if len(self._copies) > 1 else {}


def _check_upload_id(upload_id: str | None, copies: Sequence[Copy]) -> None:
    if upload_id == "":
        # A script whose variable is empty does not mean a new upload.
        raise ValueError("--upload-id: give the id of an upload, or leave the option out")
    if upload_id and len(copies) > 1:
        raise ValueError("--upload-id: give one LOCAL")


def _leaf_link(*, follow: bool, replace_link: bool) -> LeafLink:
    if follow and replace_link:
        raise ValueError("give one of --follow and --replace-link")
    return LeafLink.FOLLOW if follow else LeafLink.REPLACE if replace_link else LeafLink.REFUSE


def _condition(*, absent: bool, present: bool, version: str | None, digest: str | None) -> Condition | None:
    if absent + present + (version is not None) + (digest is not None) > 1:
        raise ValueError("give one of --if-absent, --if-present, --if-match-version, --if-match-digest")
    if absent:
        return Condition.absent()
    if present:
        return Condition.present()
    if version is not None:
        if not version:
            raise ValueError("--if-match-version: must not be empty")
        return Condition.version(version)
    if digest is None:
        return None
    try:
        return Condition.digest(digest)
    except ValueError:
        raise ValueError(
            f"--if-match-digest: must be blake3: or sha256: and 64 hexadecimal digits, and is {digest!a}"
        ) from None
