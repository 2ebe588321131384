"""Runs the transfers of directories for `upload` and `download`, and reports each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click
from openshell_files_protocol.reasons import Retry

from openshell_files.cli import shared
from openshell_files.cli.command import Failing, Hint
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.leaving import leaving
from openshell_files.cli.output.progress_bar import drawing
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.wording import Where
from openshell_files.cli.transfer.destinations import Copy, SourceType
from openshell_files.cli.trees.flags import TreeFlags
from openshell_files.cli.trees.progress import TreeLine
from openshell_files.cli.trees.remedies import tree_fix
from openshell_files.cli.trees.sources import as_tree
from openshell_files.cli.trees.words import (
    arrived_words,
    loss_words,
    plan_words,
    problem_lines,
    tree_fields,
    tree_words,
)
from openshell_files.errors import FilesError
from openshell_files.options import LeafLink
from openshell_files.tree_results import TreeProgress, TreeProgressCallback, TreeResult, tree_so_far

if TYPE_CHECKING:
    from openshell_files import SandboxFiles

#: Fix of a tree of which some entries failed.
_MEND: Final = "Mend what is listed and repeat the command, which transfers only what is missing."


@dataclass(frozen=True, slots=True)
class TreeCommand:
    """What the transfers of directories of one command line have in common.

    Attributes:
        connecting: to the gateway.
        name: the sandbox.
        by_id: `name` is an id.
        out: prints the reports.
        flags: the options for directories.
        parents: make missing directories above the destination.
        uploading: into the sandbox.
        several: there are several sources, which share one line of JSON.
        left: returns the seconds left; None for no limit.
    """

    connecting: Connecting
    name: str
    by_id: bool
    out: Report
    flags: TreeFlags
    parents: bool
    uploading: bool
    several: bool
    left: Callable[[], float | None]


class Trees:
    """Transfers directories.

    Args:
        command: the command line.
        before: returns an addition to the line about a failure: the sources before this one.
        fields: returns the JSON fields of the sources before this one.
    """

    def __init__(
        self, command: TreeCommand, before: Callable[[], str], fields: Callable[[], dict[str, object]]
    ) -> None:
        self._command = command
        self._before = before
        self._fields = fields
        self._incomplete: list[str] = []
        self._last: dict[str, object] = {}

    def checked_sources(self, copies: Sequence[Copy], link: LeafLink) -> Sequence[Copy]:
        """Return the sources; with options for directories after a look at those whose type is unknown.

        Args:
            copies: the sources.
            link: treatment of a link at the end of a source.

        Raises:
            UsageMistake: one is no directory, and the command has options for directories.
            FilesError: one does not exist, or the sandbox cannot be asked.
        """
        command = self._command
        given = command.flags.given(downloading=True)
        if not given or all(copy.type is SourceType.TREE for copy in copies):
            return copies
        with command.connecting.client() as client:
            sandbox = shared.sandbox(client, command.name, by_id=command.by_id)
            return [as_tree(sandbox, copy, link, command.left(), given[0]) for copy in copies]

    def transfer(self, copy: Copy, *, last: bool) -> dict[str, object]:
        """Transfer one directory and report it.

        Args:
            copy: source and destination.
            last: it is the last source, after whose transfer the outcome of the command is known.

        Returns:
            The JSON fields of the result.
        """
        command, out = self._command, self._command.out
        label = os.path.basename(copy.source.rstrip("/")) or copy.source
        where = self._where(copy)
        with (
            Failing(out, where, self._state, lambda error: self._hint(error, copy), self._fields),
            command.connecting.client() as client,
        ):
            with drawing(TreeLine, label, where, shown=not out.quiet) as line:
                result = self._call(shared.sandbox(client, command.name, by_id=command.by_id), copy, line)
            if last:
                leaving.settle()
        self._last = tree_fields(copy.source if command.uploading else copy.destination, result)
        self._report(copy, result)
        return self._last

    def end(self) -> None:
        """End the command with `ExitCode.PARTIAL` if an entry of a directory is not in place.

        Raises:
            click.exceptions.Exit: one is not.
        """
        if not self._incomplete:
            return
        words = self._incomplete[0]
        if self._command.several:
            words = f"{len(self._incomplete)} of the directories did not arrive completely"
        fields = self._fields() if self._command.several else self._last
        self._command.out.failure(
            f"{words} [{ExitCode.PARTIAL.name}]. {_MEND}", ExitCode.PARTIAL, more=fields, fix=_MEND
        )
        raise click.exceptions.Exit(ExitCode.PARTIAL)

    def _where(self, copy: Copy) -> Where:
        command = self._command
        path, target = (copy.destination, "") if command.uploading else (copy.source, copy.destination)
        where = command.connecting.where(
            command.name, path, by_id=command.by_id, uploading=command.uploading, target=target
        )
        return replace(where, own_fix=tree_fix(atomic=command.flags.atomic, uploading=command.uploading))

    def _call(self, sandbox: SandboxFiles, copy: Copy, line: TreeLine | None) -> TreeResult:
        command = self._command
        with leaving.importing():
            # The call would import it.
            import_module("openshell_files._sync.trees.transfers")
        call = sandbox.upload_tree if command.uploading else sandbox.download_tree
        return call(
            copy.source,
            copy.destination,
            options=command.flags.options(parents=command.parents),
            timeout=command.left(),
            progress=None if line is None else _watching(line),
        )

    def _report(self, copy: Copy, result: TreeResult) -> None:
        command, out = self._command, self._command.out
        place = f"{command.name}:{result.path}" if command.uploading else copy.destination
        words = tree_words(result, place, uploading=command.uploading)
        if result.dry_run and not out.as_json:
            out.lines(plan_words(result, copy, command.flags.rules(), uploading=command.uploading), {})
        if lost := loss_words(result, copy):
            out.note(lost)
        if not result.complete:
            self._list_problems(copy, result)
            self._incomplete.append(words)
            if command.several:
                out.detail(words)
        elif not command.several or not out.as_json:
            out.success(words, self._last)

    def _list_problems(self, copy: Copy, result: TreeResult) -> None:
        for words in problem_lines(result, copy):
            self._command.out.detail(words)

    def _state(self, told: BaseException) -> str:
        flags = self._command.flags
        again = not isinstance(told, FilesError) or told.retry is not Retry.NEVER
        state = arrived_words(tree_so_far(told), dry_run=flags.dry_run, atomic=flags.atomic, again=again)
        return f"{state}{self._before()}"

    def _hint(self, error: FilesError, copy: Copy) -> Hint:
        """List the problems so far, and return what arrived."""
        so_far = tree_so_far(error)
        if so_far is None:
            return Hint(state=self._before().strip())
        self._list_problems(copy, so_far)
        state = self._state(error)
        return Hint(state=f"{state[0].upper()}{state[1:]}")


def _watching(line: TreeLine) -> TreeProgressCallback:
    def watch(progress: TreeProgress) -> None:
        line.update_tree(progress, time.monotonic())

    return watch
