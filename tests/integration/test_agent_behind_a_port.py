"""A sandbox whose supervisor knows nothing of files: an agent of its own, reached by the tcp target."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent.directory_calls import manifest, small_tree
from conditions import PATIENCE_SECONDS
from digest_values import words_of
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files import AsyncFilesClient, FilesError, OidcAuth, RetryPolicy
from openshell_files_gateway.config.tables import LimitSettings, SandboxSettings
from openshell_files_gateway.dev.process import Child
from openshell_files_gateway.installed import command

CONTENT = bytes(range(256)) * 30_000
ONE_TRY = RetryPolicy(attempts=1, outage_attempts=1)
SECRET, OTHER_SECRET = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@dataclass(frozen=True)
class Places:
    """Where the sandbox, its agent and its supervisor have their files."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "root"

    def secret(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.write_text(text + "\n")
        file.chmod(0o600)
        return file


@asynccontextmanager
async def agent(places: Places, secret: Path) -> AsyncGenerator[tuple[Child, int]]:
    """Run the agent that stands alone; gives it and its port."""
    arguments = [
        command("openshell-supervisor-sim"), "agent", "--json", "--exit-on-stdin-close", "--root", str(places.root),
        "--state-dir", str(places.directory / "state"), "--secret-file", str(secret),
        "--listen", "127.0.0.1:0", "--log-format", "json",
    ]  # fmt: skip
    child = Child("agent", lambda: arguments, log_file=places.directory / "agent.log", restart=False)
    ready = json.loads(await child.start(ready_line=True))
    try:
        yield child, int(ready["listening"].rpartition(":")[2])
    finally:
        await child.stop()


@asynccontextmanager
async def supervisor(harness: GatewayHarness, places: Places) -> AsyncGenerator[None]:
    """Run a supervisor that announces no files; sandbox-side, only its tcp target leads to the agent."""
    token = places.secret("token", harness.access.sandbox_tokens.mint(SANDBOX).token)
    arguments = [
        command("openshell-supervisor-sim"), "run", "--json", "--exit-on-stdin-close", "--no-files", "--no-exec",
        "--endpoint", harness.endpoint, "--sandbox-id", SANDBOX, "--token-file", str(token),
        "--root", str(places.root), "--state-dir", str(places.directory / "unused"), "--log-format", "json",
    ]  # fmt: skip
    child = Child(
        "supervisor", lambda: arguments, log_file=places.directory / "supervisor.log", restart=False
    )
    await child.start(ready_line=True)
    try:
        yield
    finally:
        await child.stop()


@asynccontextmanager
async def scene(
    places: Places, *, agents_secret: str = SECRET, limits: LimitSettings | None = None
) -> AsyncGenerator[tuple[AsyncFilesClient, Child]]:
    """Run everything, and give a client and the agent."""
    places.root.mkdir()
    shared = places.secret("gateway-secret", SECRET)
    async with agent(places, places.secret("agent-secret", agents_secret)) as (child, port):
        sandbox = SandboxSettings(id=SANDBOX, name="demo", agent_port=port, agent_secret=shared)
        async with (
            running_gateway(changes={"sandboxes": (sandbox,)}, limits=limits) as harness,
            supervisor(harness, places),
        ):
            auth = OidcAuth(harness.identity_provider.issue())
            async with AsyncFilesClient(harness.endpoint, auth=auth, retry=ONE_TRY) as client:
                yield client, child
                assert harness.gateway.statistics().transfers.active == 0


async def test_files_by_an_agent_of_its_own(tmp_path: Path) -> None:
    """FRM-8, UPL-3, DWN-2: up, down, ranges, resumption's questions, as through a supervisor that serves files."""
    places = Places(tmp_path)
    async with scene(places) as (client, _):
        files = client.sandbox("demo")
        uploaded = await files.write_bytes("/file", CONTENT)
        assert uploaded.digest == words_of(CONTENT)
        assert (places.root / "file").read_bytes() == CONTENT
        assert await files.read_bytes("/file") == CONTENT
        assert (await files.stat("/file")).size == len(CONTENT)
        assert await files.uploads() == []


async def test_trees_by_an_agent_of_its_own(tmp_path: Path) -> None:
    """TRE-1, FRM-8: nobody announces what such an agent serves, and it serves trees."""
    places = Places(tmp_path)
    small_tree(tmp_path / "source")
    async with scene(places) as (client, _):
        files = client.sandbox("demo")
        assert (await files.upload_tree(tmp_path / "source", "/tree")).complete
        assert manifest(places.root / "tree") == manifest(tmp_path / "source")
        assert (await files.download_tree("/tree", tmp_path / "down")).complete
        assert manifest(tmp_path / "down") == manifest(tmp_path / "source")


async def test_the_wrong_agent(tmp_path: Path) -> None:
    """FRM-21: what does not know the secret gets not a byte."""
    places = Places(tmp_path)
    async with scene(places, agents_secret=OTHER_SECRET) as (client, _):
        with pytest.raises(FilesError) as caught:
            await client.sandbox("demo").write_bytes("/file", CONTENT)
        assert caught.value.reason == "AGENT_UNAUTHENTICATED"
    assert not (places.root / "file").exists()


async def test_an_agent_that_is_killed_during_a_download(tmp_path: Path) -> None:
    """FRM-14: the caller hears of it as soon as the port is gone, long before anybody is idle for too long."""
    places = Places(tmp_path)
    patient = LimitSettings(idle_timeout=3600)
    async with scene(places, limits=patient) as (client, child):
        with (places.root / "large").open("wb") as file:
            for _ in range(64):
                file.write(CONTENT)

        pid = child.pid

        def kill(_: bytes) -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(FilesError) as caught:
                await client.sandbox("demo").download("/large", kill)
        assert caught.value.reason in {"RELAY_LOST", "FILES_UNSUPPORTED"}
