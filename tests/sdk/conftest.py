"""A fake gateway for each test, and clients of both flavours that leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cli_scene import Cli
from fake_file_gateway import FakeGateway
from openshell_files import AsyncFilesClient, FilesClient, OidcAuth, SandboxFiles
from sdk_flavours import QUICK, BlockingView, Connect, big_content


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake = FakeGateway()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, gateway: FakeGateway) -> Generator[Connect]:
    """Return a function that connects to the fake gateway and gives a sandbox's files."""
    runner = asyncio.Runner()
    clients: list[FilesClient | AsyncFilesClient] = []

    def make(**options: Any) -> SandboxFiles:
        settings: dict[str, Any] = {"auth": OidcAuth("token"), "retry": QUICK} | options
        if request.param == "sync":
            client = FilesClient(gateway.address, **settings)
            clients.append(client)
            return client.sandbox("demo")
        other = AsyncFilesClient(gateway.address, **settings)
        clients.append(other)
        return cast("SandboxFiles", BlockingView(runner, other.sandbox("demo")))

    yield make
    for client in clients:
        if isinstance(client, FilesClient):
            client.close()
        else:
            runner.run(client.aclose())
    runner.close()
    # What was not closed or awaited complains when it is collected; warnings are errors.
    gc.collect()


@pytest.fixture
def sandbox(connect: Connect) -> SandboxFiles:
    return connect()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Return a file of several chunks that does not compress to a pattern."""
    path = tmp_path / "big.bin"
    path.write_bytes(big_content())
    path.chmod(0o640)
    return path


@pytest.fixture
def cli(gateway: FakeGateway, tmp_path: Path) -> Cli:
    """Return the command line, with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    return Cli(gateway, home)
