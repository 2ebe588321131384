"""The commands `mkdir` and `rm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from openshell_files.cli import options, shared
from openshell_files.cli.command import Failing, Hint, with_connection
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.directories.entry_words import bytes_fields
from openshell_files.cli.directories.remedies import mkdir_fix, rm_fix
from openshell_files.cli.directories.remote_words import RemoteWord, TimeLeft, remote_paths, require_words
from openshell_files.cli.leaving import leaving
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.transfer import destinations
from openshell_files.cli.usage import Command, flag, option
from openshell_files.errors import FilesError


@click.command(cls=Command)
@options.name
@remote_paths
@flag("-p", "--parents", help="Make missing directories above, and accept a directory that exists.")
@option("-m", "--mode", help="Permission bits, octal.")
@options.by_id
@options.timeout
@options.quiet
@options.as_json
@with_connection
def mkdir(
    connecting: Connecting,
    name: str,
    paths: Sequence[RemoteWord],
    *,
    parents: bool,
    mode: str | None,
    by_id: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make directories."""
    out = Report(as_json=as_json, quiet=quiet)
    with reading_options():
        bits = shared.mode_bits(mode)
        destinations.remote_path(name, paths[0] or "/", "mkdir")
    require_words(paths, "PATH")
    where = connecting.where(name, paths[0] if len(paths) == 1 else "", by_id=by_id)
    where = replace(where, own_fix=mkdir_fix(parents=parents))
    made: list[dict[str, object]] = []
    left = TimeLeft(timeout)

    def hint(_error: FilesError) -> Hint:
        return Hint(state=_so_far(made, paths, "made"))

    with (
        Failing(out, where, lambda _told: _unknown(made, paths, "made"), hint),
        connecting.client() as client,
        progress_bar("", where, shown=True),
    ):
        sandbox = shared.sandbox(client, name, by_id=by_id)
        for path in paths:
            result = sandbox.make_directory(
                path, mode=bits, parents=parents, exist_ok=parents, timeout=left()
            )
            made.append({**bytes_fields("path", path), "created": result.created})
        leaving.settle()
    words = [
        f"{path} is there already" if not one["created"] else f"made {path}"
        for path, one in zip(paths, made, strict=True)
    ]
    out.success("\n".join(words) if len(words) == 1 else ", ".join(words), {"directories": made})


@click.command(cls=Command)
@options.name
@remote_paths
@flag("-r", "-R", "--recursive", help="Remove directories with their content.")
@flag("-f", "--force", help="Accept paths that do not exist.")
@options.by_id
@options.timeout
@options.quiet
@options.as_json
@with_connection
def rm(
    connecting: Connecting,
    name: str,
    paths: Sequence[RemoteWord],
    *,
    recursive: bool,
    force: bool,
    by_id: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Remove files, links themselves, and directories.

    Without -r only an empty directory is removed.
    """
    out = Report(as_json=as_json, quiet=quiet)
    with reading_options():
        destinations.remote_path(name, paths[0] or "/", "rm")
    require_words(paths, "PATH")
    where = connecting.where(name, paths[0] if len(paths) == 1 else "", by_id=by_id)
    where = replace(where, own_fix=rm_fix(recursive=recursive))
    removed: list[dict[str, object]] = []
    left = TimeLeft(timeout)
    entries = 0

    def hint(error: FilesError) -> Hint:
        part = int(error.metadata.get("removed_entries", "0") or 0)
        gone = f" ({entries + part} entries were removed before)" if entries + part else ""
        return Hint(state=gone)

    with (
        Failing(out, where, lambda _told: "a part may have been removed", hint),
        connecting.client() as client,
        progress_bar("", where, shown=True),
    ):
        sandbox = shared.sandbox(client, name, by_id=by_id)
        for path in paths:
            result = sandbox.remove(path, recursive=recursive, missing_ok=force, timeout=left())
            entries += result.entries
            removed.append({**bytes_fields("path", path), "entries": result.entries})
        leaving.settle()
    out.success(
        f"removed {entries} {'entry' if entries == 1 else 'entries'}",
        {"removed": removed, "entries": entries},
    )


def _so_far(done: list[dict[str, object]], paths: Sequence[str], what: str) -> str:
    return f" ({len(done)} of {len(paths)} were {what} before)" if len(paths) > 1 else ""


def _unknown(done: list[dict[str, object]], paths: Sequence[str], what: str) -> str:
    return f"whether it was {what} is unknown{_so_far(done, paths, what)}"
