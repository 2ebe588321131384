"""`openshell-files-gateway`: serve, dev, demo, sandbox-token."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from openshell_files_process.command_help import CommandHelp
from openshell_files_process.command_mistakes import run_command
from openshell_files_process.server_process import configure_logs, settle_heap, tune_allocator, wait_for_stop
from openshell_files_process.tasks import TaskScope
from typer.core import TyperCommand, TyperGroup

from openshell_files_gateway.auth.assembly import Access, assemble_access
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.loading import load_settings
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.dev.demo import run_demo
from openshell_files_gateway.dev.session import run_dev
from openshell_files_gateway.gateway import Gateway


class PlainCommand(CommandHelp, TyperCommand):
    """A command whose help cuts no name."""


class PlainGroup(CommandHelp, TyperGroup):
    """The command with its subcommands, whose help cuts no name."""


app = typer.Typer(
    name="openshell-files-gateway",
    cls=PlainGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file; environment variables win over it.", envvar="OPENSHELL_CONFIG")
]

#: Exit status for a refused configuration; the same as for wrong usage.
REFUSED = 2


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callbacks take the value
    if wanted:
        print(f"openshell-files-gateway {version('openshell-files-gateway')}")
        raise typer.Exit


@app.callback()
def gateway(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Reference gateway for OpenShell's streaming file transfer."""


@app.command(cls=PlainCommand)
def serve(
    config: ConfigOption = None,
    port: Annotated[
        int | None, typer.Option(help="Instead of the configured port; 0 takes a free one.")
    ] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
    exit_on_stdin_close: Annotated[bool, typer.Option(help="Stop when standard input ends.")] = False,
) -> None:
    """Run the gateway alone, configured by file and environment, until stopped."""
    settings = _settings(config, port)
    configure_logs(settings.logging.format, settings.logging.level)
    tune_allocator()
    try:
        access = assemble_access(settings)
        asyncio.run(_serve(settings, access, json_line=json_line, stdin_closes=exit_on_stdin_close))
    except ConfigurationError as error:
        _refuse(error)


async def _serve(settings: GatewaySettings, access: Access, *, json_line: bool, stdin_closes: bool) -> None:
    running = Gateway(settings, access, lifeline=sys.stdin.fileno() if stdin_closes else None)
    try:
        async with TaskScope() as tasks:
            stopping = tasks.start(wait_for_stop(stdin_closes=stdin_closes), "stop-signal")
            endpoint = await running.start()
            settle_heap()
            print(json.dumps({"endpoint": endpoint}) if json_line else f"listening on {endpoint}", flush=True)
            await stopping
    finally:
        await running.stop()


@app.command(cls=PlainCommand)
def dev(
    port: Annotated[int, typer.Option(help="Of the gateway; 0 takes a free one.")] = 0,
    root: Annotated[
        Path | None, typer.Option(help="Keep everything here; default: a directory that is removed.")
    ] = None,
    sandboxes: Annotated[int, typer.Option(min=1, max=64, help="How many.")] = 1,
    json_line: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
    env_file: Annotated[
        Path | None,
        typer.Option(help="Write the exports that a client needs into this file, for `. FILE` in a shell."),
    ] = None,
) -> None:
    """Run identity provider, gateway and supervisors on loopback until SIGINT or SIGTERM."""
    configure_logs("console", "info")
    running = run_dev(port=port, root=root, sandboxes=sandboxes, json_line=json_line, env_file=env_file)
    raise typer.Exit(asyncio.run(running))


@app.command(cls=PlainCommand)
def demo(
    size_mib: Annotated[int, typer.Option(min=1, help="Size of the large file.")] = 256,
) -> None:
    """Move a large and a small file in and out of a sandbox, and compare."""
    configure_logs("console", "warning")
    raise typer.Exit(asyncio.run(run_demo(size_mib)))


@app.command("sandbox-token", cls=PlainCommand)
def sandbox_token(sandbox_id: str, config: ConfigOption = None) -> None:
    """Print a token for the supervisor of a configured sandbox."""
    settings = _settings(config, None)
    if sandbox_id not in {sandbox.id for sandbox in settings.sandboxes}:
        named = [
            f"{sandbox.id} in {sandbox.workspace}"
            for sandbox in settings.sandboxes
            if sandbox.name == sandbox_id
        ]
        fix = f"give its id: {', '.join(named)}" if named else "give the id of a sandbox, or add the sandbox"
        fault = f"{sandbox_id} is the name of a sandbox" if named else f"no sandbox has the id {sandbox_id}"
        _refuse(ConfigurationError.of("sandboxes", fault, fix))
    if settings.sandbox_tokens.signing_key is None:
        _refuse(
            ConfigurationError.of(
                "sandbox_tokens.signing_key", "unset, so the key ends with the process", "name a key file"
            )
        )
    try:
        token, _ = assemble_access(settings).sandbox_tokens.mint(sandbox_id)
    except ConfigurationError as error:
        _refuse(error)
    print(token)


def _settings(config: Path | None, port: int | None) -> GatewaySettings:
    environment = dict(os.environ)
    if port is not None:
        environment["OPENSHELL_SERVER_PORT"] = str(port)
    try:
        return load_settings(config, environment)
    except ConfigurationError as error:
        _refuse(error)


def _refuse(error: ConfigurationError) -> NoReturn:
    for problem in error.problems:
        print(f"openshell-files-gateway: {problem}", file=sys.stderr)
    raise typer.Exit(REFUSED)


def main() -> None:
    """Run the command line."""
    sys.exit(run_command(app, "openshell-files-gateway", typer.TyperException, typer.Abort))
