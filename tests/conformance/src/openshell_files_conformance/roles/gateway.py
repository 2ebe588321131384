"""The role of a gateway: it is given an issuer and sandboxes, and judged by what its callers and supervisors see.

→ {"type": "launch", "protocol": 1, "role": "gateway", "run_dir": …, "settings": {…},
   "oidc": {"issuer": "http://127.0.0.1:…", "audience": …, "jwks_url": …},
   "workspaces": [{"name": "default", "members": ["conformance-one", "conformance-two"]}, …],
   "sandboxes": [{"name": "conf-stack", "workspace": "default", "supervisor": "own"}, {"name": "conf-00", "supervisor": "suite"}, …]}
← {"type": "ready", "endpoint": "127.0.0.1:41231", "pid": 123, "capabilities": ["resume"],
   "sandboxes": {"conf-stack": {"id": …}, "conf-00": {"id": …, "supervisor_token": …}}}

A sandbox with a token is supervised by the suite, one without by the target. The suite asks for `own` where it judges content, and plays that
supervisor too, with a sandbox in memory, if the target gives a token instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from openshell_files_conformance.checks import CannotGoOnError, CaseContext, Transcript
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.client import ANSWER_SECONDS
from openshell_files_conformance.peers.gateway_env import (
    ELSEWHERE,
    ONE,
    OUTSIDER,
    STACK,
    TWO,
    GatewayEnv,
    Sandbox,
)
from openshell_files_conformance.peers.idp import AUDIENCE, IdentityProvider
from openshell_files_conformance.peers.model_agent import ModelAgent
from openshell_files_conformance.peers.supervisor import Supervisor, file_transfer
from openshell_files_conformance.target.attach import attached
from openshell_files_conformance.target.launch import Ready, TargetNotReadyError, launched

#: Sandboxes whose supervisor the suite plays. A case takes one or two of them.
_SUITE_SANDBOXES: Final = 16
_WORKSPACES: Final = (
    {"name": "default", "members": [ONE, TWO]},
    {"name": "elsewhere", "members": [OUTSIDER]},
)
#: Capabilities that the suite finds out itself.
SUITE_SUPERVISOR: Final = "suite-supervisor"
OWN_SANDBOX: Final = "own-sandbox"


class GatewayTarget:
    """A gateway that runs, with the issuer and the sandboxes around it.

    Attributes:
        sandboxes: by their names.
        launched: the suite started the target, and may stop it.
    """

    def __init__(
        self, ready: Ready, idp: IdentityProvider, declared: frozenset[str], log: Path | None = None
    ) -> None:
        self.ready = ready
        self.idp = idp
        self.sandboxes = {
            name: Sandbox(
                name,
                str(facts.get("id", "")),
                str(facts.get("supervisor_token", "")),
                "elsewhere" if name == ELSEWHERE else "default",
            )
            for name, facts in ready.sandboxes.items()
        }
        self._declared = declared
        self._log = log
        self._free: asyncio.Queue[Sandbox] = asyncio.Queue()
        for one in self.sandboxes.values():
            if one.token and one.name not in {STACK, ELSEWHERE}:
                self._free.put_nowait(one)
        self.transcript = Transcript()
        self._stack: asyncio.Future[str] | None = None
        self._supervisor: Supervisor | None = None
        self.elsewhere = asyncio.Lock()

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return self.ready.endpoint

    @property
    def pid(self) -> int | None:
        """Process of the gateway."""
        return self.ready.pid

    @property
    def capabilities(self) -> frozenset[str]:
        """What the target declared, and who supervises its sandboxes."""
        found = set(self._declared)
        stack = self.sandboxes.get(STACK)
        if stack is not None and not stack.token:
            found.add(OWN_SANDBOX)
        if any(one.token for one in self.sandboxes.values()):
            found.add(SUITE_SUPERVISOR)
        return frozenset(found)

    def env(self, context: CaseContext) -> GatewayEnv:
        """Return the environment of one case."""
        return GatewayEnv(context, self)

    async def take(self) -> Sandbox:
        """Take a sandbox for a case alone; wait until one is free."""
        return await self._free.get()

    def give_back(self, sandbox: Sandbox) -> None:
        """Let other cases have a sandbox."""
        self._free.put_nowait(sandbox)

    async def stack_ready(self) -> None:
        """See that the sandbox where content is judged has a supervisor, the target's own or the suite's.

        Raises:
            CannotGoOnError: the gateway does not take the suite's.
        """
        stack = self.sandboxes.get(STACK)
        if stack is None or not stack.token:
            return
        if self._stack is None:
            self._stack = asyncio.get_running_loop().create_future()
            self._stack.set_result(await self._supervise(stack))
        problem = await asyncio.shield(self._stack)
        if problem:
            raise CannotGoOnError(problem)

    async def _supervise(self, stack: Sandbox) -> str:
        transcript = self.transcript
        self._supervisor = Supervisor(self.endpoint, stack.id, stack.token, "", transcript)
        announced = file_transfer(
            digests=[files_pb2.DIGEST_ALGORITHM_SHA256, files_pb2.DIGEST_ALGORITHM_BLAKE3],
            keeps_relays=True,
            takes_waiting=True,
            max_chunk_bytes=1 << 20,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                session = await self._supervisor.connected(file_transfer=announced)
        except (CannotGoOnError, TimeoutError) as error:
            return f"the suite's own sandbox cannot be connected: {error}"
        session.serve = ModelAgent().serve
        return ""

    async def close(self) -> None:
        """Leave the sandbox where content is judged."""
        if self._supervisor is not None:
            await self._supervisor.close()
            if self._log is not None:
                self._log.write_text("".join(f"{event}\n" for event in self.transcript), "utf-8")


class GatewayRole:
    """Starts the gateway that is judged."""

    @asynccontextmanager
    async def start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[GatewayTarget]:
        """Start a target; leaving the context stops it and the issuer.

        Raises:
            UnsupportedLaunchError: the target cannot be launched with these settings.
            TargetNotReadyError: the target did not become ready.
        """
        if not config.command:
            async with self._attached(config, settings) as target:
                yield target
            return
        state = run_dir / "target"
        state.mkdir()
        async with IdentityProvider() as idp:
            message = {
                "role": "gateway",
                "run_dir": str(state),
                "oidc": idp.facts,
                "workspaces": [dict(one) for one in _WORKSPACES],
                "sandboxes": _wanted(),
                "settings": dict(settings),
            }
            async with (
                launched(
                    config.command,
                    message,
                    log=run_dir / "target.stderr",
                    ready_timeout=config.ready_timeout * config.scale,
                ) as running,
                _target(running.ready, idp, config, run_dir / "suite-sandbox.log") as target,
            ):
                yield target

    @asynccontextmanager
    async def _attached(
        self, config: TargetConfig, settings: Mapping[str, Any]
    ) -> AsyncGenerator[GatewayTarget]:
        """Attach to a gateway that runs, and be the issuer that it is configured for."""
        ready = attached(config, settings)
        oidc = cast(Mapping[str, str], ready.facts.get("oidc", {}))
        issuer = urlsplit(oidc.get("issuer", ""))
        if issuer.scheme != "http" or issuer.hostname != "127.0.0.1" or not issuer.port:
            raise TargetNotReadyError(
                "[gateway.attach] oidc.issuer is where the suite's issuer listens: http://127.0.0.1:PORT"
            )
        idp = IdentityProvider(issuer.port, oidc.get("audience", AUDIENCE))
        async with idp, _target(ready, idp, config) as target:
            yield target


@asynccontextmanager
async def _target(
    ready: Ready, idp: IdentityProvider, config: TargetConfig, log: Path | None = None
) -> AsyncGenerator[GatewayTarget]:
    if not ready.endpoint:
        raise TargetNotReadyError("the ready message of a gateway has its endpoint")
    target = GatewayTarget(ready, idp, ready.capabilities | config.capabilities, log)
    try:
        yield target
    finally:
        await target.close()


def _wanted() -> list[dict[str, str]]:
    """Return the sandboxes that a launch asks for."""
    own = {"name": STACK, "workspace": "default", "supervisor": "own"}
    elsewhere = {"name": ELSEWHERE, "workspace": "elsewhere", "supervisor": "suite"}
    suite = [
        {"name": f"conf-{number:02}", "workspace": "default", "supervisor": "suite"}
        for number in range(_SUITE_SANDBOXES)
    ]
    return [own, elsewhere, *suite]
