"""Hooks for the fake gateway that break the streams of uploads."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fake_file_gateway import FakeUpload
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

LOST = TransferError(Reason.RELAY_LOST, "the relay broke")


def break_after(chunks: int, streams: int = 1, error: BaseException = LOST) -> Callable[..., None]:
    """Return a hook that breaks the first streams after so many messages each."""
    seen: dict[int, int] = {}

    def hook(number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        seen[number] = seen.get(number, 0) + 1
        if number <= streams and seen[number] > chunks:
            raise error

    return hook


def raising(error: BaseException, *, after_chunks: int = 1) -> Callable[..., None]:
    """Return a hook that raises after so many messages of every stream."""
    return break_after(after_chunks, sys.maxsize, error)
