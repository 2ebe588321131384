"""The development stack: identity provider, gateway and supervisors, started and stopped together."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer
from openshell_files_gateway.concurrency.tasks import Helpers, in_thread, with_helpers
from openshell_files_gateway.config.signing_key import load_or_create_signing_key
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_gateway.dev.process import Child
from openshell_files_gateway.installed import command
from openshell_files_gateway.simulation.processes.sandbox_home import SKELETON, WORKDIR

AUDIENCE: Final = "openshell-files-dev"
GATEWAY_ID: Final = "openshell-files-dev"

#: Long lifetimes: clients of a development stack do not renew their tokens.
_TOKEN_SECONDS: Final = 12 * 3600.0
_SANDBOX_TOKEN_SECONDS: Final = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StackSandbox:
    """A sandbox of the stack.

    Attributes:
        id: id that the sandbox's tokens name.
        name: name for the command line.
        root: directory on this machine that is the sandbox's `/`.
        workdir: directory inside the sandbox where relative paths start.
    """

    id: str
    name: str
    root: str
    workdir: str


@dataclass(frozen=True, slots=True)
class StackDescription:
    """Addresses, credentials and process ids of a running stack."""

    endpoint: str
    issuer: str
    audience: str
    token_endpoint: str
    client_id: str
    client_secret: str
    token: str
    workspace: str
    sandboxes: list[StackSandbox]
    pids: dict[str, object]

    def to_json(self) -> str:
        """Return the description as one line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Settings of a development stack.

    Attributes:
        port: port of the gateway; 0 for a free one, which restarts reuse.
        root: directory for all files; None for a temporary one.
        sandboxes: number of sandboxes.
        restart: restart gateway and supervisors when they end.
        faults: `--fault` options by sandbox name, for the first start of its
            supervisor only.
        limits: keys of the gateway's `limits` table.
        relay: keys of the gateway's `relay` table.
        max_backoff: longest backoff of a supervisor's reconnect, in seconds.
        quiet: write logs to files under root instead of standard error.
    """

    port: int = 0
    root: Path | None = None
    sandboxes: int = 1
    restart: bool = True
    faults: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    limits: dict[str, float | int] = field(default_factory=dict[str, "float | int"])
    relay: dict[str, float | int] = field(default_factory=dict[str, "float | int"])
    max_backoff: float = 2.0
    quiet: bool = True


class DevelopmentStack:
    """Runs a development stack; an async context manager.

    All servers listen on loopback. The children stop when this process ends,
    even if it is killed.
    """

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._temporary = settings.root is None
        self.root: Path = Path()
        self.identity_provider = DevelopmentIdentityProvider(audience=AUDIENCE)
        self.gateway: Child | None = None
        self.supervisors: list[Child] = []
        self.sandboxes: list[StackSandbox] = []
        self._port = settings.port

    @property
    def endpoint(self) -> str:
        """The gateway's address."""
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all parts and wait until every supervisor is connected; stop all if one fails.

        Raises:
            ChildFailedError: gateway or supervisor ended before it was ready.
            FileNotFoundError: a command is not installed.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    def describe(self) -> StackDescription:
        """Return the description of the running stack."""
        provider = self.identity_provider
        if self.gateway is None:
            raise RuntimeError("the stack was not started")
        return StackDescription(
            endpoint=self.endpoint,
            issuer=provider.issuer,
            audience=AUDIENCE,
            token_endpoint=provider.token_endpoint,
            client_id=provider.client_id,
            client_secret=provider.client_secret,
            token=provider.issue(ttl=_TOKEN_SECONDS),
            workspace=DEFAULT_WORKSPACE,
            sandboxes=self.sandboxes,
            pids={"gateway": self.gateway.pid, "supervisors": [child.pid for child in self.supervisors]},
        )

    async def stop(self) -> None:
        """Stop all parts, and remove temporary files; idempotent."""
        children = [*self.supervisors, *([self.gateway] if self.gateway else [])]
        await asyncio.gather(*(child.stop() for child in children))
        await asyncio.to_thread(self.identity_provider.stop)
        if self._temporary and self.root != Path():
            await asyncio.to_thread(shutil.rmtree, self.root, ignore_errors=True)

    async def _start(self) -> None:
        await in_thread(self.identity_provider.start)
        await in_thread(self._lay_out)
        self.gateway = Child(
            "gateway",
            lambda: [
                command("openshell-files-gateway"), "serve", "--json", "--exit-on-stdin-close",
                "--config", str(self.root / "gateway.toml"), "--port", str(self._port),
            ],
            log_file=self._log_file("gateway"),
            restart=self._settings.restart,
        )  # fmt: skip
        ready = json.loads(await self.gateway.start(ready_line=True))
        self._port = int(ready["endpoint"].rpartition(":")[2])
        for sandbox in self.sandboxes:
            child = self._supervisor(sandbox)
            self.supervisors.append(child)
        # If one fails, the others end before `stop`, so none starts after it.
        await with_helpers(self._start_supervisors)

    async def _start_supervisors(self, helpers: Helpers) -> None:
        starting = [helpers.start(child.start(ready_line=True), child.name) for child in self.supervisors]
        await asyncio.wait(starting)
        helpers.check()

    def _supervisor(self, sandbox: StackSandbox) -> Child:
        home = self.root / "sandboxes" / sandbox.name
        arguments = [
            command("openshell-supervisor-sim"), "run", "--json", "--exit-on-stdin-close", "--log-format", "json",
            "--endpoint", self.endpoint, "--sandbox-id", sandbox.id, "--token-file", str(home / "token"),
            "--root", sandbox.root, "--workdir", sandbox.workdir, "--state-dir", str(home / "state"),
            "--max-backoff", str(self._settings.max_backoff),
        ]  # fmt: skip
        faults = [
            option for fault in self._settings.faults.get(sandbox.name, ()) for option in ("--fault", fault)
        ]

        def next_arguments() -> list[str]:
            once, faults[:] = faults[:], []
            return [*arguments, *once]

        return Child(
            f"supervisor {sandbox.name}",
            next_arguments,
            log_file=self._log_file(sandbox.name),
            restart=self._settings.restart,
        )

    def _log_file(self, name: str) -> Path | None:
        return self.root / f"{name}.log" if self._settings.quiet else None

    def _lay_out(self) -> None:
        """Create directories, keys, tokens and the gateway's configuration."""
        settings = self._settings
        if settings.root is None:
            self.root = Path(tempfile.mkdtemp(prefix="openshell-files-dev-"))
        else:
            self.root = settings.root.absolute()
            self.root.mkdir(parents=True, exist_ok=True)
        key_file = self.root / "sandbox-signing-key.pem"
        tokens = SandboxTokenIssuer(
            load_or_create_signing_key(key_file), gateway_id=GATEWAY_ID, ttl=_SANDBOX_TOKEN_SECONDS
        )
        names = ["demo", *(f"demo-{number}" for number in range(2, settings.sandboxes + 1))]
        for name in names[: settings.sandboxes]:
            self.sandboxes.append(self._lay_out_sandbox(name, tokens))
        config = self.root / "gateway.toml"
        config.write_text(self._config(key_file), "utf-8")

    def _lay_out_sandbox(self, name: str, tokens: SandboxTokenIssuer) -> StackSandbox:
        home = self.root / "sandboxes" / name
        root = home / "root"
        for directory in SKELETON:
            (root / directory).mkdir(parents=True, exist_ok=True)
        (home / "state").mkdir(exist_ok=True)
        id_file = home / "id"
        if not id_file.exists():
            id_file.write_text(str(uuid.uuid4()), "ascii")
        sandbox = StackSandbox(id_file.read_text("ascii").strip(), name, str(root), WORKDIR)
        token, _ = tokens.mint(sandbox.id)
        descriptor = os.open(home / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
        return sandbox

    def _config(self, key_file: Path) -> str:
        """Return the text of the gateway's configuration file (JSON strings are valid TOML)."""
        provider = self.identity_provider
        lines = [
            f"gateway_id = {json.dumps(GATEWAY_ID)}",
            "[tls]",
            "disabled = true",
            "[oidc]",
            f"issuer = {json.dumps(provider.issuer)}",
            f"audience = {json.dumps(AUDIENCE)}",
            'scopes_claim = "scope"',
            "dangerously_allow_insecure_http = true",
            "[sandbox_tokens]",
            f"signing_key = {json.dumps(str(key_file))}",
            "[compute]",
            f"directory = {json.dumps(str(self.root / 'made'))}",
            f"supervisor_arguments = {json.dumps(['--max-backoff', str(self._settings.max_backoff)])}",
            "stop_with_gateway = true",
        ]
        for table, values in (("limits", self._settings.limits), ("relay", self._settings.relay)):
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        for sandbox in self.sandboxes:
            lines += [
                "[[sandboxes]]",
                f"id = {json.dumps(sandbox.id)}",
                f"name = {json.dumps(sandbox.name)}",
                f"workspace = {json.dumps(DEFAULT_WORKSPACE)}",
            ]
        lines += [
            "[[workspaces]]",
            f"name = {json.dumps(DEFAULT_WORKSPACE)}",
            f"members = [{{subject = {json.dumps(provider.client_id)}}}]",
        ]
        return "\n".join(lines) + "\n"
