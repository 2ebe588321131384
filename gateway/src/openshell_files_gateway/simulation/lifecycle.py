"""The life of sandboxes: made, ready, stopped, started, deleted.

The one place where the record of a sandbox changes. What a caller or a
supervisor does becomes an event, the phases' table (`sandboxes.phases`) says what
follows, the store keeps it, and the driver does the work on processes and
files.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.tasks import BackgroundTasks
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.directory import Sandbox, SandboxDirectory, not_ready
from openshell_files_gateway.sandboxes.phases import Event
from openshell_files_gateway.simulation.core.sandbox_message import changed_by, new_message, say_unheeded
from openshell_files_gateway.simulation.core.sandbox_requests import SandboxWish, without_effect
from openshell_files_gateway.simulation.driver import SandboxDriver, Sessions
from openshell_files_gateway.simulation.store import AdmittedRequest, SandboxStore, StoreError, not_kept

log = structlog.get_logger("openshell_files_gateway.simulation.lifecycle")


class SandboxLifecycle:
    """All changes of sandboxes.

    Args:
        directory: where records are found; holds those of the configuration.
        store: keeps the others.
        driver: runs them; None if this gateway makes none.
        sessions: the supervisors that are connected.
        max_sandboxes: how many there may be.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        store: SandboxStore,
        driver: SandboxDriver | None,
        sessions: Sessions,
        *,
        max_sandboxes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._store = store
        self._driver = driver
        self._sessions = sessions
        self._max = max_sandboxes
        self._clock = clock
        #: One change of a sandbox at a time; its waiters keep an entry alive.
        self._locks: dict[str, asyncio.Lock] = {}
        #: Work that goes on although its caller went away.
        self._tasks = BackgroundTasks()
        #: Sandboxes whose last change the store could not keep.
        self._unkept: set[str] = set()
        self._closing = False

    async def load(self) -> None:
        """Read what an earlier gateway remembered; call it before anybody can connect.

        Raises:
            StoreError: the database cannot be used.
            ValueError: a sandbox of the configuration has the name or id of
                one that was made.
        """
        for message in await self._store.open():
            # Sessions do not survive a gateway.
            changed = changed_by(message, Event.DISCONNECTED, "The gateway was restarted", self._clock())
            meta = message.metadata
            self._directory.add(
                Sandbox(
                    id=meta.id,
                    name=meta.name,
                    workspace=meta.workspace,
                    message=changed or message,
                    managed=True,
                )
            )

    async def resume(self) -> None:
        """Go on with what an earlier gateway left: supervisors that run, and work that was begun.

        Call it when supervisors can connect.
        """
        for sandbox in self._directory.all():
            if not sandbox.managed or self._driver is None:
                continue
            if sandbox.phase in phases.RUNNING:
                self._spawn(self._run(sandbox.id, self._start_supervisor))
            elif sandbox.phase == phases.STOPPING:
                self._spawn(self._run(sandbox.id, self._finish_stop))
            elif sandbox.phase == phases.DELETING:
                self._spawn(self._run(sandbox.id, self._finish_delete))

    async def aclose(self) -> None:
        """End what is under way and close the database; sandboxes stay as they are."""
        self._closing = True
        await self._tasks.end()
        await self._store.aclose()

    async def create(self, wish: SandboxWish, request: AdmittedRequest | None) -> Sandbox:
        """Make a sandbox and have its supervisor started.

        Args:
            wish: what it is to be; a name is made up if it has none.
            request: kept with it, so that a repetition is recognised; its
                sandbox_id is filled in.

        It is made also if the caller is cancelled meanwhile, so that repeating
        the request finds it.

        Raises:
            TransferError: COMPUTE_UNAVAILABLE, SANDBOX_EXISTS,
                TOO_MANY_SANDBOXES, or IO_ERROR if it cannot be kept.
        """
        if self._driver is None:
            raise TransferError(
                Reason.COMPUTE_UNAVAILABLE, "this gateway makes no sandboxes: compute.directory is unset"
            )
        if len(self._directory) >= self._max:
            raise TransferError(
                Reason.TOO_MANY_SANDBOXES,
                f"there are {len(self._directory)} sandboxes, at most {self._max} may be",
                {"max_sandboxes": str(self._max)},
            )
        sandbox = self._new_record(wish)
        try:
            self._directory.add(sandbox)
        except ValueError:
            raise TransferError(
                Reason.SANDBOX_EXISTS,
                f"sandbox {sandbox.name!r} is there already in workspace {sandbox.workspace!r}",
            ) from None
        admitted = None if request is None else replace(request, sandbox_id=sandbox.id)
        await self.carry_through(self._create(sandbox.id, admitted))
        return self._directory.find(sandbox.id) or sandbox

    async def stop(self, sandbox: Sandbox) -> Sandbox:
        """Stop a sandbox and wait until it is; one that is stopped stays so.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED, SANDBOX_NOT_FOUND,
                SANDBOX_NOT_READY while it is being deleted, or IO_ERROR if a
                restart of the gateway would undo it; repeating it goes on.
        """
        self._require_managed(sandbox)
        await self.carry_through(self._run(sandbox.id, self._begin_stop))
        return self._current(sandbox.id)

    async def start(self, sandbox: Sandbox) -> Sandbox:
        """Have a stopped sandbox run again; does not wait until it is ready.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED, SANDBOX_NOT_FOUND, or
                SANDBOX_NOT_READY while it is being stopped or deleted, or
                IO_ERROR as for `stop`.
        """
        self._require_managed(sandbox)
        await self.carry_through(self._run(sandbox.id, self._begin_start))
        return self._current(sandbox.id)

    async def delete(self, sandbox: Sandbox) -> None:
        """Delete a sandbox and wait until nothing of it is left, whoever else deletes it.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED; IO_ERROR if something could not
                be removed: the sandbox stays in phase DELETING, and deleting it
                again goes on.
        """
        self._require_managed(sandbox)
        try:
            await self.carry_through(self._run(sandbox.id, self._begin_delete))
        except TransferError as error:
            if error.reason is not Reason.SANDBOX_NOT_FOUND:
                raise

    async def connected(self, sandbox_id: str, instance_id: str) -> None:
        """A supervisor has the sandbox's current session."""

        def note(message: sandboxes_pb2.Sandbox) -> None:
            message.status.main_process_instance_id = instance_id
            message.status.ClearField("exit_code")

        await self._change(sandbox_id, Event.CONNECTED, note=note)

    async def disconnected(self, sandbox_id: str) -> None:
        """The sandbox's current session ended."""
        await self._change(sandbox_id, Event.DISCONNECTED, "Supervisor session disconnected")

    def failed(self, sandbox_id: str, why: str) -> None:
        """The sandbox's supervisor cannot be kept running."""

        async def note() -> None:
            await self._change(sandbox_id, Event.FAILED, why)

        if not self._closing:
            self._spawn(note())

    async def carry_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work that is not to stop halfway when its caller is cancelled."""
        await asyncio.shield(self._spawn(work))

    async def _create(self, sandbox_id: str, request: AdmittedRequest | None) -> None:
        async with self._locked(sandbox_id) as sandbox:
            try:
                await self._store.insert(sandbox.message, request)
            except StoreError as error:
                self._directory.remove(sandbox_id)
                raise not_kept(error) from error
        log.info("sandbox made", sandbox_id=sandbox.id, name=sandbox.name, workspace=sandbox.workspace)
        self._spawn(self._run(sandbox_id, self._start_supervisor))

    async def _begin_stop(self, sandbox: Sandbox) -> None:
        if await self._change(sandbox.id, Event.STOP) is not None or sandbox.phase == phases.STOPPING:
            await self._finish_stop(sandbox)
        elif sandbox.phase != phases.STOPPED:
            raise not_ready(sandbox)
        await self._require_kept(sandbox.id)

    async def _finish_stop(self, sandbox: Sandbox) -> None:
        self._sessions.turn_away(sandbox.id, "it is being stopped")
        await self._require_driver().stop(sandbox.id)
        # Its process is gone; this is for a supervisor from somewhere else.
        self._sessions.close_session(sandbox.id, "the sandbox was stopped")
        # Somebody's wait for a session may have ended just before the first.
        self._sessions.turn_away(sandbox.id, "it was stopped")
        await self._change(sandbox.id, Event.STOPPED)

    async def _begin_start(self, sandbox: Sandbox) -> None:
        if await self._change(sandbox.id, Event.START) is not None:
            await self._start_supervisor(sandbox)
        elif sandbox.phase not in phases.RUNNING:
            raise not_ready(sandbox)
        await self._require_kept(sandbox.id)

    async def _start_supervisor(self, sandbox: Sandbox) -> None:
        if self._current(sandbox.id).phase not in phases.RUNNING:
            return  # stopped before its turn came
        try:
            await self._require_driver().start(sandbox.id)
        except OSError as error:
            log.exception("sandbox cannot be started", sandbox_id=sandbox.id)
            await self._change(sandbox.id, Event.FAILED, f"The supervisor cannot be started: {error}")

    async def _begin_delete(self, sandbox: Sandbox) -> None:
        await self._change(sandbox.id, Event.DELETE)
        await self._finish_delete(sandbox)

    async def _finish_delete(self, sandbox: Sandbox) -> None:
        self._sessions.turn_away(sandbox.id, "it is being deleted")
        try:
            await self._require_driver().remove(sandbox.id)
        except OSError as error:
            log.warning("sandbox cannot be removed yet", sandbox_id=sandbox.id, reason=str(error))
            raise TransferError(
                Reason.IO_ERROR, f"sandbox {sandbox.name!r} cannot be removed yet: {error}"
            ) from error
        try:
            await self._store.delete(sandbox.id)
        except StoreError as error:
            raise not_kept(error) from error
        self._directory.remove(sandbox.id)
        self._unkept.discard(sandbox.id)
        self._sessions.close_session(sandbox.id, "the sandbox was deleted")
        self._sessions.turn_away(sandbox.id, "it was deleted")
        log.info("sandbox deleted", sandbox_id=sandbox.id, name=sandbox.name)

    async def _change(
        self,
        sandbox_id: str,
        event: Event,
        why: str = "",
        note: Callable[[sandboxes_pb2.Sandbox], None] | None = None,
    ) -> Sandbox | None:
        """Apply an event; None if it changes nothing.

        Memory changes first and without a pause, so events apply in the order
        in which they happen; the store's one thread keeps that order.
        """
        sandbox = self._directory.find(sandbox_id)
        if sandbox is None:
            return None
        message = changed_by(sandbox.message, event, why, self._clock())
        if message is None:
            return None
        if note is not None:
            note(message)
        changed = sandbox.with_message(message)
        self._directory.replace(changed)
        log.info(
            "sandbox changed",
            sandbox_id=sandbox_id,
            phase=sandboxes_pb2.SandboxPhase.Name(changed.phase).removeprefix("SANDBOX_PHASE_"),
            why=why,
        )
        if sandbox.managed:
            try:
                await asyncio.shield(self._store.update(message))
            except StoreError as error:
                # What happened has happened. Whoever wished for it is told
                # (`_require_kept`); everything else a restart finds out by itself.
                self._unkept.add(sandbox_id)
                log.error("the change of a sandbox was not kept", sandbox_id=sandbox_id, reason=str(error))  # noqa: TRY400
            else:
                self._unkept.discard(sandbox_id)
        return changed

    async def _require_kept(self, sandbox_id: str) -> None:
        """Refuse to promise what a restart of the gateway would undo."""
        if sandbox_id not in self._unkept:
            return
        try:
            await self._store.update(self._current(sandbox_id).message)
        except StoreError as error:
            raise not_kept(error) from error
        self._unkept.discard(sandbox_id)

    @asynccontextmanager
    async def _locked(self, sandbox_id: str) -> AsyncGenerator[Sandbox]:
        lock = self._locks.setdefault(sandbox_id, asyncio.Lock())
        async with lock:
            try:
                yield self._current(sandbox_id)
            finally:
                if self._directory.find(sandbox_id) is None:
                    self._locks.pop(sandbox_id, None)

    async def _run(self, sandbox_id: str, work: Callable[[Sandbox], Awaitable[None]]) -> None:
        async with self._locked(sandbox_id) as sandbox:
            await work(sandbox)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.start(work, "sandbox-change")

    def _current(self, sandbox_id: str) -> Sandbox:
        sandbox = self._directory.find(sandbox_id)
        if sandbox is None:
            raise TransferError(Reason.SANDBOX_NOT_FOUND, "sandbox not found")
        return sandbox

    def _require_driver(self) -> SandboxDriver:
        if self._driver is None:
            raise TransferError(
                Reason.COMPUTE_UNAVAILABLE, "this gateway runs no sandboxes: compute.directory is unset"
            )
        return self._driver

    def _require_managed(self, sandbox: Sandbox) -> None:
        if not sandbox.managed:
            raise TransferError(
                Reason.SANDBOX_NOT_MANAGED, f"sandbox {sandbox.name!r} is from the gateway's configuration"
            )
        self._require_driver()

    def _new_record(self, wish: SandboxWish) -> Sandbox:
        sandbox_id = str(uuid.uuid4())
        message = new_message(
            sandbox_id, wish.name or f"sandbox-{sandbox_id[:8]}", wish.workspace, self._clock()
        )
        message.spec.CopyFrom(wish.spec)
        if unheeded := without_effect(wish.spec):
            say_unheeded(message, unheeded)
        message.metadata.labels.update(wish.labels)
        message.metadata.annotations.update(wish.annotations)
        meta = message.metadata
        return Sandbox(id=sandbox_id, name=meta.name, workspace=meta.workspace, message=message, managed=True)
