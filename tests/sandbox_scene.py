"""A lifecycle of sandboxes with a driver, sessions and a store that tests control."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from conditions import until
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
