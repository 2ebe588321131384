"""Driver of an upload that is unpacked."""

from __future__ import annotations

from contextlib import suppress

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._async import _io
from openshell_files._async._calls import CallEndedError
from openshell_files._async.deadline import Deadline
from openshell_files._async.reporting import Reporter
from openshell_files._async.rpc import Rpc
from openshell_files._async.upload.content import Content, SourceFailedError, sealed
from openshell_files._async.upload.waiting import ContentWriter
from openshell_files._core.archives.requests import (
    archive_metadata,
    digest_for,
    leaves_open,
    outcome_unknown,
    unpacked,
    without_archives,
)
from openshell_files._core.digests import ContentDigest
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload.cleanup import is_lost
from openshell_files._core.upload.outgoing import finish_message, first_message
from openshell_files._local import source_file
from openshell_files.archive_results import ArchiveResult
from openshell_files.errors import FilesError, LocalFileError
from openshell_files.options import Durability, RemotePath
from openshell_files.results import Progress, ProgressCallback


class ArchiveUpload:
    """One call of `upload_archive`, over all its attempts.

    An archive is unpacked while it arrives, so an attempt begins with its first byte. Entries that
    an earlier attempt unpacked are replaced by the same.

    Args:
        rpc: the gateway.
        address: the sandbox.
        content: the archive.
        path: the directory in the sandbox.
        parents: make missing directories above it.
        durability: what survives a power loss.
        deadline: end of the caller's time.
        progress: the caller's callback.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        content: Content,
        path: RemotePath,
        *,
        parents: bool,
        durability: Durability,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._content = content
        self._path = path
        self._parents = parents
        self._durability = durability
        self._deadline = deadline
        self._reporter = Reporter(progress)
        self._attempts = 0
        self._finish_sent = False

    async def run(self) -> ArchiveResult:
        """Send the archive, with as many attempts as source and retry policy allow.

        Raises:
            FilesError: it was refused, or the retries are used up.
        """
        began = _io.monotonic()
        gate, paced = self._rpc.gate(self._address), self._content.size is None
        entered = await gate.enter(self._deadline, paced=paced)
        try:
            response, digest = await self._send()
        except SourceFailedError as error:
            raise error.__cause__ or error from None
        finally:
            if entered:
                gate.leave(paced=paced)
        return unpacked(response, digest, seconds=_io.monotonic() - began, attempts=self._attempts)

    async def _send(self) -> tuple[files_pb2.UploadFileResponse, Digest]:
        budget = self._rpc.budget()
        while True:
            try:
                return await self._attempt()
            except LocalFileError:
                raise
            except FilesError as error:
                self._failed(error)
                try:
                    await self._rpc.recover(error, budget, self._deadline)
                except FilesError as final:
                    raise self._last(final) from final.__cause__

    def _failed(self, error: FilesError) -> None:
        """Raise the caller's error if the archive cannot be sent again."""
        without_archives(error)
        error.about(str(self._path))
        self._address.name_in(error)
        self._rpc.refused(self._address, error)
        if not self._content.spent:
            return
        if self._finish_sent or not is_lost(error):
            raise self._last(error)
        raise source_file.not_replayable(self._content.name) from error

    def _last(self, error: FilesError) -> FilesError:
        """Return the error of an archive that is not sent again."""
        if self._finish_sent and leaves_open(error):
            unknown = outcome_unknown(error, str(self._path))
            unknown.__cause__ = error
            return unknown
        return error

    async def _attempt(self) -> tuple[files_pb2.UploadFileResponse, Digest]:
        rpc, deadline = self._rpc, self._deadline
        self._finish_sent = False
        # A gateway of the RFC alone would ignore the finish (RFC-8).
        await rpc.check_extensions(self._address, deadline)
        asking = rpc.capabilities(self._address)
        asking.begin()
        can = await asking.told(deadline)
        digest = ContentDigest(digest_for(can.digests))
        metadata = archive_metadata(
            self._address,
            self._path,
            self._content.size,
            parents=self._parents,
            durability=self._durability,
            algorithm=digest.algorithm,
        )
        self._attempts += 1
        messages = sealed(self._content, digest, 0, can.chunk_bytes, deadline)
        call = await rpc.upload_file(metadata, deadline)
        try:
            async with call:
                with suppress(CallEndedError):
                    # The server may answer before everything was sent; its status counts.
                    await call.write(first_message(metadata))
                    self._report(0)
                    async with (
                        _io.produced_ahead(messages) as ready,
                        ContentWriter(call, can.waiting) as writer,
                    ):
                        async for message in ready:
                            await writer.write(message.message)
                            self._report(message.end)
                    await self._content.check_unchanged()
                    if self._content.size is not None and digest.position != self._content.size:
                        raise source_file.changed(self._content.name)
                    await call.finish(finish_message(digest.position, digest.digest()))
                return rpc.uploaded(await call.response()), digest.digest()
        finally:
            self._finish_sent = call.finish_left

    def _report(self, sent: int) -> None:
        self._reporter.report(Progress(sent, self._content.size, attempt=self._attempts))
