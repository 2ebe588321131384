"""A gateway, supervisor and sandbox in memory that obeys docs/protocol.md, and misbehaves on demand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from fake_base import DownloadHook, FakeFile, FakeUpload, UploadHook, serialize
from fake_directories import FakeDirectories
from fake_downloads import FakeDownloads
from fake_failures import EndWithoutWord, PlainStatus, Stall, details_of
from fake_trees import FakeTrees
from fake_uploads import FakeUploads
from google.protobuf.message import Message
from openshell_files_protocol import limits, methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2

__all__ = [
    "DownloadHook",
    "EndWithoutWord",
    "FakeFile",
    "FakeGateway",
    "FakeUpload",
    "PlainStatus",
    "Stall",
    "UploadHook",
    "details_of",
]


class FakeGateway(FakeUploads, FakeDownloads, FakeDirectories, FakeTrees):
    """Serves on a free loopback port from `start` to `stop`."""

    # Life

    def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        )
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "UploadFile": grpc.stream_unary_rpc_method_handler(
                self._upload, files_pb2.UploadFileRequest.FromString, serialize
            ),
            "DownloadFile": grpc.unary_stream_rpc_method_handler(
                self._download, files_pb2.DownloadFileRequest.FromString, serialize
            ),
            "StartUpload": self._unary(
                methods.START_UPLOAD, self._start_upload, files_pb2.StartUploadRequest.FromString
            ),
            "GetUpload": self._unary(
                methods.GET_UPLOAD, self._get_upload, files_pb2.GetUploadRequest.FromString
            ),
            "ListUploads": self._unary(
                methods.LIST_UPLOADS, self._list_uploads, files_pb2.ListUploadsRequest.FromString
            ),
            "AbortUpload": self._unary(
                methods.ABORT_UPLOAD, self._abort_upload, files_pb2.AbortUploadRequest.FromString
            ),
            "WriteFile": grpc.unary_unary_rpc_method_handler(
                self._write, files_pb2.WriteFileRequest.FromString, serialize
            ),
            "StatFile": self._unary(methods.STAT_FILE, self._stat, files_pb2.StatFileRequest.FromString),
            "GetTransferCapabilities": self._unary(
                methods.GET_TRANSFER_CAPABILITIES,
                self._capabilities,
                files_pb2.GetTransferCapabilitiesRequest.FromString,
            ),
        }
        handlers |= self.directory_handlers() | self.tree_handlers()
        for name in self.lacks:
            del handlers[name]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(methods.SERVICE, handlers),))
        where = "127.0.0.1:0" if not self.address else self.address
        port = (
            server.add_insecure_port(where)
            if credentials is None
            else server.add_secure_port(where, credentials)
        )
        self.address = f"127.0.0.1:{port}"
        self.stopping.clear()
        server.start()
        self._server = server

    def stop(self) -> None:
        self.stopping.set()
        if self._server is not None:
            self._server.stop(None).wait(10)
            self._server = None

    def method_calls(self, method: str) -> list[Message]:
        return [request for name, request in self.calls if name == method]

    def streams(self, method: str) -> int:
        """Count the calls that carried content; those of WriteFile are uploads."""
        return self._streams[method]

    def _capabilities(
        self, _request: files_pb2.GetTransferCapabilitiesRequest
    ) -> files_pb2.GetTransferCapabilitiesResponse:
        told = files_pb2.GetTransferCapabilitiesResponse(
            max_chunk_bytes=self.max_chunk_bytes, max_concurrent_transfers=self.max_concurrent_transfers
        )
        told.idle_timeout.FromNanoseconds(round(self.idle_timeout * 1e9))
        if self.upload_lanes > 1:
            told.lanes.max_lanes = self.upload_lanes
        if self.max_pause:
            told.waiting.max_pause.FromNanoseconds(round(self.max_pause * 1e9))
        return told
