"""A store, a driver or a gateway that fails while a sandbox changes."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from conditions import until
from openshell_files_gateway.sandboxes.directory import Sandbox, SandboxDirectory
from openshell_files_gateway.simulation.core.sandbox_message import new_message
from openshell_files_gateway.simulation.lifecycle import SandboxLifecycle
from openshell_files_gateway.simulation.store import SandboxStore
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason
from sandbox_scene import (
    Everybody,
    FakeDriver,
    FakeSessions,
    Scene,
    phase_name,
    reason_of,
    requested,
    running,
)


@pytest.fixture
async def scene() -> AsyncGenerator[Scene, None]:
    async with running() as made:
        yield made


async def test_a_record_that_cannot_be_written_is_no_sandbox(scene: Scene) -> None:
    """IO_ERROR, and the name is free."""
    scene.store.fail = frozenset({"insert"})
    assert await reason_of(scene.create()) is Reason.IO_ERROR
    assert (scene.phase(), scene.driver.reached) == ("none", [])
    scene.store.fail = frozenset()
    await scene.create()


@pytest.mark.parametrize("change", ["stop", "start"])
async def test_a_promise_that_a_restart_would_break_is_not_given(scene: Scene, change: str) -> None:
    """SBX-2: IO_ERROR until the change is written down; repeating it goes on."""
    made = await scene.ready()
    if change == "start":
        await scene.lifecycle.stop(made)
    scene.store.fail = frozenset({"update"})
    for _ in range(2):
        assert await reason_of(getattr(scene.lifecycle, change)(made)) is Reason.IO_ERROR
    scene.store.fail = frozenset()
    await getattr(scene.lifecycle, change)(made)
    assert await scene.store.kept() == {"a": scene.phase()}
    assert scene.phase() == {"stop": "STOPPED", "start": "STARTING"}[change]


async def test_a_session_is_not_lost_over_a_disk_that_is_full(scene: Scene) -> None:
    """What happens to supervisors is true, written down or not."""
    made = await scene.ready()
    scene.store.fail = frozenset({"update"})
    await scene.lifecycle.disconnected(made.id)
    assert scene.phase() == "PROVISIONING"
    await scene.lifecycle.connected(made.id, "again")
    assert scene.phase() == "READY"


@pytest.mark.parametrize("failing", ["the driver", "the store"])
async def test_a_deletion_that_fails_can_be_repeated(scene: Scene, failing: str) -> None:
    """SBX-3: IO_ERROR; it stays DELETING and the name taken until nothing is left."""
    made = await scene.ready()
    if failing == "the driver":
        scene.driver.fail = {"remove"}
    else:
        scene.store.fail = frozenset({"delete", "update"})
    assert await reason_of(scene.lifecycle.delete(made)) is Reason.IO_ERROR
    assert scene.phase() == "DELETING"
    assert await reason_of(scene.create()) is Reason.SANDBOX_EXISTS
    assert await reason_of(scene.lifecycle.start(made)) is Reason.SANDBOX_NOT_READY
    scene.driver.fail, scene.store.fail = set(), frozenset()
    await scene.lifecycle.delete(made)
    assert (scene.phase(), scene.driver.files, await scene.store.kept()) == ("none", set(), {})


async def test_a_supervisor_that_cannot_be_started(scene: Scene) -> None:
    """SBX-4: ERROR with the reason, and started again when somebody wants it."""
    scene.driver.fail = {"start"}
    await scene.create()
    await until(lambda: scene.phase() == "ERROR", "it failed")
    [ready] = [one for one in scene.now().message.status.conditions if one.type == "Ready"]
    assert "No space left on device" in ready.message
    scene.driver.fail = set()
    assert phase_name((await scene.lifecycle.start(scene.now())).phase) == "STARTING"


async def test_a_supervisor_that_is_given_up(scene: Scene) -> None:
    made = await scene.ready()
    scene.lifecycle.failed(made.id, "it ended too often")
    await until(lambda: scene.phase() == "ERROR", "it failed")
    await scene.lifecycle.start(made)
    await scene.lifecycle.connected(made.id, "again")
    assert scene.phase() == "READY"


@pytest.mark.parametrize(
    ("left_in", "after", "running_after"),
    [
        ("READY", "PROVISIONING", True),
        ("STARTING", "STARTING", True),
        ("STOPPING", "STOPPED", False),
        ("STOPPED", "STOPPED", False),
        ("ERROR", "ERROR", False),
        ("DELETING", "none", False),
    ],
)
async def test_the_next_gateway_goes_on(tmp_path: Any, left_in: str, after: str, running_after: bool) -> None:  # noqa: FBT001
    """SBX-2: whatever it finds, also in the middle of something."""
    message = new_message("id-a", "a", "default", 1.0)
    message.status.phase = sandboxes_pb2.SandboxPhase.Value(f"SANDBOX_PHASE_{left_in}")
    first = SandboxStore(tmp_path / "db")
    await first.open()
    await first.insert(message, None)
    await first.aclose()
    driver = FakeDriver(running={"id-a"} if left_in in ("READY", "STOPPING", "DELETING") else set())
    directory = SandboxDirectory([], Everybody())
    lifecycle = SandboxLifecycle(
        directory, SandboxStore(tmp_path / "db"), driver, FakeSessions(), max_sandboxes=4
    )
    await lifecycle.load()
    await lifecycle.resume()
    await until(lambda: not lifecycle._tasks, "it went on")
    found = directory.find("id-a")
    assert ("none" if found is None else phase_name(found.phase)) == after
    assert bool(driver.running) == running_after
    await lifecycle.aclose()


async def test_a_name_of_the_configuration_that_was_used_before(tmp_path: Any) -> None:
    first = SandboxStore(tmp_path / "db")
    await first.open()
    await first.insert(new_message("id-a", "a", "default", 1.0), None)
    await first.aclose()
    directory = SandboxDirectory([Sandbox(id="c", name="a")], Everybody())
    lifecycle = SandboxLifecycle(
        directory, SandboxStore(tmp_path / "db"), None, FakeSessions(), max_sandboxes=4
    )
    with pytest.raises(ValueError, match="exists already"):
        await lifecycle.load()
    await lifecycle.aclose()


async def test_the_end_of_the_gateway_leaves_sandboxes_as_they_are(tmp_path: Any) -> None:
    """SBX-2: a removal that is cut goes on with the next gateway; nothing happens after the end."""
    store, driver = SandboxStore(tmp_path / "db"), FakeDriver()
    directory = SandboxDirectory([], Everybody())
    lifecycle = SandboxLifecycle(directory, store, driver, FakeSessions(), max_sandboxes=4)
    await lifecycle.load()
    made = await lifecycle.create(requested("a"), None)
    await until(lambda: driver.running, "it runs")
    driver.hold("remove")
    deleting = asyncio.create_task(lifecycle.delete(made))
    await until(lambda: "remove" in driver.reached, "it is being removed")
    await lifecycle.aclose()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    lifecycle.failed(made.id, "after the end")
    assert not lifecycle._tasks
    again = SandboxStore(tmp_path / "db")
    [left] = await again.open()
    assert phase_name(left.status.phase) == "DELETING"
    await again.aclose()
