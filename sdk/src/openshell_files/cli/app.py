"""The commands, and the exit status of a command line."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
from openshell_files_process.standard_streams import say

from openshell_files import DigestChoice
from openshell_files.cli import shared
from openshell_files.cli.command import Failing, with_connection
from openshell_files.cli.completing import check_completion, is_completion
from openshell_files.cli.connecting import (
    ById,
    Connecting,
    Json,
    Timeout,
    UsageMistake,
    reading_options,
)
from openshell_files.cli.directories.change_commands import mkdir, rm
from openshell_files.cli.directories.list_command import ls
from openshell_files.cli.directories.place_commands import cp, mv
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.leaving import Told, leaving
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report, ReportLostError
from openshell_files.cli.output.results_in_words import (
    file_fields,
    file_words,
    listing_words,
    upload_info_fields,
)
from openshell_files.cli.transfer import destinations
from openshell_files.cli.transfer.destinations import is_standard_output
from openshell_files.cli.transfer.download_command import download
from openshell_files.cli.transfer.upload_command import upload
from openshell_files.cli.usage import PlainCommand, PlainGroup, usage_words

app = typer.Typer(
    name="openshell-files",
    cls=PlainGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 2 wrong usage, 3 a local file, 4 not found, 5 the path is refused, 6 not "
    "permitted, 7 not authenticated, 8 a condition does not hold, 9 damaged, 10 not available, 11 exhausted, "
    "12 a time limit, 13 the other side failed, 14 unsupported, 15 done but not reported, "
    "16 sent but perhaps not published, 17 a directory without some of its entries, 129, 130 and 143 "
    "ended by a signal.",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callbacks take the value
    if wanted:
        typer.echo(f"openshell-files {version('openshell-files')}")
        raise typer.Exit


@app.callback()
def openshell_files(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, metavar="", help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Move files in and out of OpenShell sandboxes."""


app.command(cls=PlainCommand)(upload)
app.command(cls=PlainCommand)(download)
for command in (ls, mkdir, rm, mv, cp):
    app.command(cls=PlainCommand)(command)


@app.command(cls=PlainCommand)
@with_connection
def stat(
    connecting: Connecting,
    name: shared.Name,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path in the sandbox.")],
    *,
    digest: Annotated[DigestChoice | None, typer.Option(help="Compute a digest with this algorithm.")] = None,
    follow: shared.Follow = False,
    no_dereference: shared.NoDereference = False,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Describe a file, directory or link."""
    out = Report(as_json=as_json)
    with reading_options():
        path = destinations.remote_path(name, path, "stat")
        link = shared.described_link(follow=follow, no_dereference=no_dereference)
        if digest and no_dereference:
            raise ValueError("--digest: a link itself has no digest; leave --no-dereference out")
    where = connecting.where(name, path, by_id=by_id)
    with Failing(out, where), connecting.client() as client, progress_bar("", where, shown=True):
        sandbox = shared.sandbox(client, name, by_id=by_id)
        found = sandbox.stat(path, digest=digest or False, leaf_link=link, timeout=timeout)
    out.lines(file_words(found), file_fields(found))


@app.command(cls=PlainCommand)
@with_connection
def uploads(
    connecting: Connecting,
    name: shared.Name,
    *,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """List your unfinished uploads."""
    out = Report(as_json=as_json)
    with reading_options():
        destinations.remote_path(name, "/", "uploads")
    where = connecting.where(name, by_id=by_id)
    with Failing(out, where), connecting.client() as client, progress_bar("", where, shown=True):
        found = shared.sandbox(client, name, by_id=by_id).uploads(timeout=timeout)
    if not found:
        out.note(f"you have no unfinished uploads in {where.sandbox_words()}")
    out.lines([listing_words(u) for u in found], {"uploads": [upload_info_fields(u) for u in found]})


@app.command(cls=PlainCommand)
@with_connection
def abort(
    connecting: Connecting,
    name: shared.Name,
    upload_id: Annotated[str, typer.Argument(metavar="UPLOAD", help="Id from `openshell-files uploads`.")],
    *,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Abort an unfinished upload and free its bytes."""
    out = Report(as_json=as_json)
    with reading_options():
        destinations.remote_path(name, "/", "abort")
        if not upload_id:
            raise ValueError("UPLOAD: must not be empty")
    where = connecting.where(name, f"upload {upload_id}", by_id=by_id)
    unknown = "whether it was aborted is unknown; `openshell-files uploads` lists it if it was not"
    with (
        Failing(out, where, lambda _told: unknown),
        connecting.client() as client,
        progress_bar("", where, shown=True),
    ):
        state = shared.sandbox(client, name, by_id=by_id).abort_upload(upload_id, timeout=timeout)
        leaving.settle()
    out.success(f"{upload_id} is {state.state}", upload_info_fields(state))


def run(traceback_variable: str) -> int:
    """Run the command line of `sys.argv`.

    Args:
        traceback_variable: environment variable that shows the traceback of a bug.

    Returns:
        The exit status, one of `exit_codes`.
    """
    leaving.work()
    words = sys.argv[1:]
    on_stdout = "download" in words and any(map(is_standard_output, words))
    out = Report(as_json="--json" in words, content_on_stdout=on_stdout)
    try:
        check_completion(os.environ, words)
        status: Any = app(prog_name="openshell-files", standalone_mode=False)
    except UsageMistake as mistake:
        out.failure(str(mistake), ExitCode.USAGE, fix="Change the command line.")
        return ExitCode.USAGE
    except typer.TyperException as mistake:
        if not words:
            # The exception's text is the help.
            say(sys.stderr, str(mistake))
            return ExitCode.USAGE
        message, fix = usage_words(mistake, words)
        out.failure(f"{message.rstrip('.')}. {fix}", ExitCode.USAGE, fix=fix)
        return ExitCode.USAGE
    except ReportLostError as lost:
        Report(as_json=False).failure(
            f"done, but the report could not be written: {lost}; do not repeat the command",
            ExitCode.REPORT_LOST,
        )
        return ExitCode.REPORT_LOST
    except (Told, KeyboardInterrupt) as told:
        told = told if isinstance(told, Told) else Told(2)
        out.failure(f"{told.words}; nothing was changed", told.status)
        return told.status
    except SystemExit as end:
        if is_completion(os.environ):
            # The status is an answer to fish.
            return end.code if isinstance(end.code, int) else ExitCode.OK
        # typer's end where who reads the help has left; that one has read enough.
        return ExitCode.OK
    except OSError as error:
        # Output of typer itself: help, version, completion.
        out.failure(f"the text could not be written: {error.strerror or error}", ExitCode.REPORT_LOST)
        return ExitCode.REPORT_LOST
    except Exception as error:  # noqa: BLE001 - a bug is reported in one line
        if traceback_variable in os.environ:
            traceback.print_exc()
        out.failure(
            f"a bug in openshell-files ({type(error).__name__}: {error}); report it with the output of "
            f"{traceback_variable}=1",
            ExitCode.BUG,
        )
        return ExitCode.BUG
    if status == ExitCode.BUG:
        # Only typer returns this status, for a shell without completion.
        return ExitCode.USAGE
    return status if isinstance(status, int) else ExitCode.OK
