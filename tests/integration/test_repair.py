"""The SDK and the command go on where a killed process stopped (RSM-4, DWN-6; must hold 6)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from cli_command import cli_result
from conditions import block_until
from dev_command import STOP_SECONDS, DevStack, command, descendants, dev_stack
from kill_client import content_of
from openshell_files import AsyncFilesClient, OidcAuth, RetryPolicy
from openshell_files.results import Progress

SIZE = 48 * 1024 * 1024
#: Of a download: its second half is more than all windows on the way hold, the client's 32 MiB among them,
#: so that what is killed in the middle still has something to send.
DOWNLOAD_SIZE = 4 * SIZE


@pytest.fixture(scope="module")
def breakable() -> Generator[DevStack, None, None]:
    """A stack in which things are killed and come back."""
    with dev_stack() as running:
        yield running


def _client(stack: DevStack) -> AsyncFilesClient:
    """Return a client that waits as long as a gateway takes to start on a busy machine."""
    return AsyncFilesClient(
        stack.endpoint, auth=OidcAuth(stack.token), retry=RetryPolicy(attempts=60, max_delay=1.0)
    )


def _pid(stack: DevStack, role: str) -> int:
    """Return the process of a role that runs now; the line has the first one's."""
    needle = {"gateway": "openshell-files-gateway serve", "supervisor": "openshell-supervisor-sim run"}[role]
    block_until(lambda: _found(stack, needle), f"a {role} runs")
    return _found(stack, needle)[0]


def _found(stack: DevStack, needle: str) -> list[int]:
    return [
        process.pid for process in descendants(stack.process.pid) if needle in " ".join(process.cmdline())
    ]


def _killer(stack: DevStack, role: str, after: int) -> tuple[Callable[[Progress], None], list[int]]:
    """Return a progress callback that kills once, after some bytes, and what it killed."""
    victim, killed = _pid(stack, role), list[int]()

    def watch(progress: Progress) -> None:
        if progress.transferred > after and not killed:
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    return watch, killed


@pytest.mark.parametrize("role", ["gateway", "supervisor"])
async def test_an_upload_goes_on(breakable: DevStack, tmp_path: Path, role: str) -> None:
    """RSM-4: what the sandbox had staged is not sent again; the file is whole."""
    source = tmp_path / "source"
    source.write_bytes(content_of("repair", SIZE))
    watch, killed = _killer(breakable, role, SIZE // 2)
    async with _client(breakable) as client:
        result = await client.sandbox("demo").upload_path(source, f"up-{role}", progress=watch)
        assert killed
        assert result.attempts > 1
        assert 0 < result.resumed_from < SIZE
        assert (breakable.sandboxes[0].directory / f"up-{role}").read_bytes() == source.read_bytes()
        assert await client.sandbox("demo").uploads() == []


@pytest.mark.parametrize("role", ["gateway", "supervisor"])
async def test_a_download_goes_on(breakable: DevStack, tmp_path: Path, role: str) -> None:
    """DWN-6: from the byte where it stopped, in the same version of the file."""
    content = content_of("repair", DOWNLOAD_SIZE)
    (breakable.sandboxes[0].directory / f"down-{role}").write_bytes(content)
    watch, killed = _killer(breakable, role, DOWNLOAD_SIZE // 2)
    async with _client(breakable) as client:
        result = await client.sandbox("demo").download_path(f"down-{role}", tmp_path / "f", progress=watch)
    assert killed
    assert result.attempts > 1
    assert result.resumed_from > 0
    assert (tmp_path / "f").read_bytes() == content
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    ("numbers", "status"),
    [
        ([signal.SIGKILL], -signal.SIGKILL),
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        # A terminal's Ctrl-C and a parent that stops its children, at once.
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], 130),
    ],
    ids=["killed", "interrupted", "terminated", "more than once"],
)
def test_the_command_is_killed_and_resumed(
    breakable: DevStack, tmp_path: Path, numbers: Sequence[signal.Signals], status: int
) -> None:
    """`upload --resume` finds what the killed command had staged."""
    source = tmp_path / "source"
    source.write_bytes(content_of("resumed", SIZE))
    directory = breakable.sandboxes[0].directory
    environment = breakable.environment() | {"XDG_STATE_HOME": str(tmp_path / "state")}
    process = subprocess.Popen(
        [command("openshell-files"), "upload", "demo", str(source), "resumed", "--json"],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    block_until(lambda: _staged(directory) > SIZE // 8, "some of it is staged")
    for number in numbers:
        process.send_signal(number)
    output, _ = process.communicate(timeout=STOP_SECONDS)
    if process.returncode == 0:
        pytest.fail("the command was faster than the signal; make the file larger")
    assert process.returncode == status
    if status > 0:
        assert json.loads(output)["ok"] is False
    assert not (directory / "resumed").exists()
    again = subprocess.run(
        [command("openshell-files"), "upload", "demo", str(source), "resumed", "--json", "--resume"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(again.stdout)
    assert 0 < result["resumed_from"] <= SIZE
    assert result["bytes_sent"] == SIZE - result["resumed_from"]
    assert (directory / "resumed").read_bytes() == source.read_bytes()
    (directory / "resumed").unlink()
    assert cli_result(breakable, "uploads", "demo", "--json")["uploads"] == []


def _staged(directory: Path) -> int:
    """Return the bytes in the staging files of a directory."""
    return sum(
        entry.stat().st_size for entry in os.scandir(directory) if entry.name.startswith(".openshell-upload-")
    )
