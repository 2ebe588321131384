"""Parses and checks every answer, before other modules read it.

A gateway, or a sandbox behind it, may be broken or hostile. This module checks
everything that a message alone shows, for every message and field of the
protocol. The conversions after it then meet no time outside the calendar, no
size that no file has, and no missing field, which would read as an empty file
or an unknown upload. Checks that need more than the message are in
`download_check` and `upload_plan`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import DIGEST_BYTES, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._error_mapping import delay_of
from openshell_files._known_errors import error_from_reason

_Answer = TypeVar("_Answer", bound=Message)

#: The first and the last second of the calendar (timestamp.proto).
FIRST_SECOND: Final = -62_135_596_800
LAST_SECOND: Final = 253_402_300_799
_NANOS: Final = 1_000_000_000

#: Largest size or position of a file; the kernel has the same limit.
LARGEST_SIZE: Final = (1 << 63) - 1

#: Fields that a message always has. In other fields an empty value has a meaning.
_MANDATORY: Final[Mapping[type[Message], tuple[str, ...]]] = {
    files_pb2.GetTransferCapabilitiesResponse: ("max_chunk_bytes",),
    files_pb2.StatFileResponse: ("file",),
    files_pb2.StartUploadResponse: ("upload",),
    files_pb2.GetUploadResponse: ("upload",),
    files_pb2.AbortUploadResponse: ("upload",),
    files_pb2.UploadFileResponse: ("file",),
    files_pb2.WriteFileResponse: ("file",),
    files_pb2.DownloadFileHeader: ("file",),
    directories_pb2.ListDirectoryResponse: ("directory",),
    directories_pb2.MakeDirectoryResponse: ("directory",),
    directories_pb2.MovePathResponse: ("file",),
    directories_pb2.CopyPathResponse: ("file", "copied_entries"),
    directories_pb2.DirectoryEntry: ("name",),
    files_pb2.FileInfo: ("path", "type"),
    files_pb2.UploadStatus: ("state",),
}


def parsed(kind: type[_Answer], data: bytes, method: str) -> _Answer:
    """Parse and check an answer.

    Args:
        kind: type of the message.
        data: the received bytes.
        method: path of the method, for the error.

    Raises:
        InternalError: the answer breaks the protocol.
    """
    try:
        answer = kind.FromString(data)
    except DecodeError:
        answer, fault = kind(), "it cannot be parsed"
    else:
        fault = fault_of(answer)
    if fault:
        name = method.rpartition("/")[2]
        raise error_from_reason(
            Reason.AGENT_PROTOCOL_ERROR, f"the answer to {name} breaks the protocol: {fault}"
        )
    return answer


def fault_of(message: Message) -> str:
    """Return the fault of a message; empty if it keeps to the protocol."""
    if fault := _gap(message):
        return fault
    rule = _OWN_RULES.get(type(message))
    if rule is not None and (fault := rule(message)):
        return fault
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            # No answer has a map field.
            for inner in value if field.is_repeated else (value,):
                if fault := fault_of(inner):
                    return f"{field.name}: {fault}"
        elif field.type == FieldDescriptor.TYPE_UINT64 and value > LARGEST_SIZE:
            return f"{field.name} is {value}, more than any file has"
    return ""


def _gap(message: Message) -> str:
    """Return the first mandatory field that is missing; empty if none is."""
    if fault := _missing(message, _MANDATORY.get(type(message), ())):
        return fault
    match message:
        case files_pb2.StatFileResponse():
            # A file object needs it to read all parts from one version.
            if message.file.type == files_pb2.FILE_TYPE_REGULAR and not message.file.version:
                return "file: version is missing"
        case files_pb2.UploadStatus():
            if message.state == files_pb2.UPLOAD_STATE_PUBLISHED:
                return _missing(message, ("result",))
        case files_pb2.StartUploadResponse() if message.upload.state == files_pb2.UPLOAD_STATE_RECEIVING:
            # Only an upload without StartUpload has neither.
            if fault := _missing(message.upload, ("upload_id", "epoch")):
                return f"upload: {fault}"
        case files_pb2.ListUploadsResponse():
            for upload in message.uploads:
                if fault := _missing(upload, ("upload_id",)):
                    return f"uploads: {fault}"
        case _:
            pass
    return ""


def _missing(message: Message, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    there = {field.name for field, _ in message.ListFields()}
    return next((f"{name} is missing" for name in names if name not in there), "")


def _time_fault(time: Timestamp) -> str:
    if not FIRST_SECOND <= time.seconds <= LAST_SECOND or not 0 <= time.nanos < _NANOS:
        return f"{time.seconds} s and {time.nanos} ns are no time of the years 1 to 9999"
    return ""


def _duration_fault(duration: Duration) -> str:
    if delay_of(duration) is None:
        return f"{duration.seconds} s and {duration.nanos} ns are no duration"
    return ""


def _digest_fault(digest: files_pb2.Digest) -> str:
    if len(digest.value) != DIGEST_BYTES:
        return f"it has {len(digest.value)} bytes instead of {DIGEST_BYTES}"
    if DigestAlgorithm.known(digest.algorithm) is None:
        return f"its algorithm is {digest.algorithm}, which was not requested"
    return ""


def _capabilities_fault(answer: files_pb2.GetTransferCapabilitiesResponse) -> str:
    if answer.max_chunk_bytes < MIN_CHUNK_LIMIT_BYTES:
        return f"max_chunk_bytes is {answer.max_chunk_bytes}, and every server takes {MIN_CHUNK_LIMIT_BYTES} (CAP-7)"
    return ""


def _entry_fault(entry: directories_pb2.DirectoryEntry) -> str:
    # A name could lead a caller out of the listed directory (DIR-3).
    if any(part in {b"", b".", b".."} or b"\0" in part for part in entry.name.split(b"/")):
        return f"the name {entry.name[:100]!r} is not that of an entry below the directory"
    if not entry.type and not entry.reason:
        return f"the entry {entry.name[:100]!r} has neither a type nor a reason"
    return ""


#: Rules of one type of message each; a rule returns the fault, empty if there is none.
_OWN_RULES: Final[Mapping[type[Message], Callable[[Any], str]]] = {
    Timestamp: _time_fault,
    Duration: _duration_fault,
    files_pb2.Digest: _digest_fault,
    files_pb2.GetTransferCapabilitiesResponse: _capabilities_fault,
    directories_pb2.DirectoryEntry: _entry_fault,
}
