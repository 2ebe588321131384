"""The next gateway finds the supervisors of an earlier one in the process table."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from driver_scene import ID, Scene, drivers_in, ended
from openshell_files_gateway.simulation.processes.process_table import HeldProcess


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    async with drivers_in(tmp_path) as scene:
        yield scene


@pytest.mark.parametrize("in_order", [True, False])
async def test_the_next_gateway_finds_it(scene: Scene, in_order: bool) -> None:  # noqa: FBT001
    """SBX-2: it is not started twice, gets a fresh token, and is watched and stopped like any other."""
    first = scene.driver()
    await first.start(ID)
    said = await scene.started()
    if in_order:
        await first.aclose(stop=False)
    second = scene.driver()
    second._tokens.mint("so that tokens differ")
    await second.start(ID)
    assert [start["pid"] for start in scene.starts()] == [said["pid"]]
    assert (scene.home / "token").read_text() == f"token 2 of {ID}"
    await first.aclose(stop=False)
    os.kill(said["pid"], signal.SIGKILL)
    again = await scene.started(2)
    await second.aclose(stop=True)
    assert ended(again["pid"])


async def test_found_by_another_way_to_the_same_directory(scene: Scene, tmp_path: Path) -> None:
    """SBX-2: a link to it, for one."""
    await scene.driver().start(ID)
    said = await scene.started()
    (tmp_path / "link").symlink_to(scene.directory)
    other = scene.driver(directory=tmp_path / "link")
    await other.start(ID)
    assert len(scene.starts()) == 1
    await other.stop(ID)
    assert ended(said["pid"])


@pytest.mark.parametrize("change", ["endpoint", "arguments"])
async def test_one_with_other_options_is_replaced(scene: Scene, change: str) -> None:
    """SBX-2: one that would look for its gateway where none listens any more is of no use."""
    first = scene.driver()
    await first.start(ID)
    said = await scene.started()
    await first.aclose(stop=False)
    second = scene.driver(endpoint="127.0.0.1:2") if change == "endpoint" else scene.driver("--new", "option")
    await second.start(ID)
    replaced = await scene.started(2)
    assert ended(said["pid"])
    assert not ended(replaced["pid"])


async def test_who_only_mentions_the_token_is_no_supervisor(scene: Scene) -> None:
    """An editor, or the operator's `tail`, is neither taken over nor ended."""
    scene.directory.mkdir()
    mark = f"{scene.home}/token"
    with sleeping(mark, "--sandbox-id", ID) as other:
        try:
            driver = scene.driver()
            await driver.start(ID)
            await scene.started()
            await driver.stop(ID)
            assert other.poll() is None
        finally:
            other.kill()


def sleeping(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", *arguments])


async def test_a_number_that_is_used_again_is_another_process() -> None:
    """What is held is the process, not its number."""
    with sleeping() as child:
        held = HeldProcess(child.pid)
        child.kill()
        child.wait()
        held.signal(signal.SIGKILL)
        await held.wait()
        held.close()
        held.close()
        with pytest.raises(ProcessLookupError):
            HeldProcess(child.pid)
