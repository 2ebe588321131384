"""A client process that knows the RFC's text and nothing else: 64 KiB chunks, no digest, no resumption."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from harness.answering import serve
from harness.connection import metadata, open_channel

METADATA = metadata()

channel = open_channel()


def messages(sandbox_id: str, source: str, remote: str, chunk: int) -> Iterator[files_pb2.UploadFileRequest]:
    yield files_pb2.UploadFileRequest(
        metadata=files_pb2.UploadFileMetadata(
            sandbox_id=sandbox_id, remote_path=remote, size_bytes=os.path.getsize(source)
        )
    )
    with open(source, "rb") as file:
        while data := file.read(chunk):
            yield files_pb2.UploadFileRequest(chunk=data)


def upload(sandbox_id: str, source: str, remote: str, chunk: int = 64 * 1024) -> dict[str, Any]:
    call = channel.stream_unary(
        methods.UPLOAD_FILE,
        request_serializer=files_pb2.UploadFileRequest.SerializeToString,
        response_deserializer=files_pb2.UploadFileResponse.FromString,
    )
    answer = call(messages(sandbox_id, source, remote, chunk), metadata=METADATA)
    return {"size": answer.bytes_written}


def download(sandbox_id: str, remote: str, target: str) -> dict[str, Any]:
    call = channel.unary_stream(
        methods.DOWNLOAD_FILE,
        request_serializer=files_pb2.DownloadFileRequest.SerializeToString,
        response_deserializer=files_pb2.DownloadFileResponse.FromString,
    )
    Path(target).unlink(missing_ok=True)
    size = 0
    with open(target, "wb") as file:
        for message in call(
            files_pb2.DownloadFileRequest(sandbox_id=sandbox_id, remote_path=remote), metadata=METADATA
        ):
            size += file.write(message.chunk)
    return {"size": size}


if __name__ == "__main__":
    serve({"upload": upload, "download": download})
