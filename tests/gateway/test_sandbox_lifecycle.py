"""Sandboxes are made, stopped, started and deleted, while everything else happens too."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from conditions import until
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from sandbox_scene import Scene, phase_name, reason_of, running


@pytest.fixture
async def scene() -> AsyncGenerator[Scene, None]:
    async with running() as made:
        yield made


async def test_made_and_ready(scene: Scene) -> None:
    """SBX-7, SBX-8: known at once, ready when its supervisor has a session, and not when it lost it."""
    held = scene.driver.hold("start")
    made = await scene.create()
    assert (phase_name(made.phase), made.managed) == ("PROVISIONING", True)
    assert dict(made.message.metadata.labels) == {"k": "v"}
    assert scene.now() == made
    held.set()
    await until(lambda: made.id in scene.driver.running, "its supervisor runs")
    await scene.lifecycle.connected(made.id, "first")
    assert scene.phase() == "READY"
    assert scene.now().message.status.main_process_instance_id == "first"
    await scene.lifecycle.disconnected(made.id)
    assert scene.phase() == "PROVISIONING"
    assert await scene.store.kept() == {"a": "PROVISIONING"}


async def test_a_session_that_takes_the_place_of_another(scene: Scene) -> None:
    """RLY-4: the record says which supervisor connected last."""
    made = await scene.ready()
    await scene.lifecycle.connected(made.id, "second")
    assert scene.now().message.status.main_process_instance_id == "second"
    assert scene.phase() == "READY"


async def test_a_name_is_made_up(scene: Scene) -> None:
    made = await scene.create("")
    assert made.name == f"sandbox-{made.id[:8]}"


async def test_a_name_is_used_once(scene: Scene) -> None:
    await scene.create()
    assert await reason_of(scene.create()) is Reason.SANDBOX_EXISTS
    assert await reason_of(scene.create("configured")) is Reason.SANDBOX_EXISTS
    results = await asyncio.gather(scene.create("b"), scene.create("b"), return_exceptions=True)
    assert [isinstance(result, TransferError) for result in results] == [False, True]


async def test_as_many_as_may(scene: Scene) -> None:
    """The one of the configuration counts."""
    for name in "abc":
        await scene.create(name)
    assert await reason_of(scene.create("d")) is Reason.TOO_MANY_SANDBOXES
    await scene.lifecycle.delete(scene.now("b"))
    await scene.create("d")


async def test_stopped_and_started(scene: Scene) -> None:
    """SBX-9, SBX-4: stopping keeps the files, and turns away who waits."""
    made = await scene.ready()
    held = scene.driver.hold("stop")
    stopping = asyncio.create_task(scene.lifecycle.stop(made))
    await until(lambda: "stop" in scene.driver.reached, "it is being stopped")
    assert scene.phase() == "STOPPING"
    assert scene.sessions.turned_away == [made.id]
    await scene.lifecycle.disconnected(made.id)
    held.set()
    assert phase_name((await stopping).phase) == "STOPPED"
    assert (scene.driver.running, scene.driver.files) == (set(), {made.id})
    await scene.lifecycle.connected(made.id, "a supervisor that nobody started")
    assert scene.phase() == "STOPPED"
    assert scene.sessions.closed == [made.id]
    assert await scene.store.kept() == {"a": "STOPPED"}
    await scene.lifecycle.stop(made)
    assert scene.driver.reached.count("stop") == 1, "stopping again does nothing"
    assert phase_name((await scene.lifecycle.start(made)).phase) == "STARTING"
    assert scene.driver.running == {made.id}
    await scene.lifecycle.start(made)
    assert scene.driver.reached.count("start") == 2, "starting again does nothing"


async def test_deleted(scene: Scene) -> None:
    """SBX-3: nothing is left, and the name is free."""
    made = await scene.ready()
    await scene.lifecycle.delete(made)
    assert (scene.driver.running, scene.driver.files, await scene.store.kept()) == (set(), set(), {})
    assert scene.directory.find(made.id) is None
    assert scene.sessions.closed == [made.id]
    again = await scene.create()
    assert again.id != made.id


async def test_the_configurations_sandboxes_are_not_ours_to_change(scene: Scene) -> None:
    configured = scene.now("configured")
    for change in (scene.lifecycle.stop, scene.lifecycle.start, scene.lifecycle.delete):
        assert await reason_of(change(configured)) is Reason.SANDBOX_NOT_MANAGED
    await scene.lifecycle.connected("c", "instance")
    assert scene.phase("configured") == "READY"
    assert await scene.store.kept() == {}


async def test_without_compute() -> None:
    async with running(with_driver=False) as scene:
        assert await reason_of(scene.create()) is Reason.COMPUTE_UNAVAILABLE


async def test_news_of_a_sandbox_that_is_gone(scene: Scene) -> None:
    made = await scene.ready()
    await scene.lifecycle.delete(made)
    await scene.lifecycle.connected(made.id, "late")
    await scene.lifecycle.disconnected(made.id)
    scene.lifecycle.failed(made.id, "late")
    assert await reason_of(scene.lifecycle.stop(made)) is Reason.SANDBOX_NOT_FOUND
    assert scene.phase() == "none"
