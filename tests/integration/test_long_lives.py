"""A month in miniature: tokens expire, connections grow old, proxies cut what is idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from conditions import block_until
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files import AsyncFilesClient, OidcAuth
from openshell_files_gateway.config.tables import RelaySettings, SandboxTokenSettings
from openshell_files_gateway.dev.process import Child
from openshell_files_gateway.installed import command
from proxies import IDLE_SECONDS, PROXIES, proxy

CONTENT = bytes(range(256)) * 20_000
#: Seconds that a sandbox's token is valid: it is renewed several times in a test.
TOKEN_SECONDS = 4.0
#: Well below what the proxies take for idle.
HEARTBEAT_SECONDS = 1.0


@asynccontextmanager
async def supervised(harness: GatewayHarness, endpoint: str, directory: Path) -> AsyncGenerator[Path]:
    """Run a sandbox's supervisor, connected by this address; gives its token file."""
    root, token = directory / "root", directory / "token"
    root.mkdir()
    token.write_text(harness.access.sandbox_tokens.mint(SANDBOX).token)
    token.chmod(0o600)
    arguments = [
        command("openshell-supervisor-sim"), "run", "--json", "--exit-on-stdin-close", "--log-format", "json",
        "--endpoint", endpoint, "--sandbox-id", SANDBOX, "--token-file", str(token),
        "--root", str(root), "--state-dir", str(directory / "state"), "--max-backoff", "0.2",
    ]  # fmt: skip
    child = Child("supervisor", lambda: arguments, log_file=directory / "supervisor.log", restart=False)
    await child.start(ready_line=True)
    try:
        yield token
    finally:
        await child.stop()


async def renewed(token: Path, times: int) -> None:
    """Wait until the token was exchanged so many times."""
    for _ in range(times):
        await asyncio.to_thread(_wait_for_another, token)


def _wait_for_another(token: Path) -> None:
    before = token.read_text()
    block_until(lambda: token.read_text() != before, "the token is renewed")


async def both_ways(harness: GatewayHarness, endpoint: str, name: str) -> None:
    auth = OidcAuth(harness.identity_provider.issue())
    async with AsyncFilesClient(endpoint, auth=auth) as client:
        files = client.sandbox("demo")
        await files.write_bytes(name, CONTENT)
        assert await files.read_bytes(name) == CONTENT


@pytest.mark.parametrize("through", ["", *PROXIES], ids=["directly", *PROXIES])
async def test_a_session_outlives_its_tokens(tmp_path: Path, through: str) -> None:
    """AUT-3, RLY-7: the same session all the time, over a proxy that closes what is idle too, and files pass."""
    async with AsyncExitStack() as scene:
        harness = await scene.enter_async_context(
            running_gateway(
                relay=RelaySettings(heartbeat_interval=HEARTBEAT_SECONDS),
                sandbox_tokens=SandboxTokenSettings(ttl=TOKEN_SECONDS),
            )
        )
        endpoint = harness.endpoint
        if through:
            endpoint = scene.enter_context(proxy(through, endpoint, tmp_path))
        token = await scene.enter_async_context(supervised(harness, endpoint, tmp_path))
        await both_ways(harness, endpoint, "before")
        await renewed(token, 1 + round(2 * IDLE_SECONDS / TOKEN_SECONDS))
        await both_ways(harness, endpoint, "after")
        sessions = harness.gateway.statistics().broker.sessions
        assert (sessions.registered, sessions.current) == (1, 1)


async def test_connections_that_grow_old(tmp_path: Path) -> None:
    """RSM-4: a supervisor whose connection is closed for its age is back at once; every call finds it."""
    aged = {"max_connection_age": 1.0, "connection_age_grace": 0.5}
    async with (
        running_gateway(relay=RelaySettings(heartbeat_interval=HEARTBEAT_SECONDS), server=aged) as harness,
        supervised(harness, harness.endpoint, tmp_path),
    ):
        number = 0
        while harness.gateway.statistics().broker.sessions.registered < 4:
            await both_ways(harness, harness.endpoint, f"file {number}")
            number += 1
        assert number > 1


@pytest.mark.long
async def test_pings_of_real_peers(tmp_path: Path) -> None:
    """Upstream's supervisors ping every 10 s, also when nothing else moves; gRPC's default would send them away with
    too_many_pings after 30 s."""
    async with (
        running_gateway(relay=RelaySettings(heartbeat_interval=3600, silence_timeout=7200)) as harness,
        supervised(harness, harness.endpoint, tmp_path),
    ):
        await asyncio.sleep(45)  # silence is what is tested
        await both_ways(harness, harness.endpoint, "file")
        assert harness.gateway.statistics().broker.sessions.registered == 1
