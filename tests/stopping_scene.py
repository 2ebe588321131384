"""A gateway and a supervisor as processes of their own, to be stopped in the middle of something."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
from conditions import until
from dev_command import command
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer
from openshell_files_gateway.config.signing_key import load_or_create_signing_key
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_protocol import methods
from openshell_files_protocol.limits import STREAM_OPTIONS
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from proxies import free_port

SANDBOX = "5f1c9a52-5d0c-4b57-9f38-0c5f6e1f2a3b"
STAGING = ".openshell-upload-"

#: `server.stop_timeout` and `--drain-timeout`, and what docs/operations.md adds to them: "a few seconds".
STOP_SECONDS = 1.0
FEW_SECONDS = 7.0


@dataclass
class Scene:
    """What runs, and where."""

    home: Path
    endpoint: str
    token: str
    processes: dict[str, subprocess.Popen[Any]] = field(default_factory=dict[str, "subprocess.Popen[Any]"])

    @property
    def directory(self) -> Path:
        """The sandbox's working directory."""
        return self.home / "root" / "sandbox"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text("utf-8", "replace")

    def start(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a process whose standard error is a log."""
        with (self.home / f"{name}.log").open("ab") as log:
            wanted: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": log} | options
            process: subprocess.Popen[Any] = subprocess.Popen(arguments, **wanted)
        self.processes[name] = process
        return process

    def start_gateway(self, **options: Any) -> None:
        self.start(
            "gateway", command("openshell-files-gateway"), "serve", "--config", str(self.home / "gateway.toml"),
            stdout=subprocess.DEVNULL, **options,
        )  # fmt: skip

    def start_supervisor(self, *more: str, endpoint: str = "", **options: Any) -> None:
        self.start(
            "supervisor", command("openshell-supervisor-sim"), "run", "--log-format", "json",
            "--endpoint", endpoint or self.endpoint, "--sandbox-id", SANDBOX, "--token-file", str(self.home / "token"),
            "--root", str(self.home / "root"), "--workdir", "/sandbox", "--state-dir", str(self.home / "state"),
            "--max-backoff", "0.2", "--drain-timeout", str(STOP_SECONDS), *more,
            stdout=subprocess.DEVNULL, **options,
        )  # fmt: skip

    async def connected(self) -> None:
        await until(lambda: "session accepted" in self.log("supervisor"), lambda: self.log("supervisor"))

    def cli(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        """Start the CLI of a user."""
        environment = os.environ | {
            "HOME": str(self.home),
            "OPENSHELL_FILES_ENDPOINT": self.endpoint,
            "OPENSHELL_FILES_TOKEN": self.token,
        }
        return self.start(
            "cli", command("openshell-files"), *arguments, cwd=self.home, env=environment,
            **({"stdout": subprocess.DEVNULL} | options),
        )  # fmt: skip

    async def ends(self, name: str, status: int, seconds: float) -> None:
        """Send SIGTERM and wait for the end that is documented."""
        process = self.processes[name]
        began = time.monotonic()
        process.terminate()
        await until(
            lambda: process.poll() is not None,
            lambda: f"{name} has stopped; it says {self.log(name)[-3000:]}",
            patience=seconds,
        )
        assert process.returncode == status, self.log(name)
        print(f"{name} ended after {time.monotonic() - began:.1f} s")

    async def stands_still(self, *names: str) -> None:
        """Wait until the processes read and write no files and pipes any more."""
        await unchanged(lambda: [_moved(self.processes[name].pid) for name in names], "nothing moves")

    def staged(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name.startswith(STAGING)]


async def unchanged(measure: Callable[[], object], what: str) -> None:
    """Wait until a measure was the same five looks long."""
    seen: list[object] = []

    def same() -> bool:
        seen.append(measure())
        return len(seen) >= 5 and all(one == seen[-1] for one in seen[-5:])

    await until(same, what)


def _moved(pid: int) -> int:
    return counted(pid, "rchar") + written(pid)


def written(pid: int) -> int:
    """Return the bytes that a process has written to files and pipes."""
    return counted(pid, "wchar")


def counted(pid: int, field: str) -> int:
    """Return a field of what the kernel counts of a process's reading and writing."""
    text = Path(f"/proc/{pid}/io").read_text("ascii")
    return int(text.partition(f"{field}: ")[2].split()[0])


@asynccontextmanager
async def stopping_scene(
    home: Path, provider: DevelopmentIdentityProvider, *, starts: Sequence[str] = ("gateway", "supervisor"),
    issuer: str = "",
) -> AsyncGenerator[Scene]:  # fmt: skip
    """Run what is wanted; whatever of it is left at the end is killed."""
    for name in ("sandbox", "tmp"):
        (home / "root" / name).mkdir(parents=True)
    (home / "state").mkdir(mode=0o700)
    key_file = home / "key.pem"
    minted = SandboxTokenIssuer(load_or_create_signing_key(key_file), gateway_id="stopping", ttl=3600)
    (home / "token").write_text(minted.mint(SANDBOX).token, "ascii")
    (home / "token").chmod(0o600)
    port = free_port()
    config = {
        "gateway_id": "stopping",
        "server": {"port": port, "stop_timeout": STOP_SECONDS},
        "tls": {"disabled": True},
        "oidc": {
            "issuer": issuer or provider.issuer, "audience": provider.audience, "dangerously_allow_insecure_http": True,
        },
        "sandbox_tokens": {"signing_key": str(key_file)},
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for table, values in config.items():
        if isinstance(values, dict):
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    lines += ["[[sandboxes]]", f"id = '{SANDBOX}'", "name = 'demo'"]
    lines += ["[[workspaces]]", "name = 'default'", f"members = [{{ subject = '{provider.client_id}' }}]"]
    (home / "gateway.toml").write_text("\n".join(lines) + "\n", "utf-8")
    scene = Scene(home, f"127.0.0.1:{port}", provider.issue())
    try:
        if "gateway" in starts:
            scene.start_gateway()
        if "supervisor" in starts:
            scene.start_supervisor()
            await scene.connected()
        elif "gateway" in starts:
            await until(lambda: "gateway listens" in scene.log("gateway"), lambda: scene.log("gateway"))
        yield scene
    finally:
        for process in scene.processes.values():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


class Caller:
    """Calls of a user that are begun, and then left alone."""

    def __init__(self, scene: Scene, channel: grpc.aio.Channel) -> None:
        self._scene = scene
        self._channel: Any = channel

    def upload(self) -> Any:
        begin = self._channel.stream_unary(methods.UPLOAD_FILE)
        return begin(metadata=self._scene.metadata, wait_for_ready=True)

    def stream(self, method: str, request: bytes) -> Any:
        begin = self._channel.unary_stream(method)
        return begin(request, metadata=self._scene.metadata, wait_for_ready=True)

    async def ask(self, method: str, request: bytes) -> bytes:
        call = self._channel.unary_unary(method)
        answer: bytes = await call(request, metadata=self._scene.metadata, wait_for_ready=True)
        return answer


@asynccontextmanager
async def caller(scene: Scene) -> AsyncGenerator[Caller]:
    """Connect; what was begun is cancelled at the end."""
    # A window as small as other clients have: what stands still, stands still soon.
    options = [*STREAM_OPTIONS, ("grpc.http2.lookahead_bytes", 65_536), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(scene.endpoint, options) as channel:
        yield Caller(scene, channel)


def first_message(path: str, **fields: Any) -> bytes:
    """Return an upload's first message."""
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=SANDBOX, remote_path=path, explicit_finish=True, **fields
    )
    return files_pb2.UploadFileRequest(metadata=metadata).SerializeToString()


def fill(descriptor: int) -> None:
    """Fill a pipe to the last byte, whatever its other users do with it."""
    # Opened anew, so that only this description does not block.
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(again, b"." * size)
    finally:
        os.close(again)


def waiting_bytes(pipe: IO[bytes] | None) -> int:
    """Return how many bytes a pipe holds that nobody has read."""
    assert pipe is not None
    found = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, found)
    return found[0]
