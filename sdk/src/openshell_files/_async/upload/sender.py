"""Moves the bytes of an upload: sends the content, and compares it with digests of the sandbox."""

from __future__ import annotations

from contextlib import aclosing, suppress

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._async import _io
from openshell_files._async._calls import CallEndedError, UploadCall
from openshell_files._async.deadline import Deadline
from openshell_files._async.rpc import Rpc
from openshell_files._async.upload.content import Content, hash_up_to, sealed
from openshell_files._async.upload.lane_calls import UploadLanes
from openshell_files._async.upload.upload_progress import UploadProgress
from openshell_files._async.upload.waiting import ContentWriter
from openshell_files._core.digests import ContentDigest
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload.actions import Send
from openshell_files._core.upload.finish_outcome import method_missing
from openshell_files._core.upload.outgoing import Span, finish_message, first_message, write_request
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files._local import source_file
from openshell_files.errors import FilesError, SourceNotReplayable


class Sender:
    """Sends one upload's content, once per attempt.

    Args:
        rpc: the gateway.
        address: the sandbox.
        content: the source.
        digest: of the content; may have hashed some of it already.
        plan: the upload.
        progress: receives the count of sent bytes.

    Attributes:
        bytes_sent: content sent, over all attempts.
        resumed_from: offset at which the last attempt began.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        content: Content,
        digest: ContentDigest,
        plan: UploadPlan,
        progress: UploadProgress,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._content = content
        self._digest = digest
        self._plan = plan
        self._progress = progress
        self._complete = False
        self.bytes_sent = 0
        self.resumed_from = 0

    async def send(self, action: Send, deadline: Deadline) -> files_pb2.UploadFileResponse:
        """Send the content from the action's offset on, and the finish.

        Raises:
            FilesError: the attempt failed.
        """
        self._plan.on_attempt()
        self._plan.attempts += 1
        self.resumed_from = action.offset
        self._complete = False
        self._use(self._plan.algorithm)
        written = await self._write_file(action, deadline)
        if written is not None:
            return written
        if self._plan.inline and not action.metadata.upload_id:
            await self._rpc.check_extensions(self._address, deadline)
        metadata = self._with_lanes(action)
        call = await self._rpc.upload_file(metadata, deadline)
        self._plan.on_request_sent()
        try:
            async with call:
                with suppress(CallEndedError):
                    # The server may answer before everything was sent; its status counts.
                    await self._stream(call, action, metadata, deadline)
                return self._rpc.uploaded(await call.response())
        finally:
            # After the end of the call, whatever ended it: from here on nothing is sent.
            if call.finish_left:
                self._plan.on_finish_sent()

    async def _stream(
        self,
        call: UploadCall | UploadLanes,
        action: Send,
        metadata: files_pb2.UploadFileMetadata,
        deadline: Deadline,
    ) -> None:
        """Send everything up to the finish."""
        messages = sealed(self._content, self._digest, action.offset, action.chunk_bytes, deadline)
        await call.write(first_message(metadata))
        self._progress.transferred(action.offset)
        async with (
            _io.produced_ahead(messages) as ready,
            ContentWriter(call, action.waiting) as writer,
        ):
            async for message in ready:
                await writer.write(message.message)
                self.bytes_sent += message.content
                self._progress.transferred(message.end)
        await self._content.check_unchanged()
        size = self._digest.position
        if self._content.size is not None and size != self._content.size:
            raise source_file.changed(self._content.name)
        self._complete = True
        await call.finish(finish_message(size, self._digest.digest()))

    async def _write_file(self, action: Send, deadline: Deadline) -> files_pb2.UploadFileResponse | None:
        """Send a small file with WriteFile (UPL-16).

        Returns:
            None if the file has to be streamed: it is not small, has a hole,
            or the gateway or the sandbox lacks the method.
        """
        size = self._content.size
        if size is None or not self._plan.inline or action.metadata.upload_id:
            return None
        if not self._rpc.has_write(self._address) or not await self._rpc.connect(deadline):
            # A call that begins without a connection does not tell whether its request was sent.
            return None
        pieces, held = list[Span](), 0
        async with aclosing(self._content.spans(0, action.chunk_bytes)) as spans:
            async for span in spans:
                if span.hole_bytes:
                    # WriteFile would fill it with zeros.
                    return None
                pieces.append(span)
                held += len(span.data)
                if held > size:
                    raise source_file.changed(self._content.name)
        if not self._digest.rewind(0):
            return None
        request = write_request(action.metadata, self._digest, pieces)
        self._progress.transferred(0)
        await self._content.check_unchanged()
        if self._digest.position != size:
            raise source_file.changed(self._content.name)
        self._complete = True
        # No `on_request_sent`: nothing of a WriteFile stays for the client to free (UPL-59).
        try:
            response = await self._rpc.write_file(request, deadline, self._plan.on_finish_sent)
        except FilesError as error:
            if not method_missing(error):
                raise
            self._rpc.lacks_write(self._address, error)
            self._plan.on_finish_not_received()
            return None
        self.bytes_sent += size
        self._progress.transferred(size)
        return response

    def _with_lanes(self, action: Send) -> files_pb2.UploadFileMetadata:
        """Return the metadata, with as many lanes as are allowed and faster than one (LAN-1)."""
        left = None if self._content.size is None else self._content.size - action.offset
        lanes = self._rpc.lanes.choose(action.lanes, left)
        if lanes == 1:
            return action.metadata
        metadata = files_pb2.UploadFileMetadata()
        metadata.CopyFrom(action.metadata)
        metadata.lanes = lanes
        return metadata

    def _use(self, algorithm: DigestAlgorithm) -> None:
        """Hash from the start again if the bytes so far were hashed with another algorithm."""
        if self._digest.algorithm is not algorithm:
            self._digest = ContentDigest(algorithm)

    async def source_digest(self, deadline: Deadline) -> Digest:
        """Return the digest of the whole source, by the upload's algorithm."""
        self._use(self._plan.algorithm)
        await hash_up_to(self._content, self._digest, self._content.size or 0, deadline)
        return self._digest.digest()

    async def prefix_matches(self, length: int, digest: Digest, deadline: Deadline) -> bool:
        """Return whether the first `length` bytes of the source have this digest (RSM-15)."""
        self._use(digest.algorithm)
        if not self._digest.rewind(length):
            await hash_up_to(self._content, self._digest, length, deadline)
        return self._digest.position == length and self._digest.digest() == digest

    async def whole_matches(self, size: int, digest: Digest | None, deadline: Deadline) -> bool:
        """Return whether the source has this size and digest.

        Raises:
            SourceNotReplayable: the source is a stream that was not read to its end.
        """
        own_size = self._content.size
        if own_size is None and not self._complete:
            raise SourceNotReplayable(
                "the upload was published already, and the stream cannot be compared with it",
                source_file.not_replayable_facts(),
            )
        if own_size is not None:
            if own_size != size or digest is None:
                return False
            self._use(digest.algorithm)
            await hash_up_to(self._content, self._digest, own_size, deadline)
        return self._digest.position == size and self._digest.digest() == digest
