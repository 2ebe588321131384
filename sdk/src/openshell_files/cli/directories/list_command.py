"""The command `ls`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from openshell_files.cli import options, shared
from openshell_files.cli.command import Failing, with_connection
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.directories.entry_words import entry_fields, entry_of, entry_words
from openshell_files.cli.directories.remote_words import RemoteWord, is_utf8, remote_word
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.transfer import destinations
from openshell_files.cli.usage import Command, argument, flag
from openshell_files.errors import NotADirectory
from openshell_files.options import LeafLink
from openshell_files.results import DirectoryEntry

if TYPE_CHECKING:
    from openshell_files import SandboxFiles

#: Lines that are written together.
_LINES: Final = 200


@click.command(cls=Command)
@options.name
@argument("path", "[PATH]", default=".", type=remote_word, help="The path in the sandbox.")
@flag("-l", "long", help="With mode, size, modification time and target.")
@flag("-R", "--recursive", help="With the content of all directories below.")
@options.by_id
@options.timeout
@options.as_json
@with_connection
def ls(
    connecting: Connecting,
    name: str,
    path: RemoteWord,
    *,
    long: bool,
    recursive: bool,
    by_id: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """List a directory, in the order of the names' bytes.

    Links are not followed. Names with control characters are escaped; `--json` has them as they are.
    """
    out = Report(as_json=as_json)
    with reading_options():
        destinations.remote_path(name, path, "ls")
    where = connecting.where(name, path, by_id=by_id)
    unread: list[DirectoryEntry] = []
    fields: list[dict[str, object]] = []
    lines: list[str] = []
    with Failing(out, where), connecting.client() as client, ExitStack() as waiting:
        waiting.enter_context(progress_bar("", where, shown=True))
        sandbox = shared.sandbox(client, name, by_id=by_id)
        for entry in _entries(sandbox, path, recursive=recursive, timeout=timeout):
            if entry.reason:
                unread.append(entry)
            if as_json:
                fields.append(entry_fields(entry))
                continue
            lines.append(entry_words(entry, long=long))
            if len(lines) == _LINES:
                # The waiting line would be drawn over the entries on a terminal.
                waiting.close()
                out.lines(lines, {})
                lines.clear()
    if not unread:
        out.lines(lines, {"entries": fields})
        return
    if lines:
        out.lines(lines, {})
    first = unread[0]
    out.failure(
        f"{len(unread)} of the listed entries could not be read, the first is {first.name} [{first.reason}]",
        ExitCode.NOT_PERMITTED,
        more={"entries": fields},
    )
    raise click.exceptions.Exit(ExitCode.NOT_PERMITTED)


def _entries(
    sandbox: SandboxFiles, path: str, *, recursive: bool, timeout: float | None
) -> Iterator[DirectoryEntry]:
    """Yield the entries of a directory, or the file itself."""
    try:
        yield from sandbox.list_directory(path, recursive=recursive, timeout=timeout)
    except NotADirectory:
        if path.endswith("/"):
            raise
        if is_utf8(path):
            yield entry_of(path, sandbox.stat(path, leaf_link=LeafLink.NOFOLLOW, timeout=timeout))
            return
        # No other method takes such a path.
        directory, slash, name = path.rpartition("/")
        for entry in sandbox.list_directory(f"{directory}{slash}" or ".", timeout=timeout):
            if entry.name == name:
                yield replace(entry, name=path)
                return
        raise
