"""Changes of one sandbox that overlap, or whose caller leaves: SBX-1, SBX-3."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest
from conditions import until
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_gateway.sandboxes.directory import Sandbox
from openshell_files_gateway.simulation.store import AdmittedRequest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from sandbox_scene import Scene, reason_of, running


@pytest.fixture
async def scene() -> AsyncGenerator[Scene, None]:
    async with running() as made:
        yield made


@pytest.mark.parametrize("deletes", [2, 5])
async def test_deleted_by_several_at_once(scene: Scene, deletes: int) -> None:
    """SBX-3: for each the sandbox is gone when the answer comes."""
    made = await scene.ready()
    await asyncio.gather(*(scene.lifecycle.delete(made) for _ in range(deletes)))
    assert scene.driver.reached.count("remove") == 1
    assert scene.phase() == "none"


async def test_deleted_while_it_is_made(scene: Scene) -> None:
    """Whichever comes first, no supervisor is left."""
    scene.store.hold_inserts = asyncio.Event()
    creating = asyncio.create_task(scene.create())
    await until(lambda: scene.phase() == "PROVISIONING", "it is known")
    deleting = asyncio.create_task(scene.lifecycle.delete(scene.now()))
    await asyncio.sleep(0)
    scene.store.hold_inserts.set()
    await asyncio.gather(creating, deleting)
    await until(lambda: not scene.lifecycle._tasks, "everything is over")
    assert (scene.driver.running, scene.driver.files, await scene.store.kept()) == (set(), set(), {})


async def test_deleted_while_it_starts(scene: Scene) -> None:
    held = scene.driver.hold("start")
    made = await scene.create()
    await until(lambda: "start" in scene.driver.reached, "it is being started")
    deleting = asyncio.create_task(scene.lifecycle.delete(made))
    await asyncio.sleep(0)
    held.set()
    await deleting
    assert (scene.driver.running, scene.driver.files, scene.phase()) == (set(), set(), "none")


async def test_changes_that_contradict_each_other(scene: Scene) -> None:
    """While it is deleted, nothing else is done; while it is stopped, starting waits its turn."""
    made = await scene.ready()
    held = scene.driver.hold("stop")
    stopping = asyncio.create_task(scene.lifecycle.stop(made))
    await until(lambda: "stop" in scene.driver.reached, "it is being stopped")
    starting = asyncio.create_task(scene.lifecycle.start(made))
    held.set()
    await asyncio.gather(stopping, starting)
    assert scene.phase() == "STARTING"
    removal = scene.driver.hold("remove")
    deleting = asyncio.create_task(scene.lifecycle.delete(made))
    await until(lambda: "remove" in scene.driver.reached, "it is being removed")
    others = [asyncio.create_task(change(made)) for change in (scene.lifecycle.stop, scene.lifecycle.start)]
    removal.set()
    await deleting
    for other in others:
        assert await reason_of(other) is Reason.SANDBOX_NOT_FOUND


@pytest.mark.parametrize("change", ["stop", "delete", "start"])
async def test_what_is_begun_is_finished_without_its_caller(scene: Scene, change: str) -> None:
    made = await scene.ready()
    if change == "start":
        await scene.lifecycle.stop(made)
    point = {"delete": "remove"}.get(change, change)
    held = scene.driver.hold(point)
    before = len(scene.driver.reached)
    calling = asyncio.create_task(getattr(scene.lifecycle, change)(made))
    await until(lambda: point in scene.driver.reached[before:], "it is under way")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    held.set()
    goal = {"stop": "STOPPED", "delete": "none", "start": "STARTING"}[change]
    await until(lambda: scene.phase() == goal and not scene.lifecycle._tasks, f"the phase is {goal}")


async def test_a_creation_whose_caller_went_away_can_be_found(scene: Scene) -> None:
    """SBX-5: the repeated request finds the sandbox, and does not hear that it was deleted."""
    scene.store.hold_inserts = asyncio.Event()
    request = AdmittedRequest("alice", "r", b"f", "", 1.0)
    creating = asyncio.create_task(scene.create("a", request))
    await until(lambda: scene.phase() == "PROVISIONING", "it is known")
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    scene.store.hold_inserts.set()
    await until(lambda: scene.driver.running, "it runs")
    remembered = await scene.store.recall("alice", "r", 2.0)
    assert remembered is not None
    assert remembered.sandbox_id == scene.now().id


Step = Callable[[Scene], Coroutine[Any, Any, object]]


def _change(name: str) -> Step:
    async def step(scene: Scene) -> object:
        found = scene.directory.named("default", "a")
        return None if found is None else await getattr(scene.lifecycle, name)(found)

    return step


async def _connect(scene: Scene) -> None:
    found = scene.directory.named("default", "a")
    if found is not None and found.id in scene.driver.running:
        await scene.lifecycle.connected(found.id, "instance")


async def _fail(scene: Scene) -> None:
    found = scene.directory.named("default", "a")
    if found is not None and found.id in scene.driver.running:
        scene.driver.running.discard(found.id)
        scene.lifecycle.failed(found.id, "it died")


STEPS: dict[str, Step] = {
    "create": lambda scene: scene.create(),
    "stop": _change("stop"),
    "start": _change("start"),
    "delete": _change("delete"),
    "connect": _connect,
    "fail": _fail,
}


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4), max_size=6))
def test_whatever_is_wanted_at_once(rounds: list[list[str]]) -> None:
    """SBX-1, SBX-3, SBX-4: at rest, process, files, record and phase agree."""

    async def play() -> None:
        async with running() as scene:
            for steps in rounds:
                results = await asyncio.gather(
                    *(STEPS[step](scene) for step in steps), return_exceptions=True
                )
                for result in results:
                    assert result is None or isinstance(result, (Sandbox, TransferError)), result
                await until(lambda: not scene.lifecycle._tasks, "every change has ended")
                check(scene, await scene.store.kept())

    def check(scene: Scene, kept: dict[str, str]) -> None:
        found = scene.directory.named("default", "a")
        if found is None:
            assert (scene.driver.running, scene.driver.files, kept) == (set(), set(), {})
            return
        assert kept == {"a": scene.phase()}
        assert scene.driver.running <= scene.driver.files <= {found.id}
        runs = scene.phase() in ("PROVISIONING", "STARTING", "READY")
        assert scene.driver.running == ({found.id} if runs else set())

    asyncio.run(play())
