"""The messages of the RFC, and nothing but the RFC (RFC-1, RFC-2).

What a client has whose author generated code from the RFC's text: fields 1 to
5, no extension. The messages are built in a descriptor pool of their own, so
they live in one process beside ours or beside the official SDK.

Use them with a plain channel::

    channel.stream_unary(
        rfc_messages.UPLOAD_FILE,
        request_serializer=rfc_messages.UploadFileRequest.SerializeToString,
        response_deserializer=rfc_messages.UploadFileResponse.FromString,
    )
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

UPLOAD_FILE: Final = "/openshell.v1.OpenShell/UploadFile"
DOWNLOAD_FILE: Final = "/openshell.v1.OpenShell/DownloadFile"

#: The RFC's own chunk size.
CHUNK_BYTES: Final = 64 * 1024

_PACKAGE: Final = "openshell.v1"

#: Message → fields as (number, name, type). A type that is not a scalar is a
#: message of this table.
FIELDS: Final[dict[str, tuple[tuple[int, str, str], ...]]] = {
    "UploadFileMetadata": (
        (1, "sandbox_id", "string"),
        (2, "remote_path", "string"),
        (3, "size_bytes", "uint64"),
        (4, "mode", "uint32"),
        (5, "is_archive", "bool"),
    ),
    "UploadFileRequest": (
        (1, "metadata", "UploadFileMetadata"),
        (2, "chunk", "bytes"),
    ),
    "UploadFileResponse": ((1, "bytes_written", "uint64"),),
    "DownloadFileRequest": (
        (1, "sandbox_id", "string"),
        (2, "remote_path", "string"),
        (3, "as_archive", "bool"),
    ),
    "DownloadFileHeader": (
        (1, "size_bytes", "uint64"),
        (2, "mode", "uint32"),
        (3, "is_archive", "bool"),
    ),
    "DownloadFileResponse": (
        (1, "header", "DownloadFileHeader"),
        (2, "chunk", "bytes"),
    ),
}

#: Messages whose fields are all members of `oneof payload`.
WITH_PAYLOAD: Final = frozenset({"UploadFileRequest", "DownloadFileResponse"})

_SCALARS: Final = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the .proto file that the RFC's text amounts to."""
    file = descriptor_pb2.FileDescriptorProto(name="rfc/files.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        if name in WITH_PAYLOAD:
            message.oneof_decl.add(name="payload")
        for number, field_name, type_name in fields:
            field = message.field.add(
                name=field_name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            if type_name in _SCALARS:
                field.type = _SCALARS[type_name]
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{type_name}"
            if name in WITH_PAYLOAD:
                field.oneof_index = 0
    return file


if TYPE_CHECKING:

    class UploadFileMetadata(Message):
        """What the RFC says about the file before its bytes."""

        sandbox_id: str
        remote_path: str
        size_bytes: int
        mode: int
        is_archive: bool

        def __init__(
            self,
            *,
            sandbox_id: str = ...,
            remote_path: str = ...,
            size_bytes: int = ...,
            mode: int = ...,
            is_archive: bool = ...,
        ) -> None: ...

    class UploadFileRequest(Message):
        """Metadata first, then chunks."""

        metadata: UploadFileMetadata
        chunk: bytes

        def __init__(self, *, metadata: UploadFileMetadata | None = ..., chunk: bytes = ...) -> None: ...
        def WhichOneof(self, oneof_group: str | bytes) -> Literal["metadata", "chunk"] | None: ...  # noqa: N802 - protobuf's

    class UploadFileResponse(Message):
        """How many bytes the file has."""

        bytes_written: int

        def __init__(self, *, bytes_written: int = ...) -> None: ...

    class DownloadFileRequest(Message):
        """Which file."""

        sandbox_id: str
        remote_path: str
        as_archive: bool

        def __init__(
            self, *, sandbox_id: str = ..., remote_path: str = ..., as_archive: bool = ...
        ) -> None: ...

    class DownloadFileHeader(Message):
        """What comes before the bytes."""

        size_bytes: int
        mode: int
        is_archive: bool

        def __init__(self, *, size_bytes: int = ..., mode: int = ..., is_archive: bool = ...) -> None: ...

    class DownloadFileResponse(Message):
        """Header first, then chunks."""

        header: DownloadFileHeader
        chunk: bytes

        def __init__(self, *, header: DownloadFileHeader | None = ..., chunk: bytes = ...) -> None: ...
        def WhichOneof(self, oneof_group: str | bytes) -> Literal["header", "chunk"] | None: ...  # noqa: N802 - protobuf's

else:
    _pool = descriptor_pool.DescriptorPool()
    _pool.AddSerializedFile(file_descriptor().SerializeToString())

    def _message(name: str) -> type[Message]:
        return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))

    UploadFileMetadata = _message("UploadFileMetadata")
    UploadFileRequest = _message("UploadFileRequest")
    UploadFileResponse = _message("UploadFileResponse")
    DownloadFileRequest = _message("DownloadFileRequest")
    DownloadFileHeader = _message("DownloadFileHeader")
    DownloadFileResponse = _message("DownloadFileResponse")
