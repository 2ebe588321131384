"""A supervisor and a scripted gateway that are connected."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from openshell_supervisor_sim.commands.connection import CommandServer
from openshell_supervisor_sim.commands.environment import command_environment
from openshell_supervisor_sim.commands.exec_host import StartingHost
from openshell_supervisor_sim.commands.host.messages import HostReady, HostSettings
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.control_stream import SupervisorSession
from openshell_supervisor_sim.session.token_file import TokenFile
from scripted_gateway import CommandOutcome, GatewayRelay, GatewaySession, ScriptedGateway, scripted_gateway

SUPERVISOR = Path(sys.executable).with_name("openshell-supervisor-sim")


def can_give_files_away() -> bool:
    """Return whether this process may make other users the owners of files."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [[int(number) for number in line.split()] for line in file]
    return any(first <= 54321 and first + count > 65534 for first, _, count in ranges)


@dataclass(frozen=True)
class SandboxPlaces:
    """Directories of one sandbox."""

    home: Path

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def real_root(self) -> str:
        return os.path.realpath(self.root)

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def token(self) -> Path:
        return self.home / "token"


def lay_out(home: Path, token: str = "secret-token") -> SandboxPlaces:
    places = SandboxPlaces(home)
    for name in ("sandbox", "tmp"):
        (places.root / name).mkdir(parents=True)
    places.state.mkdir(mode=0o700)
    places.token.write_text(token, "ascii")
    places.token.chmod(0o600)
    return places


@dataclass
class Scene:
    """What is connected."""

    gateway: ScriptedGateway
    session: GatewaySession
    supervisor: SupervisorSession
    commands: CommandServer | None = None
    host: HostReady | None = None

    async def run(self, *command: str, **request: Any) -> CommandOutcome:
        return await self.gateway.run(self.session, *command, **request)

    async def start(self, *command: str, **request: Any) -> GatewayRelay:
        return await self.gateway.start_command(self.session, *command, **request)


def new_session(
    gateway: ScriptedGateway, channel: grpc.aio.Channel, token: Path, targets: RelayTargets
) -> SupervisorSession:
    """Return a session that connects again without much ado."""
    del gateway
    return SupervisorSession(
        channel=channel,
        sandbox_id="sandbox",
        token=TokenFile(token),
        targets=targets,
        backoff=Backoff(initial=0.01, maximum=0.02),
    )


@asynccontextmanager
async def connected(
    token: Path, targets: RelayTargets, *, heartbeat_seconds: float = 60
) -> AsyncGenerator[Scene, None]:
    """Run a supervisor's session in this process."""
    async with (
        scripted_gateway() as gateway,
        grpc.aio.insecure_channel(gateway.endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        supervisor = new_session(gateway, channel, token, targets)
        running = asyncio.create_task(supervisor.run())
        try:
            session = await gateway.accepted_session(heartbeat_seconds)
            await supervisor.connected.wait()
            yield Scene(gateway, session, supervisor)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def serving_commands(
    places: SandboxPlaces,
    *,
    view: str = "auto",
    confine: str = "auto",
    environment: Mapping[str, str] | None = None,
    max_commands: int = 8,
    hidden: Sequence[str] = (),
) -> AsyncGenerator[Scene, None]:
    """Run a supervisor's session that serves commands."""
    starting = StartingHost(
        HostSettings(
            root=places.real_root,
            view=view,
            prefixes=[sys.prefix, sys.base_prefix],
            hidden=list(hidden),
            user=None,
            confine=confine,
        )
    )
    host = await asyncio.to_thread(starting.ready)
    async with host:
        root = "" if host.state.view else places.real_root
        commands = CommandServer(
            host,
            root=root,
            workdir="/sandbox",
            environment=command_environment(home=f"{root}/sandbox", user="tester", extra=environment or {}),
            max_commands=max_commands,
        )
        async with connected(places.token, RelayTargets(commands=commands)) as scene:
            scene.commands = commands
            scene.host = host.state
            yield scene


@dataclass
class RunningProcess:
    """A supervisor as a process of its own."""

    process: Process
    ready: dict[str, Any]
    log: Path

    @property
    def confinement(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ready["confinement"]
        return found

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]

    async def stop(self) -> int:
        if self.process.returncode is None and self.process.stdin is not None:
            self.process.stdin.close()
        return await self.process.wait()


@asynccontextmanager
async def supervisor_process(
    *arguments: str | Path, log: Path, gateway: ScriptedGateway | None = None, command: str = "run"
) -> AsyncGenerator[tuple[RunningProcess, GatewaySession | None], None]:
    """Run the supervisor's command until it says that it is ready."""
    with await asyncio.to_thread(log.open, "wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            SUPERVISOR, command, "--json", "--exit-on-stdin-close", "--log-format", "json",
            *map(str, arguments),
            stdin=PIPE, stdout=PIPE, stderr=stderr,
        )  # fmt: skip
    try:
        session = None if gateway is None else await gateway.accepted_session()
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, await asyncio.to_thread(log.read_text, "utf-8")
        yield RunningProcess(process, json.loads(line), log), session
    finally:
        if process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def run_options(places: SandboxPlaces, gateway: ScriptedGateway) -> list[str]:
    return [
        "--endpoint", gateway.endpoint, "--sandbox-id", "sandbox", "--token-file", str(places.token),
        "--root", str(places.root), "--workdir", "/sandbox", "--state-dir", str(places.state),
        "--max-backoff", "0.2",
    ]  # fmt: skip
