"""Shared by all commands: the connection options, and the conversion of errors to a line and an exit status."""

from __future__ import annotations

import functools
import gc
import math
import signal
from collections.abc import Callable
from dataclasses import fields
from types import TracebackType
from typing import Any, Concatenate, Final, NamedTuple, NoReturn, ParamSpec, cast

import click

from openshell_files._core.resources import lacks_resources
from openshell_files._values import LONGEST_SECONDS
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.exit_codes import ExitCode, exit_code
from openshell_files.cli.leaving import Told, leaving, no_resources_words
from openshell_files.cli.mistakes import UsageMistake
from openshell_files.cli.options import CONNECTION
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.text import as_unicode
from openshell_files.cli.output.wording import Where, failure_words, fix_of
from openshell_files.errors import FilesError, UnfinishedUpload, local_file_error, unfinished_upload

_P = ParamSpec("_P")

#: Parameters that are no options.
ARGUMENTS: Final = frozenset({"name", "path"})


def with_connection(command: Callable[Concatenate[Connecting, _P], None]) -> Callable[..., None]:
    """Add the connection options to a command.

    What the client needs is imported before the command begins to work: a signal would raise its exception
    inside an import, where libraries swallow it.
    """

    @functools.wraps(command)
    @click.pass_context
    def run(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 - click has checked the values
        values = {name: checked(name, value) for name, value in values.items()}
        given = {field.name: values.pop(field.name) for field in fields(Connecting) if field.name in values}
        connecting = Connecting(
            **given, variables=frozenset(name for name in given if _is_variable(context, name))
        )
        connecting.import_client()
        if not gc.isenabled():
            # See `process.main`.
            gc.freeze()
            gc.enable()
        leaving.work()
        # The values of click fit the parameters of the command, which no type checker can follow.
        cast("Callable[..., None]", command)(connecting, **values)

    decorated: Callable[..., None] = run
    for option in reversed(CONNECTION):
        decorated = option(decorated)
    return decorated


def _is_variable(context: click.Context, name: str) -> bool:
    """Return whether an option's value comes from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def checked(name: str, value: object) -> object:
    """Return a value that a message can carry.

    Args:
        name: the parameter's name.
        value: from click. A local path may have any bytes, so the paths of an
            upload are checked later.

    Raises:
        UsageMistake: text that is not Unicode, or a number that is not finite
            or too large.
    """
    if isinstance(value, str) and type(value) is str:
        text = as_unicode(value)
        if text is None:
            raise UsageMistake(f"{option_name(name)}: the value is not valid UTF-8")
        return text
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageMistake(f"{option_name(name)}: must be a finite number of seconds, and is {value}")
    if isinstance(value, float) and value > LONGEST_SECONDS:
        raise UsageMistake(
            f"{option_name(name)}: must be at most {LONGEST_SECONDS:.0f} seconds, a century, and is {value:g}"
        )
    return value


def option_name(name: str) -> str:
    """Return a parameter's name on the command line."""
    return name.upper() if name in ARGUMENTS else f"--{name.replace('_', '-')}"


class Hint(NamedTuple):
    """Addition of a command to the line about a failure.

    Attributes:
        fix: further instruction that mends the error.
        state: files moved before the failure.
    """

    fix: str = ""
    state: str = ""


class Failing:
    """Converts an error or a signal in its block to one line and an exit status.

    Args:
        out: prints the line.
        where: subject of the command.
        on_interrupt: returns the state after an interruption, in words.
        on_failure: gets the error, returns an addition to the line.
        more: further fields of the JSON line.
        left: returns the upload that a later command can resume.
    """

    def __init__(
        self,
        out: Report,
        where: Where,
        on_interrupt: Callable[[BaseException], str] = lambda _told: "nothing was changed",
        on_failure: Callable[[FilesError], Hint] | None = None,
        more: Callable[[], dict[str, object]] = dict,
        left: Callable[[BaseException], UnfinishedUpload | None] = unfinished_upload,
    ) -> None:
        self._out = out
        self._where = where
        self._on_interrupt = on_interrupt
        self._on_failure = on_failure
        self._more = more
        self._left = left

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case FilesError():
                self._fail(error)
            case KeyboardInterrupt():
                self._leave(Told(signal.SIGINT), error)
            case Told():
                self._leave(error, error)
            case OSError():
                self._fail(local_file_error(error, str(error.filename or "file"), "cannot use"))
            case Exception() if lacks_resources(error):
                self._exhausted(error)
            case ValueError():
                # The SDK refused an argument.
                raise UsageMistake(str(error)) from error
            case _:
                return

    def _leave(self, told: Told, error: BaseException) -> None:
        left = self._left(error)
        self._out.failure(
            f"{told.words}; {self._on_interrupt(error)}",
            told.status,
            more=self._more(),
            left=left,
            fix="" if left is None else "Repeat the command with --resume.",
        )
        raise click.exceptions.Exit(told.status) from None

    def _exhausted(self, error: Exception) -> NoReturn:
        fix = "Raise its limits (`ulimit -v`, `ulimit -u`)."
        words = f"{no_resources_words(error)}; {self._on_interrupt(error)}. {fix}"
        self._out.failure(words, ExitCode.EXHAUSTED, more=self._more(), fix=fix, left=self._left(error))
        raise click.exceptions.Exit(ExitCode.EXHAUSTED) from None

    def _fail(self, error: FilesError) -> None:
        hint = Hint() if self._on_failure is None else self._on_failure(error)
        code = exit_code(error)
        words = failure_words(error, self._where)
        fix = " ".join(filter(None, (fix_of(error, self._where), hint.fix)))
        line = " ".join(filter(None, (words, hint.fix, hint.state)))
        self._out.failure(line, code, error, self._more(), fix)
        raise click.exceptions.Exit(code) from None
