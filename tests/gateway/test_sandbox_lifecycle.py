"""Sandboxes are made, stopped, started and deleted, while everything else happens too."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from conditions import until
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.directory import Sandbox, SandboxDirectory
from openshell_files_gateway.simulation.core.sandbox_message import new_message
from openshell_files_gateway.simulation.core.sandbox_requests import RequestedSandbox
from openshell_files_gateway.simulation.lifecycle import SandboxLifecycle
from openshell_files_gateway.simulation.store import AdmittedRequest, SandboxStore, StoreError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason


class Everybody:
    def may(self, *_: object, **__: object) -> bool:
        return True


@dataclass
class FakeDriver:
    """Does what the real one does to processes and files, in a set each; fails and waits when told."""

    running: set[str] = field(default_factory=set[str])
    files: set[str] = field(default_factory=set[str])
    fail: set[str] = field(default_factory=set[str])
    #: What is held back goes on when its event is set; `reached` says that it came that far.
    held: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    reached: list[str] = field(default_factory=list[str])

    async def start(self, sandbox_id: str) -> None:
        await self._at("start")
        self.files.add(sandbox_id)
        self.running.add(sandbox_id)

    async def stop(self, sandbox_id: str) -> None:
        await self._at("stop")
        self.running.discard(sandbox_id)

    async def remove(self, sandbox_id: str) -> None:
        await self._at("remove")
        self.running.discard(sandbox_id)
        self.files.discard(sandbox_id)

    async def _at(self, point: str) -> None:
        self.reached.append(point)
        if point in self.held:
            await self.held[point].wait()
        if point in self.fail:
            raise OSError(28, "No space left on device")

    def hold(self, point: str) -> asyncio.Event:
        self.held[point] = asyncio.Event()
        return self.held[point]


@dataclass
class FakeSessions:
    turned_away: list[str] = field(default_factory=list[str])
    closed: list[str] = field(default_factory=list[str])

    def fail_waiting(self, sandbox_id: str, reason: str) -> None:
        assert reason
        self.turned_away.append(sandbox_id)

    def close_session(self, sandbox_id: str, reason: str) -> None:
        assert reason
        self.closed.append(sandbox_id)


class FailingStore(SandboxStore):
    """A store whose disk fails when told."""

    fail: frozenset[str] = frozenset()
    hold_inserts: asyncio.Event | None = None

    async def insert(self, sandbox: sandboxes_pb2.Sandbox, request: AdmittedRequest | None) -> None:
        self._check("insert")
        if self.hold_inserts is not None:
            await self.hold_inserts.wait()
        await super().insert(sandbox, request)

    async def update(self, sandbox: sandboxes_pb2.Sandbox) -> None:
        self._check("update")
        await super().update(sandbox)

    async def delete(self, sandbox_id: str) -> None:
        self._check("delete")
        await super().delete(sandbox_id)

    def _check(self, what: str) -> None:
        if what in self.fail:
            raise StoreError("database or disk is full")

    async def kept(self) -> dict[str, str]:
        """Return the phases that are written down, by name."""
        rows = await self._run(lambda: self._connection().execute("SELECT message FROM sandboxes").fetchall())
        messages = [sandboxes_pb2.Sandbox.FromString(message) for (message,) in rows]
        return {one.metadata.name: phase_name(one.status.phase) for one in messages}


@dataclass
class Scene:
    driver: FakeDriver
    sessions: FakeSessions
    store: FailingStore
    directory: SandboxDirectory
    lifecycle: SandboxLifecycle

    async def create(self, name: str = "a", request: AdmittedRequest | None = None) -> Sandbox:
        return await self.lifecycle.create(requested(name), request)

    async def ready(self, name: str = "a") -> Sandbox:
        """Make a sandbox, whose supervisor connects."""
        made = await self.create(name)
        await until(lambda: made.id in self.driver.running, "its supervisor runs")
        await self.lifecycle.connected(made.id, "instance")
        return self.now(name)

    def now(self, name: str = "a") -> Sandbox:
        found = self.directory.named("default", name)
        assert found is not None
        return found

    def phase(self, name: str = "a") -> str:
        found = self.directory.named("default", name)
        return "none" if found is None else phase_name(found.phase)


def phase_name(phase: phases.Phase) -> str:
    return sandboxes_pb2.SandboxPhase.Name(phase).removeprefix("SANDBOX_PHASE_")


def requested(name: str) -> RequestedSandbox:
    return RequestedSandbox(name, "default", sandboxes_pb2.SandboxSpec(), {"k": "v"}, {"n": "w"})


async def reason_of(work: Awaitable[object]) -> Reason:
    with pytest.raises(TransferError) as caught:
        await work
    return caught.value.reason


@asynccontextmanager
async def running(*, with_driver: bool = True, max_sandboxes: int = 4) -> AsyncGenerator[Scene, None]:
    driver, sessions, store = FakeDriver(), FakeSessions(), FailingStore(None)
    configured = Sandbox(id="c", name="configured", message=new_message("c", "configured", "default", 1.0))
    directory = SandboxDirectory([configured], Everybody())
    lifecycle = SandboxLifecycle(
        directory, store, driver if with_driver else None, sessions, max_sandboxes=max_sandboxes
    )
    await lifecycle.load()
    try:
        yield Scene(driver, sessions, store, directory, lifecycle)
    finally:
        await lifecycle.aclose()


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


async def test_news_of_a_sandbox_that_is_gone(scene: Scene) -> None:
    made = await scene.ready()
    await scene.lifecycle.delete(made)
    await scene.lifecycle.connected(made.id, "late")
    await scene.lifecycle.disconnected(made.id)
    scene.lifecycle.failed(made.id, "late")
    assert await reason_of(scene.lifecycle.stop(made)) is Reason.SANDBOX_NOT_FOUND
    assert scene.phase() == "none"


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
