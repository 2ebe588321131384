"""What all commands share: the connection's options, and how they fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, cast

import typer

from openshell_files.cli import connecting as options
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.exit_codes import ExitCode, exit_code
from openshell_files.cli.report import Report, failure_words
from openshell_files.errors import FilesError, local_file_error

_P = ParamSpec("_P")


class Terminated(BaseException):
    """SIGTERM arrived."""


def connecting(
    *,
    endpoint: options.Endpoint,
    token: options.Token = None,
    token_file: options.TokenFile = None,
    issuer: options.Issuer = None,
    client_id: options.ClientId = None,
    client_secret: options.ClientSecret = None,
    audience: options.Audience = "",
    scope: options.Scope = "",
    workspace: options.Workspace = "default",
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    allow_insecure_token: options.InsecureToken = False,
    call_timeout: options.CallTimeout = 30.0,
    idle_timeout: options.IdleTimeout = 120.0,
    attempts: options.Attempts = 6,
) -> Connecting:
    """Collect the connection's options."""
    return Connecting(
        endpoint,
        token,
        token_file,
        issuer,
        client_id,
        client_secret,
        audience,
        scope,
        workspace,
        tls_ca,
        tls_cert,
        tls_key,
        allow_insecure_token,
        call_timeout,
        idle_timeout,
        attempts,
    )


def with_connection(command: Callable[Concatenate[Connecting, _P], None]) -> Callable[..., None]:
    """Add the connection's options to those of a command.

    typer reads the signature of what it gets; it has no options that several
    commands share.
    """
    shared = list(inspect.signature(connecting, eval_str=True).parameters.values())
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    # What typer gives fits the signature below, which no type checker can follow.
    bound = cast("Callable[..., None]", command)

    def run(**values: Any) -> None:  # noqa: ANN401 - typer has checked the values against the signature
        given = {parameter.name: values.pop(parameter.name) for parameter in shared}
        bound(connecting(**given), **values)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    signature = inspect.Signature(
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    )
    run.__signature__ = signature  # type: ignore[attr-defined]  # documented for inspect.signature
    return run


class Failing:
    """Turns what goes wrong inside into one line and an exit status.

    Args:
        out: where the line goes.
        where: sandbox and path, for messages that name none.
        on_interrupt: what to say about the state after an interruption.
        on_failure: told of the error first.
    """

    def __init__(
        self,
        out: Report,
        where: str,
        on_interrupt: Callable[[], str] = lambda: "nothing was changed",
        on_failure: Callable[[FilesError], None] | None = None,
    ) -> None:
        self._out = out
        self._where = where
        self._on_interrupt = on_interrupt
        self._on_failure = on_failure

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case None | typer.Exit():
                return
            case FilesError():
                self._fail(error)
            case KeyboardInterrupt():
                self._out.failure(f"interrupted; {self._on_interrupt()}", ExitCode.INTERRUPTED)
                raise typer.Exit(ExitCode.INTERRUPTED) from None
            case Terminated():
                self._out.failure(f"terminated; {self._on_interrupt()}", ExitCode.TERMINATED)
                raise typer.Exit(ExitCode.TERMINATED) from None
            case OSError():
                self._fail(local_file_error(error, str(error.filename or "file"), "cannot use"))
            case _:
                return

    def _fail(self, error: FilesError) -> None:
        if self._on_failure is not None:
            self._on_failure(error)
        code = exit_code(error)
        self._out.failure(failure_words(error, self._where), code, error)
        raise typer.Exit(code) from None
