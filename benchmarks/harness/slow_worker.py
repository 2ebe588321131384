"""A client process with many slow peers: each has a connection of its own and does next to nothing with it.

`download` opens transfers and takes a message of each now and then; `upload`
opens them and sends a chunk now and then. All of it in raw messages, so that
nothing in between is in a hurry.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, STREAM_OPTIONS
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from harness.answering import serve
from harness.connection import WORKSPACE, metadata, open_channel

METADATA = metadata()

#: Between two messages of one transfer.
PAUSE = 1.0


def channel() -> Any:  # noqa: ANN401 - grpc's channels are not typed
    options = [*STREAM_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    return open_channel(options)


def all_at_once(count: int, seconds: float, one: Any) -> dict[str, Any]:  # noqa: ANN401
    over = threading.Event()
    messages = [0] * count
    calls: list[Any] = []

    def run(number: int) -> None:
        with channel() as own, suppress(grpc.RpcError):
            one(own, number, over, messages, calls)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for call in calls:
        call.cancel()
    for thread in threads:
        thread.join()
    return {"messages": messages}


def download(sandbox: str, remote: str, count: int, seconds: float) -> dict[str, Any]:
    """Download with readers that take one message a second."""

    def one(own: Any, number: int, over: threading.Event, messages: list[int], calls: list[Any]) -> None:  # noqa: ANN401
        call = own.unary_stream(
            methods.DOWNLOAD_FILE,
            request_serializer=files_pb2.DownloadFileRequest.SerializeToString,
            response_deserializer=None,
        )(
            files_pb2.DownloadFileRequest(
                sandbox=sandbox, workspace=WORKSPACE, remote_path=remote, checked=True
            ),
            metadata=METADATA,
        )
        calls.append(call)
        for _ in call:
            messages[number] += 1
            if over.wait(PAUSE):
                return

    return all_at_once(count, seconds, one)


def upload(sandbox: str, remote: str, count: int, seconds: float) -> dict[str, Any]:
    """Upload with sources that give one chunk a second."""

    def one(own: Any, number: int, over: threading.Event, messages: list[int], calls: list[Any]) -> None:  # noqa: ANN401
        def requests() -> Iterator[files_pb2.UploadFileRequest]:
            yield files_pb2.UploadFileRequest(
                metadata=files_pb2.UploadFileMetadata(
                    sandbox=sandbox,
                    workspace=WORKSPACE,
                    remote_path=f"{remote}-{number}",
                    size_bytes=1 << 40,
                    explicit_finish=True,
                )
            )
            while True:
                yield files_pb2.UploadFileRequest(chunk=bytes(MAX_CHUNK_BYTES))
                messages[number] += 1
                if over.wait(PAUSE):
                    return

        call = own.stream_unary(
            methods.UPLOAD_FILE,
            request_serializer=files_pb2.UploadFileRequest.SerializeToString,
            response_deserializer=None,
        ).future(requests(), metadata=METADATA)
        calls.append(call)
        call.result()

    return all_at_once(count, seconds, one)


if __name__ == "__main__":
    serve({"download": download, "upload": upload})
