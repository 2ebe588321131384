"""The command line with its commands, and its exit status.

What a command needs is imported when it is used: `--help`, a completion and a wrong command line do not wait
for gRPC.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

import click
from openshell_files_process.standard_streams import say

from openshell_files.cli import completing
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.leaving import Told
from openshell_files.cli.mistakes import ReportLostError, UsageMistake
from openshell_files.cli.usage import Group, flag, usage_words

if TYPE_CHECKING:
    from openshell_files.cli.output.report import Report

_PROGRAM: Final = "openshell-files"
_CLI: Final = "openshell_files.cli"

#: Module of each command.
HOMES: Final = {
    "upload": f"{_CLI}.transfer.upload_command",
    "download": f"{_CLI}.transfer.download_command",
    "ls": f"{_CLI}.directories.list_command",
    "mkdir": f"{_CLI}.directories.change_commands",
    "rm": f"{_CLI}.directories.change_commands",
    "mv": f"{_CLI}.directories.place_commands",
    "cp": f"{_CLI}.directories.place_commands",
    "stat": f"{_CLI}.state_commands",
    "uploads": f"{_CLI}.state_commands",
    "abort": f"{_CLI}.state_commands",
}

#: Help of each command. It is that of its module, which `--help` does not import; a test compares them.
SUMMARIES: Final = {
    "upload": "Upload files and directories; the first failure ends the command. A directory arrives except for "
    "entries that cannot; those are listed, and the exit status is 17.",
    "download": "Download files and directories; the first failure ends the command. A directory arrives except "
    "for entries that cannot; those are listed, and the exit status is 17.",
    "ls": "List a directory, in the order of the names' bytes. Links are not followed. Names with control "
    "characters are escaped; `--json` has them as they are.",
    "mkdir": "Make directories.",
    "rm": "Remove files, links themselves, and directories. Without -r only an empty directory is removed.",
    "mv": "Move entries inside the sandbox. A file at DEST is replaced.",
    "cp": "Copy entries inside the sandbox, with mode and modification time. A file at DEST is replaced.",
    "stat": "Describe a file, directory or link.",
    "uploads": "List your unfinished uploads.",
    "abort": "Abort an unfinished upload and free its bytes.",
}


@click.command(
    cls=Group,
    name=_PROGRAM,
    homes=HOMES,
    summaries=SUMMARIES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 2 wrong usage, 3 a local file, 4 not found, 5 the path is refused, 6 not "
    "permitted, 7 not authenticated, 8 a condition does not hold, 9 damaged, 10 not available, 11 exhausted, "
    "12 a time limit, 13 the other side failed, 14 unsupported, 15 done but not reported, "
    "16 sent but perhaps not published, 17 a directory without some of its entries, 129, 130 and 143 "
    "ended by a signal.",
)
@click.version_option(package_name=_PROGRAM, message="%(prog)s %(version)s")
@flag(
    "--install-completion",
    callback=completing.install,
    is_eager=True,
    expose_value=False,
    help="Install completion for the current shell.",
)
@flag(
    "--show-completion",
    callback=completing.show,
    is_eager=True,
    expose_value=False,
    help="Show completion for the current shell, to copy it or customize the installation.",
)
def app() -> None:
    """Move files in and out of OpenShell sandboxes."""


def run(traceback_variable: str) -> int:
    """Run the command line of `sys.argv`.

    Args:
        traceback_variable: environment variable that shows the traceback of a bug.

    Returns:
        The exit status, one of `exit_codes`.
    """
    words = sys.argv[1:]
    try:
        completing.check_completion(os.environ, words)
        if completing.is_completion(os.environ):
            return completing.answer(app, _PROGRAM, os.environ)
        with app.make_context(_PROGRAM, words) as context:
            app.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except UsageMistake as mistake:
        _out(words).failure(str(mistake), ExitCode.USAGE, fix="Change the command line.")
        return ExitCode.USAGE
    except click.exceptions.NoArgsIsHelpError as mistake:
        # The exception's text is the help.
        say(sys.stderr, mistake.message)
        return ExitCode.USAGE
    except click.ClickException as mistake:
        message, fix = usage_words(mistake, words)
        _out(words).failure(f"{message.rstrip('.')}. {fix}", ExitCode.USAGE, fix=fix)
        return ExitCode.USAGE
    except ReportLostError as lost:
        _out([]).failure(
            f"done, but the report could not be written: {lost}; do not repeat the command",
            ExitCode.REPORT_LOST,
        )
        return ExitCode.REPORT_LOST
    except (Told, KeyboardInterrupt) as told:
        told = told if isinstance(told, Told) else Told(2)
        _out(words).failure(f"{told.words}; nothing was changed", told.status)
        return told.status
    except OSError as error:
        # Output of click itself: help, version, completion.
        if error.errno == errno.EPIPE:
            # Who reads the text has left, and has read enough.
            return ExitCode.OK
        _out(words).failure(f"the text could not be written: {error.strerror or error}", ExitCode.REPORT_LOST)
        return ExitCode.REPORT_LOST
    except Exception as error:  # noqa: BLE001 - a bug is reported in one line
        if traceback_variable in os.environ:
            import traceback  # noqa: PLC0415 - for this case alone

            traceback.print_exc()
        _out(words).failure(
            f"a bug in openshell-files ({type(error).__name__}: {error}); report it with the output of "
            f"{traceback_variable}=1",
            ExitCode.BUG,
        )
        return ExitCode.BUG
    return ExitCode.OK


def _out(words: list[str]) -> Report:
    """Return the report of a command line that could not be carried out."""
    from openshell_files.cli.output.report import Report  # noqa: PLC0415 - not for `--help`
    from openshell_files.cli.transfer.destinations import is_standard_output  # noqa: PLC0415 - as above

    on_stdout = "download" in words and any(map(is_standard_output, words))
    return Report(as_json="--json" in words, content_on_stdout=on_stdout)
