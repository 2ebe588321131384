"""The commands `mv` and `cp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from openshell_files.cli import options, shared
from openshell_files.cli.command import Failing, Hint, with_connection
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.directories import remote_words
from openshell_files.cli.directories.entry_words import bytes_fields
from openshell_files.cli.directories.remedies import place_fix
from openshell_files.cli.directories.remote_words import RemoteWord, TimeLeft, placed, sources_and_destination
from openshell_files.cli.leaving import leaving
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.results_in_words import size_words
from openshell_files.cli.transfer import destinations
from openshell_files.cli.transfer.destinations import Copy
from openshell_files.cli.usage import Command, flag
from openshell_files.errors import FilesError
from openshell_files.options import LeafLink
from openshell_files.results import CopyResult, MoveResult

if TYPE_CHECKING:
    from openshell_files import SandboxFiles

#: Places one entry, within a number of seconds.
_Place = Callable[["SandboxFiles", Copy, float | None], MoveResult | CopyResult]


@click.command(cls=Command)
@options.name
@remote_words.places
@remote_words.no_clobber
@remote_words.parents
@options.by_id
@options.timeout
@options.quiet
@options.as_json
@with_connection
def mv(
    connecting: Connecting,
    name: str,
    words: Sequence[RemoteWord],
    *,
    no_clobber: bool,
    parents: bool,
    by_id: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Move entries inside the sandbox. A file at DEST is replaced."""

    def place(sandbox: SandboxFiles, copy: Copy, seconds: float | None) -> MoveResult:
        return sandbox.move(
            copy.source, copy.destination, replace=not no_clobber, parents=parents, timeout=seconds
        )

    _carry_out(
        connecting,
        name,
        words,
        place,
        "mv",
        "moved",
        no_clobber=no_clobber,
        by_id=by_id,
        timeout=timeout,
        quiet=quiet,
        as_json=as_json,
    )


@click.command(cls=Command)
@options.name
@remote_words.places
@flag("-r", "-R", "--recursive", help="Copy directories with their content, and links as they are.")
@remote_words.no_clobber
@remote_words.parents
@options.by_id
@options.timeout
@options.quiet
@options.as_json
@with_connection
def cp(
    connecting: Connecting,
    name: str,
    words: Sequence[RemoteWord],
    *,
    recursive: bool,
    no_clobber: bool,
    parents: bool,
    by_id: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Copy entries inside the sandbox, with mode and modification time. A file at DEST is replaced."""
    link = LeafLink.NOFOLLOW if recursive else LeafLink.FOLLOW

    def place(sandbox: SandboxFiles, copy: Copy, seconds: float | None) -> CopyResult:
        return sandbox.copy(
            copy.source,
            copy.destination,
            recursive=recursive,
            replace=not no_clobber,
            parents=parents,
            leaf_link=link,
            timeout=seconds,
        )

    _carry_out(
        connecting,
        name,
        words,
        place,
        "cp",
        "copied",
        no_clobber=no_clobber,
        by_id=by_id,
        timeout=timeout,
        quiet=quiet,
        as_json=as_json,
    )


def _carry_out(
    connecting: Connecting,
    name: str,
    words: Sequence[str],
    place: _Place,
    command: str,
    done: str,
    *,
    no_clobber: bool,
    by_id: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    out = Report(as_json=as_json, quiet=quiet)
    with reading_options():
        destinations.remote_path(name, words[0] or "/", command)
    sources, _ = sources_and_destination(words)
    where = connecting.where(name, sources[0] if len(sources) == 1 else "", by_id=by_id)
    where = replace(where, own_fix=place_fix(no_clobber=no_clobber, moves=command == "mv"))
    placed_fields: list[dict[str, object]] = []
    lines: list[str] = []
    left = TimeLeft(timeout)

    def so_far() -> str:
        return f" ({len(lines)} of {len(sources)} were {done} before)" if len(sources) > 1 else ""

    def hint(_error: FilesError) -> Hint:
        return Hint(state=so_far())

    with (
        Failing(out, where, lambda _told: f"whether it was {done} is unknown{so_far()}", hint),
        connecting.client() as client,
        progress_bar("", where, shown=True),
    ):
        sandbox = shared.sandbox(client, name, by_id=by_id)
        for copy in placed(sandbox, words, left):
            result = place(sandbox, copy, left())
            lines.append(f"{copy.source} -> {copy.destination}{_amount(result)}")
            placed_fields.append(_fields(copy, result))
        leaving.settle()
    out.success(", ".join(lines), {done: placed_fields})


def _amount(result: MoveResult | CopyResult) -> str:
    if isinstance(result, MoveResult):
        return ""
    entries = f"{result.entries} {'entry' if result.entries == 1 else 'entries'}"
    return f" ({entries}, {size_words(result.bytes)})"


def _fields(copy: Copy, result: MoveResult | CopyResult) -> dict[str, object]:
    fields: dict[str, object] = {
        **bytes_fields("source", copy.source),
        **bytes_fields("destination", copy.destination),
        "replaced": result.replaced,
    }
    if isinstance(result, CopyResult):
        fields |= {"entries": result.entries, "bytes": result.bytes, "shared_bytes": result.shared_bytes}
    return fields
