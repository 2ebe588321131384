"""The directory methods of the fake gateway: answers as told, and a record of every call."""

from __future__ import annotations

from typing import Any

import grpc
from fake_base import FakeBase
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2

DIRECTORY = files_pb2.FileInfo(path="/d", type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755, version="v1")
FILE = files_pb2.FileInfo(path="/to", type=files_pb2.FILE_TYPE_REGULAR, mode=0o644, version="v2")


def entry(name: bytes, **fields: Any) -> directories_pb2.DirectoryEntry:
    fields.setdefault("type", files_pb2.FILE_TYPE_REGULAR)
    return directories_pb2.DirectoryEntry(name=name, **fields)


class FakeDirectories(FakeBase):
    """Lists `pages`, one for each call, by the number in the token; changes nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.pages: list[list[directories_pb2.DirectoryEntry]] = [[]]

    def directory_handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "ListDirectory": self._unary(
                methods.LIST_DIRECTORY, self._list, directories_pb2.ListDirectoryRequest.FromString
            ),
            "MakeDirectory": self._unary(
                methods.MAKE_DIRECTORY,
                lambda _: directories_pb2.MakeDirectoryResponse(directory=DIRECTORY, created=True),
                directories_pb2.MakeDirectoryRequest.FromString,
            ),
            "RemovePath": self._unary(
                methods.REMOVE_PATH,
                lambda _: directories_pb2.RemovePathResponse(removed_entries=3),
                directories_pb2.RemovePathRequest.FromString,
            ),
            "MovePath": self._unary(
                methods.MOVE_PATH,
                lambda _: directories_pb2.MovePathResponse(file=FILE, replaced=True),
                directories_pb2.MovePathRequest.FromString,
            ),
            "CopyPath": self._unary(
                methods.COPY_PATH,
                lambda _: directories_pb2.CopyPathResponse(
                    file=FILE,
                    copied_entries=2,
                    copied_bytes=5,
                    shared_bytes=4,
                    durability=files_pb2.DURABILITY_FSYNC,
                ),
                directories_pb2.CopyPathRequest.FromString,
            ),
        }

    def _list(self, request: directories_pb2.ListDirectoryRequest) -> directories_pb2.ListDirectoryResponse:
        names = [page[-1].name for page in self.pages if page]
        number = names.index(request.page_token) + 1 if request.page_token else 0
        entries = self.pages[number]
        last = number == len(self.pages) - 1
        return directories_pb2.ListDirectoryResponse(
            entries=entries, next_page_token=b"" if last else entries[-1].name, directory=DIRECTORY
        )
