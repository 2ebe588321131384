"""The role of a supervisor: it is given a gateway, a token and a root, and judged by what it sends and what is in the root.

→ {"type": "launch", "protocol": 1, "role": "supervisor", "run_dir": …, "endpoint": "127.0.0.1:41231",
   "sandbox": {"id": …, "token": …}, "root": "/tmp/…", "workdir": "/sandbox", "settings": {…}}
← {"type": "ready", "pid": 123, "capabilities": ["tcp"]}
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shlex
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from openshell_files_conformance.checks import CannotGoOnError, CaseContext
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.pb.openshell.v1 import files_pb2, openshell_pb2
from openshell_files_conformance.peers.deep_tree import remove
from openshell_files_conformance.peers.gateway import RECONNECT_SECONDS, FakeGateway
from openshell_files_conformance.peers.gateway_streams import GatewaySession
from openshell_files_conformance.peers.sandbox_root import LocalRoot, Performs, SandboxFiles, probed
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.target.attach import attached
from openshell_files_conformance.target.launch import (
    Launched,
    Ready,
    TargetNotReadyError,
    UnsupportedLaunchError,
    launched,
)

#: The user of the sandbox where the suite may choose one: no user of the machine.
SANDBOX_USER: Final = 54321
WORKDIR: Final = "/sandbox"
#: A launch with this setting has its root on a file system of so many bytes; the suite mounts it.
ROOT_BYTES: Final = "root_bytes"
#: A launch with this setting has another working directory.
WORKDIR_SETTING: Final = "workdir"
#: A launch with this setting has procfs at `/kernel`, and another file system at `/mounts/inner`; the suite mounts them.
MOUNTS: Final = "mounts"
_OF_THE_SUITE: Final = frozenset({ROOT_BYTES, WORKDIR_SETTING, MOUNTS})


class SupervisorTarget:
    """A supervisor that runs, and the gateway and files around it."""

    def __init__(
        self, gateway: FakeGateway, files: SandboxFiles, sandbox_id: str, token: str, workdir: str
    ) -> None:
        self.gateway = gateway
        self.files = files
        self.sandbox_id = sandbox_id
        self.token = token
        self.workdir = workdir
        self.ready = Ready()
        self.launcher: _Launcher | None = None
        self._hello = openshell_pb2.SupervisorHello()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the target said when it was ready."""
        return self.ready.facts

    @property
    def uid(self) -> int | None:
        """The user that the target runs as, if its process can be seen."""
        if self.launcher is None or self.ready.pid is None:
            return None
        with suppress(OSError):
            return os.stat(f"/proc/{self.ready.pid}").st_uid
        return None

    @property
    def capabilities(self) -> frozenset[str]:
        """What the target declared, what its hello announces, and what the way of its start allows."""
        found = set(self.ready.capabilities) | announced(self._hello)
        if self.launcher is not None:
            found.add("relaunch")
        if self.uid not in {None, 0}:
            # Nothing is denied to root, so nothing can be said about what is.
            found.add("unprivileged")
        return frozenset(found)

    def env(self, context: CaseContext) -> SupervisorEnv:
        """Return the environment of one case."""
        return SupervisorEnv(context, self)

    async def session(self) -> GatewaySession:
        """Return the newest session, or wait for the next if it is over."""
        async with asyncio.timeout(RECONNECT_SECONDS):
            while True:
                found = await self.gateway.session()
                if not found.over.is_set():
                    return found
                await self.gateway.session(after=len(self.gateway.sessions), seconds=RECONNECT_SECONDS)

    async def connected(self, seconds: float) -> None:
        """Wait for the first session."""
        self._hello = (await self.gateway.session(seconds=seconds)).hello

    async def kill(self) -> None:
        """End the target's process at once, as a crash does."""
        if self.launcher is None:
            raise CannotGoOnError("a target that was not launched by the suite cannot be killed")
        await self.launcher.kill()

    async def relaunch(self) -> None:
        """Start the target again on the same root and state."""
        if self.launcher is None:
            raise CannotGoOnError("a target that was not launched by the suite cannot be started again")
        before = len(self.gateway.sessions)
        self.ready = (await self.launcher.start()).ready
        await self.gateway.session(after=before)

    async def second(self, seconds: float) -> bool:
        """Start another target beside this one, on the same root and state; whether it becomes ready in time."""
        if self.launcher is None:
            raise CannotGoOnError("a target that was not launched by the suite has no second one")
        return await self.launcher.second(seconds)


def announced(hello: openshell_pb2.SupervisorHello) -> set[str]:
    """Return the capabilities that a hello announces."""
    said = hello.file_transfer
    flags = {
        "files": hello.HasField("file_transfer"),
        "exec": hello.HasField("exec"),
        "keeps-relays": said.keeps_relays,
        "waiting": said.takes_waiting,
        "directories": said.serves_directories,
        "trees": said.serves_trees,
        "archives": said.serves_archives,
        "blake3": files_pb2.DIGEST_ALGORITHM_BLAKE3 in said.digests,
    }
    return {name for name, value in flags.items() if value}


class _Launcher:
    """Starts the target's launcher, as often as a case wants it."""

    def __init__(self, config: TargetConfig, message: Mapping[str, Any], log: Path) -> None:
        self._config = config
        self._message = message
        self._log = log
        self._stack = AsyncExitStack()
        self._running: Launched | None = None

    async def start(self) -> Launched:
        """Start a launcher, and wait until its target is ready."""
        self._running = await self._stack.enter_async_context(
            launched(
                self._config.command,
                self._message,
                log=self._log,
                ready_timeout=self._config.ready_timeout * self._config.scale,
            )
        )
        return self._running

    async def second(self, seconds: float) -> bool:
        """Start another launcher for the same run, and stop it; whether its target became ready in time."""
        start = launched(self._config.command, self._message, log=self._log, ready_timeout=seconds)
        with suppress(TargetNotReadyError):
            async with start:
                return True
        return False

    async def kill(self) -> None:
        """Kill the target, and wait until its launcher is gone."""
        running, self._running = self._running, None
        if running is None:
            return
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        """Stop the launcher in order."""
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


class SupervisorRole:
    """Starts supervisors, each with a gateway and a root of its own."""

    def __init__(self) -> None:
        # One that runs already knows one address, so only one launch at a time can have it.
        self._address = asyncio.Lock()

    @asynccontextmanager
    async def start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[SupervisorTarget]:
        """Start a supervisor, and wait for its session."""
        start = self._attached if config.endpoint else self._launched
        async with start(config, settings, run_dir) as target:
            try:
                await target.connected(config.ready_timeout * config.scale)
            except CannotGoOnError as error:
                raise TargetNotReadyError(str(error)) from error
            yield target

    @asynccontextmanager
    async def _launched(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[SupervisorTarget]:
        told = {name: value for name, value in settings.items() if name not in _OF_THE_SUITE}
        workdir = str(settings.get(WORKDIR_SETTING, WORKDIR))
        async with AsyncExitStack() as stack:
            # Not in the run's directory: the sandbox's user may not be able to enter that one.
            home = Path(tempfile.mkdtemp(prefix="openshell-conformance-"))
            stack.callback(remove, os.fsencode(home))
            os.chmod(home, 0o755)
            root = _root(stack, home, settings.get(ROOT_BYTES), workdir)
            if settings.get(MOUNTS):
                _mount_others(stack, root)
            state = home / "run"
            state.mkdir()
            token, sandbox_id = sandbox_token(), str(uuid.uuid4())
            gateway = FakeGateway(token)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            local = LocalRoot(root)
            target = SupervisorTarget(gateway, SandboxFiles(local), sandbox_id, token, workdir)
            message = {
                "role": "supervisor",
                "run_dir": str(state),
                "endpoint": gateway.endpoint,
                "sandbox": {"id": sandbox_id, "token": token},
                "root": str(root),
                "workdir": workdir,
                "settings": told,
            }
            target.launcher = _Launcher(config, message, run_dir / "target.stderr")
            stack.push_async_callback(target.launcher.stop)
            target.ready = (await target.launcher.start()).ready
            if target.uid is not None:
                local.give_to(target.uid)
            yield target

    @asynccontextmanager
    async def _attached(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[SupervisorTarget]:
        """Wait for a supervisor that runs already, and connects to the endpoint."""
        del run_dir
        ready = attached(config, settings)
        facts = ready.facts
        host, _, port = config.endpoint.rpartition(":")
        if host not in {"127.0.0.1", "localhost"} or not port.isdecimal():
            raise TargetNotReadyError(
                f"endpoint is where the suite listens, 127.0.0.1:PORT; not {config.endpoint}"
            )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._address)
            probe = facts.get("probe_command")
            performs: Performs
            if probe:
                command = shlex.split(probe) if isinstance(probe, str) else list(map(str, probe))
                performs = await stack.enter_async_context(probed(command))
            elif "root" in facts:
                performs = LocalRoot(Path(str(facts["root"])))
            else:
                raise TargetNotReadyError("[supervisor.attach] needs root, or probe_command for a remote one")
            sandbox = cast(Mapping[str, str], facts.get("sandbox", {}))
            gateway = FakeGateway(sandbox.get("token", ""))
            await gateway.start(int(port))
            stack.push_async_callback(gateway.stop)
            target = SupervisorTarget(
                gateway,
                SandboxFiles(performs),
                sandbox.get("id", ""),
                sandbox.get("token", ""),
                str(facts.get("workdir", WORKDIR)),
            )
            target.ready = ready
            yield target


def sandbox_token() -> str:
    """Return a token as a gateway signs them for a sandbox; to a supervisor it is a text."""
    now = int(time.time())
    claims = {"sub": secrets.token_hex(8), "iat": now, "exp": now + 86400}
    return jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA")


def _root(stack: AsyncExitStack, home: Path, size: int | None, workdir: str) -> Path:
    """Make the sandbox's root, on a small file system if a size is given."""
    root = home / "root"
    root.mkdir()
    if size is not None:
        _mount(stack, root, b"tmpfs", f"size={size},mode=755")
    (root / "tmp").mkdir()
    (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        for place in (root, *root.rglob("*")):
            os.chown(place, SANDBOX_USER, SANDBOX_USER)
    return root


_libc = ctypes.CDLL(None, use_errno=True)


def _mount_others(stack: AsyncExitStack, root: Path) -> None:
    for name in ("kernel", "mounts/inner"):
        (root / name).mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(root / "mounts", SANDBOX_USER, SANDBOX_USER)
    _mount(stack, root / "kernel", b"proc", "")
    _mount(stack, root / "mounts" / "inner", b"tmpfs", "size=1048576,mode=777")


def _mount(stack: AsyncExitStack, place: Path, kind: bytes, options: str) -> None:
    status = _libc.mount(b"none", os.fsencode(place), kind, 0, options.encode())
    if status != 0:
        raise UnsupportedLaunchError(
            f"{kind.decode()} at {place.name}, which the suite may not mount: {os.strerror(ctypes.get_errno())}"
        )
    stack.callback(_unmount, place)


def _unmount(place: Path) -> None:
    # 2: detach, even if a process still has a file there.
    _libc.umount2(os.fsencode(place), 2)
