"""Downloads of the fake gateway, and StatFile."""

from __future__ import annotations

from collections.abc import Iterator

from digest_values import digest_of
from fake_base import Context, FakeBase, FakeFile, info_of
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason


class FakeDownloads(FakeBase):
    """The methods of downloads."""

    def _stat(self, request: files_pb2.StatFileRequest) -> files_pb2.StatFileResponse:
        file = self._file(request.remote_path)
        return files_pb2.StatFileResponse(
            file=info_of(
                request.remote_path,
                file,
                self._choose(request.accepted_digests) if request.include_digest else None,
            ),
        )

    def _file(self, path: str) -> FakeFile:
        file = self.files.get(path)
        if file is None:
            raise TransferError(Reason.FILE_NOT_FOUND, f"{path}: no such file")
        return file

    def _download(
        self, request: files_pb2.DownloadFileRequest, context: Context
    ) -> Iterator[files_pb2.DownloadFileResponse | bytes]:
        with self._failing(context):
            with self._lock:
                self._streams[methods.DOWNLOAD_FILE] += 1
                number = self._streams[methods.DOWNLOAD_FILE]
                self._admit(methods.DOWNLOAD_FILE, request, context)
                file = self._file(request.remote_path)
            honest = self.messages_of(file, request)
            yield from honest if self.on_download is None else self.on_download(number, honest)

    def messages_of(
        self, file: FakeFile, request: files_pb2.DownloadFileRequest
    ) -> Iterator[files_pb2.DownloadFileResponse]:
        size = len(file.content)
        if request.if_version and request.if_version != file.version:
            raise TransferError(Reason.VERSION_MISMATCH, f"the file is {file.version}")
        start = max(0, size - request.tail_bytes) if request.tail_bytes else request.offset
        if start > size:
            raise TransferError(Reason.RANGE_INVALID, "past the end")
        end = min(size, start + request.length) if request.HasField("length") else size
        algorithm = self._choose(request.accepted_digests)
        yield files_pb2.DownloadFileResponse(
            header=files_pb2.DownloadFileHeader(
                size_bytes=0 if request.as_archive else size,
                mode=file.mode,
                is_archive=request.as_archive,
                file=info_of(request.remote_path, file),
                start_offset=start,
                digest_algorithm=algorithm,
            )
        )
        position = start
        while position < end:
            hole = next((h for h in file.holes if h[0] == position and sum(h) <= end), None)
            if hole is not None:
                yield files_pb2.DownloadFileResponse(
                    data=files_pb2.FileChunk(offset=position, hole_bytes=hole[1])
                )
                position += hole[1]
                continue
            data = file.content[position : min(end, position + self.download_chunk)]
            yield files_pb2.DownloadFileResponse(
                data=files_pb2.FileChunk(offset=position, data=data, crc32c=crc32c(data))
            )
            position += len(data)
        yield files_pb2.DownloadFileResponse(
            trailer=files_pb2.DownloadTrailer(
                end_offset=end,
                digest=digest_of(file.content[start:end], algorithm),
                whole_file=start == 0 and end == size,
                file=info_of(request.remote_path, file),
                archive=self.archive if request.as_archive else None,
            )
        )
