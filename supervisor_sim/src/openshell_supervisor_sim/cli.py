"""The commands `openshell-supervisor-sim run` and `agent`."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from openshell_files_process.agent_secret import SecretError, load_secret
from openshell_files_process.command_help import CommandHelp
from openshell_files_process.command_mistakes import run_command
from openshell_files_process.server_process import LogFormat, configure_logs, tune_allocator
from openshell_files_protocol.endpoints import Endpoint, parse_endpoint
from openshell_files_protocol.limits import MIB
from typer.core import TyperCommand, TyperGroup

from openshell_supervisor_sim.agent import AgentSettings, FileAgent
from openshell_supervisor_sim.agent.core.limits import (
    DEFAULT_ARCHIVE_ENTRIES,
    DEFAULT_EXTRACTED_BYTES,
    DEFAULT_TREE_ENTRIES,
)
from openshell_supervisor_sim.agent.settings import DEFAULT_EXPANSION_RATIO
from openshell_supervisor_sim.agent_port import listen
from openshell_supervisor_sim.commands.environment import parse_variables
from openshell_supervisor_sim.faults import Fault, release_on_signal, strike
from openshell_supervisor_sim.relay.tcp_target import loopback_address
from openshell_supervisor_sim.running import AgentRunSettings, RunSettings, serve_agent, serve_sandbox
from openshell_supervisor_sim.session.backoff import INITIAL_SECONDS, MAX_SECONDS, Backoff
from openshell_supervisor_sim.session.connection_cause import trusting
from openshell_supervisor_sim.session.token_file import TokenFile, TokenFileError
from openshell_supervisor_sim.startup import Mode, Places, Started, StartError, Wanted, start_confined


class PlainCommand(CommandHelp, TyperCommand):
    """A command whose help cuts no name."""


class PlainGroup(CommandHelp, TyperGroup):
    """The command with its subcommands, whose help cuts no name."""


app = typer.Typer(
    name="openshell-supervisor-sim",
    cls=PlainGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Default directory of the journal inside the sandbox.
STATE_IN_ROOT = "var/lib/openshell-files"

_MODES: Mapping[str, Mode] = {"auto": "auto", "required": "required", "none": "none"}

_LOG_LEVELS = ("debug", "info", "warning", "error")

RootOption = Annotated[Path, typer.Option(help="Directory that is the sandbox's `/`.")]
WorkdirOption = Annotated[str, typer.Option(help="Where relative paths start, inside the sandbox.")]
StateDirOption = Annotated[
    Path | None, typer.Option(help=f"Where uploads are remembered. Default: ROOT/{STATE_IN_ROOT}.")
]
ConfineOption = Annotated[
    str,
    typer.Option(
        help="auto: take away all rights that are not needed, as far as the kernel can. required: fail if it "
        "cannot. none: only become the user."
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        help="User to become when started as root: NAME, UID or UID:GID. Default: the owner of --root."
    ),
]
MemoryOption = Annotated[
    int | None, typer.Option(min=256, help="Limit of the address space, MiB. Default: none.")
]
TreeEntriesOption = Annotated[int, typer.Option(min=1, help="Most entries of a tree that is uploaded.")]
ArchiveEntriesOption = Annotated[
    int, typer.Option(min=1, help="Most entries of an archive that is unpacked.")
]
ExtractedOption = Annotated[int, typer.Option(min=1, help="Most bytes that such an archive may become.")]
RatioOption = Annotated[
    int, typer.Option(min=1, help="Most bytes that it may become for each byte that was sent.")
]
FaultOption = Annotated[
    list[str] | None,
    typer.Option(help="ACTION@POINT[#N]: pause or kill when the agent reaches a point for the Nth time."),
]
StdinOption = Annotated[bool, typer.Option(help="Stop when standard input ends.")]
DrainOption = Annotated[
    float, typer.Option(min=0.0, help="How long running transfers may continue when stopping, seconds.")
]
LogFormatOption = Annotated[str, typer.Option(help="console or json.")]
LogLevelOption = Annotated[str, typer.Option(help="debug, info, warning or error.")]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callbacks take the value
    if wanted:
        print(f"openshell-supervisor-sim {version('openshell-supervisor-sim')}")
        raise typer.Exit


@app.callback()
def supervisor(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Simulated OpenShell supervisor with a file agent."""


@app.command(cls=PlainCommand)
def run(
    endpoint: Annotated[
        str, typer.Option(help="Gateway as HOST:PORT or its URL.", envvar="OPENSHELL_ENDPOINT")
    ],
    sandbox_id: Annotated[
        str, typer.Option(help="Sandbox that the token is for.", envvar="OPENSHELL_SANDBOX_ID")
    ],
    token_file: Annotated[
        Path, typer.Option(help="File with the sandbox's token.", envvar="OPENSHELL_SANDBOX_TOKEN_FILE")
    ],
    root: RootOption,
    workdir: WorkdirOption = "/",
    state_dir: StateDirOption = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="CA of the gateway's certificate; without it the connection is plain.")
    ] = None,
    max_backoff: Annotated[
        float, typer.Option(min=0.1, help="Longest delay between attempts, seconds.")
    ] = MAX_SECONDS,
    files: Annotated[bool, typer.Option("--files/--no-files", help="Serve files.")] = True,
    commands: Annotated[bool, typer.Option("--exec/--no-exec", help="Run commands.")] = True,
    exec_view: Annotated[
        str,
        typer.Option(
            help="Whether commands see ROOT as `/`. auto: if the kernel allows it. required: fail if not. none: no."
        ),
    ] = "auto",
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE in the environment of every command; repeatable.")
    ] = None,
    user: UserOption = None,
    confine: ConfineOption = "auto",
    memory_limit: MemoryOption = None,
    max_tree_entries: TreeEntriesOption = DEFAULT_TREE_ENTRIES,
    max_archive_entries: ArchiveEntriesOption = DEFAULT_ARCHIVE_ENTRIES,
    max_extracted_bytes: ExtractedOption = DEFAULT_EXTRACTED_BYTES,
    max_expansion_ratio: RatioOption = DEFAULT_EXPANSION_RATIO,
    drain_timeout: DrainOption = 10.0,
    fault: FaultOption = None,
    exit_on_stdin_close: StdinOption = False,
    json_line: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when first connected.")
    ] = False,
    log_format: LogFormatOption = "console",
    log_level: LogLevelOption = "info",
) -> None:
    """Connect one sandbox to its gateway and serve it until stopped."""
    bounds = _Bounds(max_tree_entries, max_archive_entries, max_extracted_bytes, max_expansion_ratio)
    faults = _faults(fault)
    _configure_logs(log_format, log_level)
    try:
        variables = parse_variables(env or ())
    except ValueError as error:
        _refuse(f"--env: {error}")
    gateway = _endpoint(endpoint, encrypted=tls_ca is not None)
    _check_root(root, workdir)
    tokens = TokenFile(token_file)
    try:
        tokens.read()
    except TokenFileError as error:
        _refuse(str(error))
    authority = None if tls_ca is None else _authority(tls_ca)
    places = Places(
        root=root,
        workdir=workdir,
        state_dir=state_dir or root / STATE_IN_ROOT,
        secrets=[token_file],
        renewed=token_file,
    )
    started = _start(
        places,
        Wanted(
            confine=_mode("--confine", confine),
            user=user,
            memory_bytes=_bytes(memory_limit),
            exec_view=_mode("--exec-view", exec_view) if commands else None,
            environment=variables,
        ),
    )
    agent = _agent(places, started, faults, bounds) if files else None
    asyncio.run(
        serve_sandbox(
            started,
            agent,
            RunSettings(
                places=places,
                endpoint=gateway,
                sandbox_id=sandbox_id,
                tokens=tokens,
                authority=authority,
                backoff=Backoff(initial=min(INITIAL_SECONDS, max_backoff), maximum=max_backoff),
                stdin_closes=exit_on_stdin_close,
                json_line=json_line,
                drain_timeout=drain_timeout,
                faults=faults,
            ),
        )
    )


@app.command("agent", cls=PlainCommand)
def agent_behind_a_port(
    root: RootOption,
    secret_file: Annotated[
        Path, typer.Option(help="File with the secret shared with the gateway; at least 32 bytes of text.")
    ],
    listen_on: Annotated[
        str, typer.Option("--listen", help="Loopback address and port; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    workdir: WorkdirOption = "/",
    state_dir: StateDirOption = None,
    user: UserOption = None,
    confine: ConfineOption = "auto",
    memory_limit: MemoryOption = None,
    max_tree_entries: TreeEntriesOption = DEFAULT_TREE_ENTRIES,
    max_archive_entries: ArchiveEntriesOption = DEFAULT_ARCHIVE_ENTRIES,
    max_extracted_bytes: ExtractedOption = DEFAULT_EXTRACTED_BYTES,
    max_expansion_ratio: RatioOption = DEFAULT_EXPANSION_RATIO,
    drain_timeout: DrainOption = 10.0,
    fault: FaultOption = None,
    exit_on_stdin_close: StdinOption = False,
    json_line: Annotated[bool, typer.Option("--json", help="Print one JSON line when it listens.")] = False,
    log_format: LogFormatOption = "console",
    log_level: LogLevelOption = "info",
) -> None:
    """Serve files on a port of the sandbox, for a supervisor without a file target."""
    bounds = _Bounds(max_tree_entries, max_archive_entries, max_extracted_bytes, max_expansion_ratio)
    faults = _faults(fault)
    _configure_logs(log_format, log_level)
    _check_root(root, workdir)
    try:
        secret = load_secret(secret_file)
    except SecretError as error:
        _refuse(f"--secret-file {error}")
    host, _, port = listen_on.rpartition(":")
    try:
        # Port 0 cannot be connected to, but a listener may ask for it.
        address, _ = loopback_address(host.strip("[]"), int(port) or 1)
        listener = listen(address, int(port))
    except OSError as error:
        fix = "; stop the program that listens there, or give another port" * (
            error.errno == errno.EADDRINUSE
        )
        _refuse(f"--listen {listen_on}: {error.strerror or error}{fix}")
    except ValueError as error:
        _refuse(f"--listen {listen_on}: {error}")
    places = Places(
        root=root, workdir=workdir, state_dir=state_dir or root / STATE_IN_ROOT, secrets=[secret_file]
    )
    started = _start(
        places,
        Wanted(confine=_mode("--confine", confine), user=user, memory_bytes=_bytes(memory_limit)),
    )
    asyncio.run(
        serve_agent(
            started,
            _agent(places, started, faults, bounds),
            AgentRunSettings(
                listener=listener,
                secret=secret,
                stdin_closes=exit_on_stdin_close,
                json_line=json_line,
                drain_timeout=drain_timeout,
                faults=faults,
            ),
        )
    )


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Bounds on what a tree or an archive may bring, see `AgentSettings`."""

    tree_entries: int
    archive_entries: int
    extracted_bytes: int
    expansion_ratio: int


def _agent(places: Places, started: Started, faults: list[Fault], bounds: _Bounds) -> FileAgent:
    settings = AgentSettings(
        root=places.root,
        workdir=places.workdir,
        state_dir=places.state_dir,
        private=places.secrets,
        covered=started.covered,
        max_tree_entries=bounds.tree_entries,
        max_archive_entries=bounds.archive_entries,
        max_extracted_bytes=bounds.extracted_bytes,
        max_expansion_ratio=bounds.expansion_ratio,
    )
    if faults:
        release_on_signal(faults)
    return FileAgent(settings, trace=partial(strike, faults) if faults else None)


def _start(places: Places, wanted: Wanted) -> Started:
    tune_allocator()
    try:
        return start_confined(places, wanted)
    except StartError as error:
        _refuse(str(error))


def _faults(texts: list[str] | None) -> list[Fault]:
    try:
        return [Fault.parse(text) for text in texts or ()]
    except ValueError as error:
        _refuse(f"--fault: {error}")


def _configure_logs(log_format: str, log_level: str) -> None:
    if log_format not in ("console", "json"):
        _refuse("--log-format: use console or json")
    if log_level.lower() not in _LOG_LEVELS:
        _refuse(f"--log-level: use one of {', '.join(_LOG_LEVELS)}")
    chosen: LogFormat = "json" if log_format == "json" else "console"
    configure_logs(chosen, log_level)


def _mode(option: str, text: str) -> Mode:
    mode = _MODES.get(text)
    if mode is None:
        _refuse(f"{option}: use {', '.join(_MODES)}")
    return mode


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes * MIB


def _authority(file: Path) -> bytes:
    try:
        authority = file.read_bytes()
        trusting(authority)
    except OSError as error:
        _refuse(f"--tls-ca {file}: {error.strerror}")
    except ValueError as error:
        _refuse(f"--tls-ca {file}: {error}")
    return authority


def _endpoint(text: str, *, encrypted: bool) -> Endpoint:
    try:
        endpoint = parse_endpoint(text)
    except ValueError as error:
        _refuse(f"--endpoint: {error}")
    if endpoint.tls is not None and endpoint.tls is not encrypted:
        _refuse(
            f"--endpoint {text}: " + ("https needs --tls-ca" if endpoint.tls else "http is without --tls-ca")
        )
    return endpoint


def _check_root(root: Path, workdir: str) -> None:
    if not root.is_dir():
        _refuse(f"--root {root}: not a directory; create it first")
    if not workdir.startswith("/"):
        _refuse(f"--workdir {workdir}: must be an absolute path inside the sandbox")


def _refuse(message: str) -> NoReturn:
    print(f"openshell-supervisor-sim: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """Entry point."""
    sys.exit(run_command(app, "openshell-supervisor-sim", typer.TyperException, typer.Abort))
