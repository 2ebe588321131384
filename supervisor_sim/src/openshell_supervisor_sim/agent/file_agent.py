"""The file agent: composes journal, uploads and disk threads, and serves streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from openshell_files_disk.filesystem.handles import FileSystem, process_umask
from openshell_files_process.tasks import TaskScope, end_tasks
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

from openshell_supervisor_sim.agent.concurrency import DiskThreads
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.directories.parts import directory_parts
from openshell_supervisor_sim.agent.operations.connection import Session
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck
from openshell_supervisor_sim.agent.paths.guard import Guard
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.settings import AgentSettings
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.streams import ByteStream
from openshell_supervisor_sim.agent.trace_points import Trace, no_trace
from openshell_supervisor_sim.agent.trees.parts import TreeParts
from openshell_supervisor_sim.agent.upload.admission import Admission
from openshell_supervisor_sim.agent.upload.attachment import Attachment
from openshell_supervisor_sim.agent.upload.expiry import Expiry
from openshell_supervisor_sim.agent.upload.publisher import Publisher
from openshell_supervisor_sim.agent.upload.recovery import Recovery
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.staged_budget import StagedBudget

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStatistics:
    """Statistics of an agent: its current load, and counts since its start.

    Attributes:
        active_uploads: streams that carry an upload.
        active_downloads: streams that carry a download.
        active_operations: streams that carry another operation, or that have sent no first frame
            yet.
        bytes_buffered: content between streams and disk.
        unfinished_uploads: uploads that can be resumed.
        staged_bytes: content that unfinished uploads occupy.
        uploads_published: files.
        downloads_completed: files or ranges.
        operations_failed: of any kind.
        bytes_received: from peers, of operations that have ended.
        bytes_sent: to peers, of operations that have ended.
    """

    active_uploads: int
    active_downloads: int
    active_operations: int
    bytes_buffered: int
    unfinished_uploads: int
    staged_bytes: int
    uploads_published: int
    downloads_completed: int
    operations_failed: int
    bytes_received: int
    bytes_sent: int


class FileAgent:
    """Serves file operations inside one root, on any byte stream.

    Args:
        settings: see `AgentSettings`.
        trace: called at each `TracePoint`, from a disk thread.
        filesystem: the system calls; tests make them fail.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        trace: Callable[[str], None] | None = None,
        filesystem: FileSystem | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._limits = Limits(
            max_chunk_bytes=settings.max_chunk_bytes,
            max_file_bytes=settings.max_file_bytes,
            max_uploads=settings.max_uploads,
            max_uploads_per_principal=settings.max_uploads_per_principal,
            upload_expiry=settings.upload_expiry,
            idle_timeout=settings.idle_timeout,
            max_tree_entries=settings.max_tree_entries,
            max_archive_entries=settings.max_archive_entries,
            max_extracted_bytes=settings.max_extracted_bytes,
        )
        self._trace: Trace = trace or no_trace
        self._fs = filesystem or FileSystem()
        self._clock = clock
        self._disk: DiskThreads | None = None
        self._services: Services | None = None
        self._journal: Journal | None = None
        self._tasks = TaskScope()
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._finishing = False

    @property
    def capability(self) -> file_relay_pb2.FileTransferCapability:
        """The capability that a supervisor's hello announces (CAP-2)."""
        return self._limits.announced()

    async def start(self) -> None:
        """Open root and journal, restore unfinished uploads, and start the sweeper.

        Raises:
            OSError: the root cannot be opened.
            TransferError: the journal cannot be read or written.
            RuntimeError: another agent uses the state directory, or this one
                was started before.
        """
        if self._disk is not None:
            raise RuntimeError("the agent was started before")
        self._disk = DiskThreads(self._settings.disk_threads)
        try:
            self._services = await self._disk.run(
                partial(self._open, self._disk), discard=lambda services: services.root.close()
            )
        except BaseException:
            await self.aclose()
            raise
        self._tasks.start(self._sweep_forever(), "file-agent-sweeper")

    async def serve(self, stream: ByteStream) -> None:
        """Carry out the operations of a stream, one after the other (FRM-9).

        An error is answered on the stream and not raised. If the caller is cancelled, this ends the
        operation and frees its resources before it returns; it waits for a running disk operation.

        Raises:
            RuntimeError: the agent is not started.
            CancelledError: the caller was cancelled.
        """
        if self._services is None:
            raise RuntimeError("the agent is not started")
        session = Session(self._services, stream)
        if self._finishing:
            session.finish()
        task = self._tasks.start(session.run(), "file-agent-session")
        self._sessions[task] = session
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await end_tasks(task)
            raise
        finally:
            del self._sessions[task]
        if not task.cancelled():
            # Only `aclose` cancels the task. Any other error is a bug.
            task.result()

    def finish(self) -> None:
        """End each stream after its current operation, and idle streams at once."""
        self._finishing = True
        for session in self._sessions.values():
            session.finish()

    async def aclose(self) -> None:
        """End running operations and close everything; more than once is fine.

        Resumable uploads stay staged.
        """
        services, self._services = self._services, None
        try:
            await self._tasks.end()
        finally:
            await self._close_files(services)

    async def _close_files(self, services: Services | None) -> None:
        if self._disk is None:
            return
        if services is not None:
            await self._disk.run(services.uploads.close)
            await self._disk.run(services.root.close)
        journal, self._journal = self._journal, None
        if journal is not None:
            await self._disk.run(journal.close)
        disk, self._disk = self._disk, None
        await disk.close()

    def statistics(self) -> AgentStatistics:
        """Return the agent's statistics.

        Raises:
            RuntimeError: the agent is not started.
        """
        services = self._services
        if services is None:
            raise RuntimeError("the agent is not started")
        kinds = [session.kind for session in self._sessions.values()]
        counters = services.counters
        return AgentStatistics(
            active_uploads=kinds.count("upload"),
            active_downloads=kinds.count("download"),
            active_operations=kinds.count("other"),
            bytes_buffered=sum(session.buffered for session in self._sessions.values()),
            unfinished_uploads=len(services.uploads.all_unfinished()),
            staged_bytes=services.budget.used,
            uploads_published=counters.uploads_published,
            downloads_completed=counters.downloads_completed,
            operations_failed=counters.operations_failed,
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
        )

    async def sweep(self) -> int:
        """Expire uploads now, as the agent does every `sweep_interval`.

        Returns:
            Uploads that expired.

        Raises:
            TransferError: the journal cannot be written.
        """
        if self._services is None or self._disk is None:
            raise RuntimeError("the agent is not started")
        return await self._disk.run(self._services.expiry.sweep)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                expired = await self.sweep()
            except TransferError:
                _log.exception("expired uploads could not be swept")
            else:
                if expired:
                    _log.info("%d uploads expired", expired)
            await asyncio.sleep(self._settings.sweep_interval)

    def _open(self, disk: DiskThreads) -> Services:
        settings = self._settings
        root = SandboxRoot(settings.root, settings.workdir, use_openat2=settings.use_openat2, fs=self._fs)
        try:
            journal = self._journal = Journal(settings.state_dir, settings.max_journal_bytes)
            root.guard = Guard(
                self._fs,
                root.descriptor,
                state_dir=settings.state_dir,
                private=settings.private,
                covered=settings.covered,
            )
            budget = StagedBudget(settings.max_staged_bytes)
            check = DestinationCheck(root, self._fs)
            recovery = Recovery(root=root, journal=journal, fs=self._fs, budget=budget, clock=self._clock)
            uploads = Uploads(root=root, journal=journal, recover=recovery.recover, fs=self._fs)
            admission = Admission(
                uploads=uploads,
                root=root,
                journal=journal,
                check=check,
                fs=self._fs,
                budget=budget,
                clock=self._clock,
                trace=self._trace,
            )
            locks = DestinationLocks(self._fs)
            publisher = Publisher(
                check=check,
                root=root,
                journal=journal,
                fs=self._fs,
                umask=process_umask(),
                trace=self._trace,
                later=disk.later,
                destinations=locks,
            )
            directories = directory_parts(
                root=root,
                fs=self._fs,
                check=check,
                locks=locks,
                journal=journal,
                leftovers=uploads.leftovers,
                trace=self._trace,
            )
            trees = TreeParts(
                root=root,
                fs=self._fs,
                journal=journal,
                leftovers=uploads.leftovers,
                umask=process_umask(),
                trace=self._trace,
            )
            attachment = Attachment(
                admission=admission,
                uploads=uploads,
                root=root,
                journal=journal,
                check=check,
                publisher=publisher,
                fs=self._fs,
                trace=self._trace,
            )
            recovery.run(uploads)
        except BaseException:
            root.close()
            raise
        return Services(
            settings=settings,
            limits=self._limits,
            root=root,
            uploads=uploads,
            admission=admission,
            attachment=attachment,
            expiry=Expiry(uploads, journal, self._clock, settings.tombstone_seconds),
            directories=directories,
            trees=trees,
            budget=budget,
            disk=disk.of(""),
            fs=self._fs,
            trace=self._trace,
        )
