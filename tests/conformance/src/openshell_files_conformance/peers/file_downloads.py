"""Downloads of the gateway towards an SDK, and StatFile and changes of names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_conformance.peers.file_core import Core, Live, Single, Streamed
from openshell_files_conformance.peers.file_sandbox import RemoteFile, chosen, crc32c, digest_of
from openshell_files_conformance.peers.file_status import refusal

_Response = files_pb2.DownloadFileResponse


class DownloadCalls:
    """DownloadFile, and the unary methods about files."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def methods(self) -> dict[str, Single]:
        """Return the methods with one answer by their names."""
        return {
            "StatFile": self.stat_file,
            "GetTransferCapabilities": self.capabilities,
            "RemovePath": self.remove_path,
            "MovePath": self.move_path,
        }

    def streams(self) -> dict[str, Streamed]:
        """Return the methods with a stream of answers by their names."""
        return {"DownloadFile": self.download_file}

    async def download_file(self, live: Live) -> AsyncIterator[Message]:
        """Send a file, checked or as in the RFC."""
        request = await live.only(files_pb2.DownloadFileRequest)
        self._core.admit_sandbox(request.sandbox_id, request.sandbox)
        if request.as_archive:
            raise self._core.refuse("CAP-10", "ARCHIVE_UNSUPPORTED", "as_archive was not offered")
        file = self._file(request.remote_path)
        if self._core.settings.rfc_only:
            request = files_pb2.DownloadFileRequest(remote_path=request.remote_path)
        for message in self._messages(request, file):
            yield message

    def _file(self, path: str) -> RemoteFile:
        file = self._core.sandbox.files.get(path)
        if file is None:
            raise refusal("FILE_NOT_FOUND", f"there is no file at {path}")
        return file

    def _messages(self, request: files_pb2.DownloadFileRequest, file: RemoteFile) -> Iterator[_Response]:
        size = len(file.content)
        if request.if_version and request.if_version != file.version:
            raise refusal("VERSION_MISMATCH", f"the file has version {file.version}")
        if request.tail_bytes and (request.offset or request.HasField("length")):
            raise self._core.refuse("DWN-13", "INVALID_REQUEST", "tail_bytes together with offset or length")
        start = max(0, size - request.tail_bytes) if request.tail_bytes else request.offset
        if start > size:
            raise refusal("RANGE_INVALID", "the range starts after the end")
        end = min(size, start + request.length) if request.HasField("length") else size
        algorithm = chosen(request.accepted_digests, self._core.settings.digests)
        header = files_pb2.DownloadFileHeader(size_bytes=size, mode=file.mode)
        if not self._core.settings.rfc_only:
            header.file.CopyFrom(file.info(request.remote_path))
            header.start_offset = start
        if not request.checked:
            yield _Response(header=header)
            for position, data in self._pieces(file, start, end, request.max_chunk_bytes):
                del position
                yield _Response(chunk=data)
            return
        if algorithm is None:
            raise refusal("DIGEST_UNSUPPORTED", "none of the accepted digests is computed here")
        header.digest_algorithm = algorithm
        yield _Response(header=header)
        yield from self._checked(file, start, end, request.max_chunk_bytes)
        trailer = files_pb2.DownloadTrailer(
            end_offset=end,
            digest=digest_of(file.content[start:end], algorithm),
            whole_file=start == 0 and end == size,
            file=file.info(request.remote_path),
        )
        yield _Response(trailer=trailer)

    def _checked(self, file: RemoteFile, start: int, end: int, most: int) -> Iterator[_Response]:
        position = start
        while position < end:
            hole = next((size for at, size in file.holes if at == position and at + size <= end), 0)
            if hole:
                yield _Response(data=files_pb2.FileChunk(offset=position, hole_bytes=hole))
                position += hole
                continue
            stop = min([end, *(at for at, _ in file.holes if at > position)])
            for at, data in self._pieces(file, position, stop, most):
                yield _Response(data=files_pb2.FileChunk(offset=at, data=data, crc32c=crc32c(data)))
            position = stop

    def _pieces(self, file: RemoteFile, start: int, end: int, most: int) -> Iterator[tuple[int, bytes]]:
        size = self._core.settings.download_chunk_bytes
        if most:
            size = min(size, max(most, 16384))
        for position in range(start, end, size):
            yield position, file.content[position : min(end, position + size)]

    # Unary methods

    async def stat_file(self, live: Live) -> Message:
        """Describe a file."""
        request = await live.only(files_pb2.StatFileRequest)
        self._core.admit_sandbox(request.sandbox.id, request.sandbox.name)
        file = self._file(request.remote_path)
        algorithm = chosen(request.accepted_digests, self._core.settings.digests)
        if request.include_digest and algorithm is None:
            raise refusal("DIGEST_UNSUPPORTED", "none of the accepted digests is computed here")
        return files_pb2.StatFileResponse(
            file=file.info(request.remote_path, algorithm if request.include_digest else None)
        )

    async def capabilities(self, live: Live) -> Message:
        """Tell limits and options (CAP-1)."""
        request = await live.only(files_pb2.GetTransferCapabilitiesRequest)
        self._core.admit_sandbox(request.sandbox.id, request.sandbox.name)
        settings = self._core.settings
        self._core.knows_limits = True
        answer = files_pb2.GetTransferCapabilitiesResponse(
            max_chunk_bytes=settings.max_chunk_bytes,
            max_file_bytes=1 << 40,
            max_uploads_per_sandbox=100,
            max_uploads_per_principal=50,
            max_concurrent_transfers=16,
            max_write_bytes=(1 << 20) - (16 << 10),
        )
        answer.idle_timeout.FromSeconds(30)
        answer.upload_expiry.FromSeconds(3600)
        answer.digests.extend(settings.digests)
        if settings.max_lanes:
            answer.lanes.max_lanes = settings.max_lanes
        if settings.trees:
            answer.trees.max_entries = 100_000
        if settings.directories:
            answer.directories.max_page_size = 10_000
        return answer

    async def remove_path(self, live: Live) -> Message:
        """Remove a file."""
        request = await live.only(directories_pb2.RemovePathRequest)
        self._core.admit_sandbox(request.sandbox.id, request.sandbox.name)
        path = request.path.decode("utf-8", "surrogateescape")
        self._file(path)
        del self._core.sandbox.files[path]
        return directories_pb2.RemovePathResponse(removed_entries=1)

    async def move_path(self, live: Live) -> Message:
        """Move a file."""
        request = await live.only(directories_pb2.MovePathRequest)
        self._core.admit_sandbox(request.sandbox.id, request.sandbox.name)
        source, destination = (
            path.decode("utf-8", "surrogateescape") for path in (request.source, request.destination)
        )
        file = self._file(source)
        self._core.sandbox.files[destination] = self._core.sandbox.files.pop(source)
        return directories_pb2.MovePathResponse(file=file.info(destination))
