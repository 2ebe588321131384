"""Converts the checked answers of the directory methods to values of the SDK."""

from __future__ import annotations

from collections.abc import Iterator

from openshell_files_protocol.pb.openshell.v1 import directories_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._core.answers import durability, file_info, file_type, mode_bits, nanoseconds
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import FilesError
from openshell_files.results import (
    CopyResult,
    DirectoryEntry,
    MakeDirectoryResult,
    MoveResult,
    RemoveResult,
)


def entries(
    answer: directories_pb2.ListDirectoryResponse, request: directories_pb2.ListDirectoryRequest
) -> Iterator[DirectoryEntry]:
    """Yield the entries of a page.

    Raises:
        InternalError: the page breaks the protocol: it does not go on behind the page before.
    """
    behind = request.page_token
    for message in answer.entries:
        name = message.name
        if b"/" in name and not request.recursive:
            raise _broken(f"the entry {name!r} is not of the listed directory")
        if name.split(b"/") <= behind.split(b"/") and behind:
            raise _broken(f"the entry {name!r} is not behind {behind!r}")
        behind = name
        yield entry(message)
    if answer.next_page_token and (not answer.entries or answer.next_page_token == request.page_token):
        raise _broken("a page that is not the last has no entries")


def entry(message: directories_pb2.DirectoryEntry) -> DirectoryEntry:
    """Convert an entry."""
    return DirectoryEntry(
        name=message.name.decode("utf-8", "surrogateescape"),
        type=file_type(message.type),
        size=message.size_bytes,
        mode=mode_bits(message.mode),
        modified_ns=nanoseconds(message.modified_time) if message.HasField("modified_time") else None,
        version=message.version,
        allocated=message.allocated_bytes,
        link_target=message.link_target.decode("utf-8", "surrogateescape") or None,
        reason=message.reason,
    )


def made(answer: directories_pb2.MakeDirectoryResponse) -> MakeDirectoryResult:
    """Convert the answer of MakeDirectory."""
    return MakeDirectoryResult(file_info(answer.directory), answer.created)


def removed(answer: directories_pb2.RemovePathResponse) -> RemoveResult:
    """Convert the answer of RemovePath."""
    return RemoveResult(answer.removed_entries)


def moved(answer: directories_pb2.MovePathResponse) -> MoveResult:
    """Convert the answer of MovePath."""
    return MoveResult(file_info(answer.file), answer.replaced)


def copied(answer: directories_pb2.CopyPathResponse) -> CopyResult:
    """Convert the answer of CopyPath."""
    return CopyResult(
        file=file_info(answer.file),
        entries=answer.copied_entries,
        bytes=answer.copied_bytes,
        shared_bytes=answer.shared_bytes,
        durability=durability(answer.durability),
        replaced=answer.replaced,
    )


def _broken(fault: str) -> FilesError:
    return error_from_reason(
        Reason.AGENT_PROTOCOL_ERROR, f"the answer to ListDirectory breaks the protocol: {fault}"
    )
