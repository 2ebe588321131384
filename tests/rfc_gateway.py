"""A gateway that serves the RFC's text and nothing else, in the way that endangers a caller most.

It ignores what it does not know, and takes the end of an upload's stream for
the end of the file: a caller that sends extensions replaces its file by an
empty one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import rfc_messages
from google.protobuf.message import Message


class RfcGateway:
    """Serves on a free loopback port from `start` to `stop`.

    Attributes:
        files: content by path.
        uploads: streams of UploadFile that it received.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.uploads = 0
        self.address = ""
        self._server = grpc.server(ThreadPoolExecutor(4))

    def start(self) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "UploadFile": grpc.stream_unary_rpc_method_handler(
                self._upload,
                rfc_messages.UploadFileRequest.FromString,
                rfc_messages.UploadFileResponse.SerializeToString,
            ),
            "DownloadFile": grpc.unary_stream_rpc_method_handler(
                self._download,
                rfc_messages.DownloadFileRequest.FromString,
                rfc_messages.DownloadFileResponse.SerializeToString,
            ),
        }
        service = rfc_messages.UPLOAD_FILE.split("/")[1]
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(10)

    def _upload(self, requests: Iterator[Any], _context: grpc.ServicerContext) -> Message:
        self.uploads += 1
        path, content = "", b""
        for request in requests:
            if request.WhichOneof("payload") == "metadata":
                path = request.metadata.remote_path
            content += request.chunk
        self.files[path] = content
        return rfc_messages.UploadFileResponse(bytes_written=len(content))

    def _download(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        content = self.files.get(request.remote_path)
        if content is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such file")
            raise AssertionError
        header = rfc_messages.DownloadFileHeader(size_bytes=len(content), mode=0o644)
        yield rfc_messages.DownloadFileResponse(header=header)
        for start in range(0, len(content), rfc_messages.CHUNK_BYTES):
            yield rfc_messages.DownloadFileResponse(chunk=content[start : start + rfc_messages.CHUNK_BYTES])
