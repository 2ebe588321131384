"""`openshell-supervisor-sim run`: one sandbox's supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import grpc
import structlog
import typer
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, STREAM_OPTIONS
from openshell_files_protocol.server_process import LogFormat, configure_logs, tune_allocator, wait_for_stop

from openshell_supervisor_sim.agent import AgentSettings, FileAgent
from openshell_supervisor_sim.backoff import INITIAL_SECONDS, MAX_SECONDS, Backoff
from openshell_supervisor_sim.faults import Fault, release_on_signal, strike
from openshell_supervisor_sim.session import SupervisorSession
from openshell_supervisor_sim.token_file import TokenFile, TokenFileError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

#: Where the agent keeps its journal inside the sandbox, unless told otherwise.
STATE_IN_ROOT = "var/lib/openshell-files"

_LOG_LEVELS = ("debug", "info", "warning", "error")

#: Pings as the real supervisor sends them, also while idle.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The session's own backoff decides when to try again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


@app.callback()
def supervisor() -> None:
    """Simulated OpenShell supervisor with a file agent."""


@app.command()
def run(
    endpoint: Annotated[str, typer.Option(help="Gateway as HOST:PORT.", envvar="OPENSHELL_ENDPOINT")],
    sandbox_id: Annotated[
        str, typer.Option(help="Sandbox that the token is for.", envvar="OPENSHELL_SANDBOX_ID")
    ],
    token_file: Annotated[
        Path, typer.Option(help="File with the sandbox's token.", envvar="OPENSHELL_SANDBOX_TOKEN_FILE")
    ],
    root: Annotated[Path, typer.Option(help="Directory that is the sandbox's `/`.")],
    workdir: Annotated[str, typer.Option(help="Where relative paths start, inside the sandbox.")] = "/",
    state_dir: Annotated[
        Path | None, typer.Option(help=f"Where uploads are remembered. Default: ROOT/{STATE_IN_ROOT}.")
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="CA of the gateway's certificate; without it the connection is plain.")
    ] = None,
    max_backoff: Annotated[
        float, typer.Option(min=0.1, help="Longest wait between attempts, seconds.")
    ] = MAX_SECONDS,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="ACTION@POINT[#N]: pause or kill when the agent reaches a point for the Nth time."),
    ] = None,
    exit_on_stdin_close: Annotated[bool, typer.Option(help="Stop when standard input ends.")] = False,
    json_line: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when first connected.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="console or json.")] = "console",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Connect one sandbox to its gateway and serve its files until stopped."""
    try:
        faults = [Fault.parse(text) for text in fault or ()]
    except ValueError as error:
        _refuse(f"--fault: {error}")
    if log_format not in ("console", "json"):
        _refuse("--log-format: use console or json")
    if log_level.lower() not in _LOG_LEVELS:
        _refuse(f"--log-level: use one of {', '.join(_LOG_LEVELS)}")
    _check_root(root, workdir)
    configure_logs(_format(log_format), log_level)
    tune_allocator()
    tokens = TokenFile(token_file)
    try:
        tokens.read()
    except TokenFileError as error:
        _refuse(str(error))
    try:
        credentials = None if tls_ca is None else grpc.ssl_channel_credentials(tls_ca.read_bytes())
    except OSError as error:
        _refuse(f"--tls-ca {tls_ca}: {error}")
    settings = AgentSettings(root=root, workdir=workdir, state_dir=state_dir or root / STATE_IN_ROOT)

    if faults:
        release_on_signal(faults)
    agent = FileAgent(settings, trace=partial(strike, faults) if faults else None)
    asyncio.run(
        _serve(
            agent,
            endpoint=endpoint,
            sandbox_id=sandbox_id,
            tokens=tokens,
            credentials=credentials,
            backoff=Backoff(initial=min(INITIAL_SECONDS, max_backoff), maximum=max_backoff),
            stdin_closes=exit_on_stdin_close,
            json_line=json_line,
            faults=faults,
        )
    )


async def _serve(
    agent: FileAgent,
    *,
    endpoint: str,
    sandbox_id: str,
    tokens: TokenFile,
    credentials: grpc.ChannelCredentials | None,
    backoff: Backoff,
    stdin_closes: bool,
    json_line: bool,
    faults: Sequence[Fault],
) -> None:
    await agent.start()
    options = [*STREAM_OPTIONS, *_KEEPALIVE]
    if credentials is None:
        channel = grpc.aio.insecure_channel(endpoint, options)
    else:
        channel = grpc.aio.secure_channel(endpoint, credentials, options)
    session = SupervisorSession(
        channel=channel,
        sandbox_id=sandbox_id,
        token=tokens,
        files=agent,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        backoff=backoff,
    )
    running = asyncio.create_task(session.run())
    stopping = asyncio.create_task(wait_for_stop(stdin_closes=stdin_closes))
    saying = asyncio.create_task(_say_when_connected(session)) if json_line else None
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if any(fault.holds_a_transfer for fault in faults):
            # It cannot be stopped in order, and must not go on either.
            os._exit(0)
        for task in (running, stopping, saying):
            if task is not None:
                task.cancel()
        results = await asyncio.gather(running, stopping, return_exceptions=True)
        if saying is not None:
            await asyncio.wait({saying})
        await agent.aclose()
        await channel.close()
    if isinstance(results[0], Exception):
        raise results[0]
    structlog.get_logger("openshell_supervisor_sim").info("stopped", by=results[1])


async def _say_when_connected(session: SupervisorSession) -> None:
    await session.connected.wait()
    print(json.dumps({"connected": session.sandbox_id}), flush=True)


def _check_root(root: Path, workdir: str) -> None:
    if not root.is_dir():
        _refuse(f"--root {root}: not a directory; create it first")
    if not workdir.startswith("/"):
        _refuse(f"--workdir {workdir}: must be an absolute path inside the sandbox")


def _format(name: str) -> LogFormat:
    return "json" if name == "json" else "console"


def _refuse(message: str) -> NoReturn:
    print(f"openshell-supervisor-sim: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Entry point."""
    app()
