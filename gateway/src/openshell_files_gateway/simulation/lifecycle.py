"""Creates, starts, stops and deletes sandboxes: the only place where a sandbox's record changes.

Each action of a caller or a supervisor is an event. The table of phases
(`sandboxes.phases`) decides the next phase, the store saves the record, and the
driver works on processes and files.
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
from openshell_files_gateway.simulation.core.sandbox_message import (
    add_ignored_fields,
    changed_by,
    new_message,
)
from openshell_files_gateway.simulation.core.sandbox_requests import RequestedSandbox, without_effect
from openshell_files_gateway.simulation.driver import SandboxDriver, Sessions
from openshell_files_gateway.simulation.store import (
    AdmittedRequest,
    SandboxStore,
    StoreError,
    database_failed,
)

log = structlog.get_logger("openshell_files_gateway.simulation.lifecycle")


class SandboxLifecycle:
    """Carries out all changes of sandboxes.

    Args:
        directory: the records; it has those of the configuration already.
        store: database of the created sandboxes.
        driver: runs the sandboxes; None if this gateway creates none.
        sessions: sessions of the connected supervisors.
        max_sandboxes: limit on sandboxes.
        clock: Unix time in seconds.
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
        #: Lock of each sandbox, so that it has one change at a time.
        self._locks: dict[str, asyncio.Lock] = {}
        #: Changes, which run to their end even if their caller leaves.
        self._tasks = BackgroundTasks()
        #: Sandboxes whose last change the store failed to save.
        self._unsaved: set[str] = set()
        self._closing = False

    async def load(self) -> None:
        """Load the sandboxes from the database. Call it before the server listens.

        Raises:
            StoreError: the database failed.
            ValueError: a sandbox of the configuration has the name or id of a
                created one.
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
        """Continue the work of an earlier gateway: take over or start supervisors, finish stops and deletions.

        Call it once the server listens.
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
        """Cancel running changes and close the database; sandboxes keep running."""
        self._closing = True
        await self._tasks.end()
        await self._store.aclose()

    async def create(self, requested: RequestedSandbox, request: AdmittedRequest | None) -> Sandbox:
        """Create a sandbox and start its supervisor.

        The creation continues if the caller is cancelled, so that a repetition
        of the request finds the sandbox.

        Args:
            requested: the sandbox's properties; without a name it gets a random one.
            request: record of the request, saved with the sandbox and its id.

        Raises:
            TransferError: COMPUTE_UNAVAILABLE, SANDBOX_EXISTS,
                TOO_MANY_SANDBOXES, or IO_ERROR if it cannot be saved.
        """
        if self._driver is None:
            raise TransferError(
                Reason.COMPUTE_UNAVAILABLE, "this gateway creates no sandboxes: compute.directory is unset"
            )
        if len(self._directory) >= self._max:
            raise TransferError(
                Reason.TOO_MANY_SANDBOXES,
                f"there are {len(self._directory)} sandboxes, and the limit is {self._max}",
                {"max_sandboxes": str(self._max)},
            )
        sandbox = self._new_record(requested)
        try:
            self._directory.add(sandbox)
        except ValueError:
            raise TransferError(
                Reason.SANDBOX_EXISTS,
                f"sandbox {sandbox.name!r} exists already in workspace {sandbox.workspace!r}",
            ) from None
        admitted = None if request is None else replace(request, sandbox_id=sandbox.id)
        await self.run_to_the_end(self._create(sandbox.id, admitted))
        return self._directory.find(sandbox.id) or sandbox

    async def stop(self, sandbox: Sandbox) -> Sandbox:
        """Stop a sandbox and wait until it is stopped; idempotent.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED, SANDBOX_NOT_FOUND,
                SANDBOX_NOT_READY while it is being deleted, or IO_ERROR if the
                change is not saved, so that a restart of the gateway would
                undo it; a repetition saves it.
        """
        self._require_managed(sandbox)
        await self.run_to_the_end(self._run(sandbox.id, self._begin_stop))
        return self._current(sandbox.id)

    async def start(self, sandbox: Sandbox) -> Sandbox:
        """Start a stopped sandbox, without waiting until it is ready; idempotent.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED, SANDBOX_NOT_FOUND,
                SANDBOX_NOT_READY while it is being stopped or deleted, or
                IO_ERROR as for `stop`.
        """
        self._require_managed(sandbox)
        await self.run_to_the_end(self._run(sandbox.id, self._begin_start))
        return self._current(sandbox.id)

    async def delete(self, sandbox: Sandbox) -> None:
        """Delete a sandbox and wait until all of its files are gone, even if another call deletes it.

        Raises:
            TransferError: SANDBOX_NOT_MANAGED; IO_ERROR if a file could not be
                removed: the sandbox stays in phase DELETING, and a repetition
                continues the deletion.
        """
        self._require_managed(sandbox)
        try:
            await self.run_to_the_end(self._run(sandbox.id, self._begin_delete))
        except TransferError as error:
            if error.reason is not Reason.SANDBOX_NOT_FOUND:
                raise

    async def connected(self, sandbox_id: str, instance_id: str) -> None:
        """Note that a supervisor has the sandbox's current session."""

        def note(message: sandboxes_pb2.Sandbox) -> None:
            message.status.main_process_instance_id = instance_id
            message.status.ClearField("exit_code")

        await self._change(sandbox_id, Event.CONNECTED, note=note)

    async def disconnected(self, sandbox_id: str) -> None:
        """Note that the sandbox's current session ended."""
        await self._change(sandbox_id, Event.DISCONNECTED, "Supervisor session disconnected")

    def failed(self, sandbox_id: str, why: str) -> None:
        """Note that the sandbox's supervisor cannot be kept running."""

        async def note() -> None:
            await self._change(sandbox_id, Event.FAILED, why)

        if not self._closing:
            self._spawn(note())

    async def run_to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work that continues to its end if the caller is cancelled."""
        await asyncio.shield(self._spawn(work))

    async def _create(self, sandbox_id: str, request: AdmittedRequest | None) -> None:
        async with self._locked(sandbox_id) as sandbox:
            try:
                await self._store.insert(sandbox.message, request)
            except StoreError as error:
                self._directory.remove(sandbox_id)
                raise database_failed(error) from error
        log.info("sandbox created", sandbox_id=sandbox.id, name=sandbox.name, workspace=sandbox.workspace)
        self._spawn(self._run(sandbox_id, self._start_supervisor))

    async def _begin_stop(self, sandbox: Sandbox) -> None:
        if await self._change(sandbox.id, Event.STOP) is not None or sandbox.phase == phases.STOPPING:
            await self._finish_stop(sandbox)
        elif sandbox.phase != phases.STOPPED:
            raise not_ready(sandbox)
        await self._require_saved(sandbox.id)

    async def _finish_stop(self, sandbox: Sandbox) -> None:
        self._sessions.fail_waiting(sandbox.id, "it is being stopped")
        await self._require_driver().stop(sandbox.id)
        # For a supervisor that another process started: the driver's own has ended.
        self._sessions.close_session(sandbox.id, "the sandbox was stopped")
        # Again: a caller may have found the session and requested a relay after the first time.
        self._sessions.fail_waiting(sandbox.id, "it was stopped")
        await self._change(sandbox.id, Event.STOPPED)

    async def _begin_start(self, sandbox: Sandbox) -> None:
        if await self._change(sandbox.id, Event.START) is not None:
            await self._start_supervisor(sandbox)
        elif sandbox.phase not in phases.RUNNING:
            raise not_ready(sandbox)
        await self._require_saved(sandbox.id)

    async def _start_supervisor(self, sandbox: Sandbox) -> None:
        if self._current(sandbox.id).phase not in phases.RUNNING:
            return  # stopped while this change waited
        try:
            await self._require_driver().start(sandbox.id)
        except OSError as error:
            log.exception("sandbox cannot be started", sandbox_id=sandbox.id)
            await self._change(sandbox.id, Event.FAILED, f"The supervisor cannot be started: {error}")

    async def _begin_delete(self, sandbox: Sandbox) -> None:
        await self._change(sandbox.id, Event.DELETE)
        await self._finish_delete(sandbox)

    async def _finish_delete(self, sandbox: Sandbox) -> None:
        self._sessions.fail_waiting(sandbox.id, "it is being deleted")
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
            raise database_failed(error) from error
        self._directory.remove(sandbox.id)
        self._unsaved.discard(sandbox.id)
        self._sessions.close_session(sandbox.id, "the sandbox was deleted")
        self._sessions.fail_waiting(sandbox.id, "it was deleted")
        log.info("sandbox deleted", sandbox_id=sandbox.id, name=sandbox.name)

    async def _change(
        self,
        sandbox_id: str,
        event: Event,
        why: str = "",
        note: Callable[[sandboxes_pb2.Sandbox], None] | None = None,
    ) -> Sandbox | None:
        """Apply an event and return the changed record; None if it changes nothing.

        The record in memory changes before the first await, so events apply in
        their order; the store's single thread saves them in the same order.
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
                # The event is a fact, so the record stays changed. `_require_saved` raises
                # for callers' events; a restart detects the others by itself.
                self._unsaved.add(sandbox_id)
                log.error("the change of a sandbox was not saved", sandbox_id=sandbox_id, reason=str(error))  # noqa: TRY400
            else:
                self._unsaved.discard(sandbox_id)
        return changed

    async def _require_saved(self, sandbox_id: str) -> None:
        """Save the record if the last attempt failed; raise if it fails again, since a restart would undo the change."""
        if sandbox_id not in self._unsaved:
            return
        try:
            await self._store.update(self._current(sandbox_id).message)
        except StoreError as error:
            raise database_failed(error) from error
        self._unsaved.discard(sandbox_id)

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
                Reason.COMPUTE_UNAVAILABLE, "this gateway creates no sandboxes: compute.directory is unset"
            )
        return self._driver

    def _require_managed(self, sandbox: Sandbox) -> None:
        if not sandbox.managed:
            raise TransferError(
                Reason.SANDBOX_NOT_MANAGED,
                f"sandbox {sandbox.name!r} is defined in the gateway's configuration",
            )
        self._require_driver()

    def _new_record(self, requested: RequestedSandbox) -> Sandbox:
        sandbox_id = str(uuid.uuid4())
        message = new_message(
            sandbox_id, requested.name or f"sandbox-{sandbox_id[:8]}", requested.workspace, self._clock()
        )
        message.spec.CopyFrom(requested.spec)
        if ignored := without_effect(requested.spec):
            add_ignored_fields(message, ignored)
        message.metadata.labels.update(requested.labels)
        message.metadata.annotations.update(requested.annotations)
        meta = message.metadata
        return Sandbox(id=sandbox_id, name=meta.name, workspace=meta.workspace, message=message, managed=True)
