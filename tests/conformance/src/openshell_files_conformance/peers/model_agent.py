"""A file agent over the suite's sandbox in memory: the operations of the core and of resuming, by the protocol.

It is correct, so that a case about something else has a sandbox that works. Options (lanes are the gateway's) are `waiting` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import Message

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_files_conformance.peers.model_files import (
    ModelFiles,
    Refused,
    chosen,
    crc32c,
    digest_of,
    invalid,
)
from openshell_files_conformance.peers.model_uploads import Attempt, begin, start_upload, write_file
from openshell_files_conformance.peers.supervisor import (
    Response,
    SupervisorRelay,
    SupervisorSession,
    accepted,
)

#: How long an idle relay is kept for the next operation (FRM-24).
KEEP_SECONDS: Final = 30.0
_PIECE: Final = 256 << 10
_DAYS: Final = 86400 * 365


class ModelAgent:
    """Serves operations over relays from one sandbox.

    Attributes:
        files: of the sandbox.
        opened: every `open` that came, in order.
    """

    def __init__(self) -> None:
        self.files = ModelFiles()
        self.opened: list[file_relay_pb2.FileRelayOpen] = []
        self._changed = asyncio.Condition()

    async def serve(self, session: SupervisorSession, opened: openshell_pb2.RelayOpen) -> None:
        """Take a relay up, and serve operations on it until it ends."""
        relay = await session.claim(opened)
        with contextlib.suppress(CannotGoOnError):
            while (frame := await relay.next(KEEP_SECONDS)) is not None:
                if frame.WhichOneof("frame") == "open":
                    await self._operation(relay, frame.open)
                    if not frame.open.keep_relay:
                        break
        await relay.half_close()

    async def _operation(self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen) -> None:
        self.opened.append(opened)
        name = str(opened.WhichOneof("operation"))
        self.files.expire(opened.limits.upload_expiry.ToNanoseconds() / 1e9)
        operations: dict[str, Callable[..., Awaitable[Message | None]]] = {
            "upload": self._upload,
            "download": self._download,
            "stat_file": self._stat,
            "start_upload": self._start,
            "write_file": self._write,
            "get_upload": self._get,
            "list_uploads": self._list,
            "abort_upload": self._abort,
        }
        serve: Callable[..., Awaitable[Message | None]] = operations.get(name, _unserved)
        try:
            result = await serve(relay, opened, getattr(opened, name, None))
        except Refused as refused:
            await relay.send(Response(error=refused.frame))
            return
        if result is not None:
            last = Response()
            getattr(last, name).CopyFrom(result)
            await relay.send(last)

    # Uploads

    async def _upload(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, metadata: Any
    ) -> Message:
        attempt = begin(self.files, opened, metadata)
        await relay.send(accepted())
        attempt.upload.streams += 1
        try:
            async for frame in self._input(relay, attempt):
                match frame.WhichOneof("frame"):
                    case "upload":
                        result = attempt.take(frame.upload)
                    case "input_end":
                        result = attempt.input_end(cancelled=frame.input_end.cancelled)
                    case other:
                        raise Refused("AGENT_PROTOCOL_ERROR", f"{other} in an upload")
                if result is not None:
                    if not attempt.explicit:
                        await self._cancelled_after_the_end(relay)
                    return attempt.publish(result)
            raise Refused("UPLOAD_INCOMPLETE", "the relay is over")
        finally:
            attempt.leave()
            async with self._changed:
                self._changed.notify_all()

    async def _cancelled_after_the_end(self, relay: SupervisorRelay) -> None:
        """Look for `cancelled` behind an `input_end` that publishes (UPL-34), as long as a flush would take."""
        with contextlib.suppress(CannotGoOnError):
            frame = await relay.next(0.03)
            if frame is None or (frame.HasField("input_end") and frame.input_end.cancelled):
                raise Refused("UPLOAD_INCOMPLETE", "the caller has left")

    async def _input(self, relay: SupervisorRelay, attempt: Attempt) -> AsyncGenerator[Any]:
        """Yield frames until the relay ends or a newer attempt takes over (RSM-18)."""
        reading = asyncio.ensure_future(relay.next(_DAYS))
        watching = asyncio.ensure_future(self._superseded(attempt))
        try:
            while True:
                await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    raise attempt.superseded()
                frame = reading.result()
                if frame is None:
                    return
                reading = asyncio.ensure_future(relay.next(_DAYS))
                yield frame
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)

    async def _superseded(self, attempt: Attempt) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: attempt.outdated)

    async def _start(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        del relay
        upload = start_upload(self.files, opened, request)
        async with self._changed:
            self._changed.notify_all()
        return files_pb2.StartUploadResponse(upload=upload.status(with_digest=True))

    async def _write(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        await relay.send(accepted())
        return write_file(self.files, opened, request)

    async def _get(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        del relay
        upload = self._known(opened.principal, request.upload_id, request.request_id)
        return files_pb2.GetUploadResponse(upload=upload.status(with_digest=request.include_digest))

    async def _abort(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        del relay
        upload = self._known(opened.principal, request.upload_id, "")
        if upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
            upload.end(files_pb2.UPLOAD_STATE_ABORTED)
            async with self._changed:
                self._changed.notify_all()
        return files_pb2.AbortUploadResponse(upload=upload.status(with_digest=False))

    async def _list(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        del relay, request
        mine = [
            one.status(with_digest=False)
            for one in self.files.uploads
            if one.principal == opened.principal
            and one.named
            and one.state == files_pb2.UPLOAD_STATE_RECEIVING
        ]
        return files_pb2.ListUploadsResponse(uploads=mine, staged_bytes=sum(one.staged_bytes for one in mine))

    def _known(self, principal: str, upload_id: str, request_id: str) -> Any:
        upload = self.files.find(principal, upload_id, request_id)
        if upload is None:
            raise Refused("UPLOAD_UNKNOWN", "there is no such upload")
        return upload

    # Downloads

    async def _stat(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> Message:
        del relay
        path, file = self.files.file(request.remote_path)
        algorithm = chosen(request.accepted_digests, opened.digests) if request.include_digest else None
        return files_pb2.StatFileResponse(file=file.info(path, algorithm))

    async def _download(
        self, relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any
    ) -> None:
        if request.as_archive:
            raise Refused("ARCHIVE_UNSUPPORTED", "archives are not transferred")
        path, file = self.files.file(request.remote_path)
        if request.tail_bytes and (request.offset or request.HasField("length")):
            raise invalid("tail_bytes")
        if request.if_version and request.if_version != file.version:
            raise Refused("VERSION_MISMATCH", "the file has another version")
        algorithm = chosen(request.accepted_digests, opened.digests) if request.checked else 0
        content = file.content
        start = max(0, len(content) - request.tail_bytes) if request.tail_bytes else request.offset
        if start > len(content):
            raise Refused("RANGE_INVALID", "the range begins after the end", fields=["offset"])
        end = min(len(content), start + request.length) if request.HasField("length") else len(content)
        most = min(_PIECE, opened.max_chunk_bytes or _PIECE)
        if request.max_chunk_bytes:
            most = min(most, max(request.max_chunk_bytes, 16384))
        header = files_pb2.DownloadFileHeader(
            size_bytes=len(content),
            mode=file.mode,
            file=file.info(path),
            start_offset=start,
            digest_algorithm=algorithm,  # type: ignore[arg-type]
        )
        await relay.send(accepted(), _down(header=header))
        for at in range(start, end, most):
            part = content[at : min(end, at + most)]
            chunk = files_pb2.FileChunk(offset=at, data=part, crc32c=crc32c(part))
            if not await relay.send(_down(data=chunk) if request.checked else _down(chunk=part)):
                return
        last = Response(download_end=file_relay_pb2.FileRelayDownloadEnd(bytes_sent=end - start))
        if not request.checked:
            await relay.send(last)
            return
        trailer = files_pb2.DownloadTrailer(
            end_offset=end,
            digest=digest_of(content[start:end], algorithm),
            whole_file=start == 0 and end == len(content),
            file=file.info(path),
        )
        await relay.send(_down(trailer=trailer), last)


async def _unserved(relay: SupervisorRelay, opened: file_relay_pb2.FileRelayOpen, request: Any) -> Message:
    del relay, request
    raise Refused(
        "METHOD_UNSUPPORTED", f"the suite's sandbox does not serve {opened.WhichOneof('operation')}"
    )


def _down(**payload: Any) -> Response:
    return Response(download=files_pb2.DownloadFileResponse(**payload))
