"""One DownloadFile: reads the file one batch ahead and sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.chunks import embed, encode_chunk, encode_hole, encode_plain
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2

from openshell_supervisor_sim.agent.archives.archive_source import ArchiveSource
from openshell_supervisor_sim.agent.core.archive_requests import archive_download_request
from openshell_supervisor_sim.agent.core.requests import DownloadRequest, download_request
from openshell_supervisor_sim.agent.download.source import Content, DownloadSource, Hole
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.send_archive import open_archive
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Outbound
from openshell_supervisor_sim.agent.upload.status import Caller

#: Content that one visit of a disk thread reads. While a batch is sent, the next one is read.
_BATCH_BYTES: Final = MIB

Pieces = Sequence[Content | Hole]
Source = DownloadSource | ArchiveSource


class DownloadSession:
    """Sends the content of one download.

    Args:
        services: of the agent.
        caller: of the operation.
        outbound: frames for the gateway.
    """

    def __init__(self, services: Services, caller: Caller, outbound: Outbound) -> None:
        self._services = services
        self._caller = caller
        self._outbound = outbound
        self._buffered = 0

    @property
    def buffered(self) -> int:
        """Bytes that were read and not sent."""
        return self._buffered

    async def run(
        self, message: files_pb2.DownloadFileRequest, accepted: file_relay_pb2.FileRelayResponse
    ) -> None:
        """Send the file with its frames around it.

        Raises:
            TransferError: the download is not complete.
            ConnectionError: the peer is gone.
        """
        request = archive_download_request(message) if message.as_archive else download_request(message)
        interrupt = Interrupt()
        opening = self._services.disk.run(
            partial(self._open, request, interrupt, as_archive=message.as_archive),
            interrupt=interrupt,
            discard=lambda opened: opened[0].close(),
        )
        source, pieces = await self._outbound.while_working(opening)
        try:
            await self._outbound.put_message(accepted)
            await self._put_download(files_pb2.DownloadFileResponse(header=source.header()))
            await self._content(source, pieces, checked=request.checked)
            trailer = await self._services.disk.run(partial(_finish, source))
        finally:
            if not source.closed:
                await self._services.disk.run(source.close)
        if request.checked:
            await self._put_download(files_pb2.DownloadFileResponse(trailer=trailer))
        end = file_relay_pb2.FileRelayDownloadEnd(bytes_sent=source.bytes_sent)
        await self._outbound.put_message(file_relay_pb2.FileRelayResponse(download_end=end))
        await self._outbound.flush()

    def _open(
        self, request: DownloadRequest, interrupt: Interrupt, *, as_archive: bool
    ) -> tuple[Source, Pieces]:
        services = self._services
        if as_archive:
            return open_archive(services, self._caller, request, interrupt, _BATCH_BYTES)
        source = DownloadSource(
            services.root, request, self._caller.limits, services.fs, services.trace, interrupt
        )
        try:
            return source, source.read(_BATCH_BYTES)
        except BaseException:
            source.close()
            raise

    async def _content(self, source: Source, pieces: Pieces, *, checked: bool) -> None:
        async with TaskScope() as scope:
            while not source.exhausted:
                read = self._services.disk.run(partial(source.read, _BATCH_BYTES), interrupt=source.interrupt)
                ahead = scope.start(read, "file-agent-read-ahead")
                await self._put_pieces(pieces, checked=checked)
                if not ahead.done():
                    # Long holes are small frames: gathered frames do not wait for a read that takes long.
                    await self._outbound.flush()
                    await self._outbound.while_working(asyncio.wait({ahead}))
                pieces = ahead.result()
        await self._put_pieces(pieces, checked=checked)

    async def _put_pieces(self, pieces: Pieces, *, checked: bool) -> None:
        self._buffered = sum(len(piece.data) for piece in pieces if isinstance(piece, Content))
        for piece in pieces:
            await self._put_piece(piece, checked=checked)
        self._buffered = 0

    async def _put_piece(self, piece: Content | Hole, *, checked: bool) -> None:
        if isinstance(piece, Hole):
            await self._outbound.put(embed([encode_hole(piece.offset, piece.length)]))
        elif checked:
            await self._outbound.put(embed(encode_chunk(piece.offset, piece.data, piece.crc32c)))
        else:
            await self._outbound.put(embed(encode_plain(piece.data)))

    async def _put_download(self, message: files_pb2.DownloadFileResponse) -> None:
        await self._outbound.put(embed([message.SerializeToString()]))


def _finish(source: Source) -> files_pb2.DownloadTrailer:
    trailer = source.trailer()
    source.close()
    return trailer
