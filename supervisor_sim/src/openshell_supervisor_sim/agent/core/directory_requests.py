"""The requests of the directory methods, checked field by field (DIR-1)."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_NAME_BYTES,
    MAX_PAGE_SIZE,
    MAX_PATH_BYTES,
)
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2

from openshell_supervisor_sim.agent.core.field_checks import check_enum, check_id
from openshell_supervisor_sim.agent.core.requests import (
    Absent,
    Condition,
    LeafLink,
    condition_of,
)

_TYPE_BITS: Final = 0o170000
_ALL_MODE_BITS: Final = 0o177777


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A page of a listing.

    Attributes:
        path: of the directory.
        recursive: list the content of the directories below it, too.
        page_size: most entries of the page.
        behind: components of the last name of the page before; empty for the first page.
    """

    path: str
    recursive: bool
    page_size: int
    behind: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class MakeRequest:
    """A directory to make.

    Attributes:
        path: of the directory.
        mode: permission bits; None for the default.
        create_parents: make missing directories above it.
        exist_ok: accept a directory that is there already.
    """

    path: str
    mode: int | None
    create_parents: bool
    exist_ok: bool


@dataclass(frozen=True, slots=True)
class RemoveRequest:
    """An entry to remove.

    Attributes:
        path: of the entry.
        recursive: remove a directory with its content.
        missing_ok: accept a path that does not exist.
        if_version: version that the entry must have, or empty.
    """

    path: str
    recursive: bool
    missing_ok: bool
    if_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRequest:
    """The destination of a move or copy, and how it may be replaced.

    Attributes:
        source: path of the entry that is moved or copied.
        destination: its new path.
        replaces: a file or link at the destination is replaced.
        source_version: version that the source must have, or empty.
        condition: of the destination, or None.
        create_parents: make missing directories above the destination.
        leaf_link: a link at the destination is replaced itself.
        keep_read_only: replace no file that may not be written; as for uploads.
    """

    source: str
    destination: str
    replaces: bool
    source_version: str
    condition: Condition | None
    create_parents: bool
    leaf_link: LeafLink = LeafLink.REPLACE
    keep_read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest(PlaceRequest):
    """A copy.

    Attributes:
        recursive: copy a directory with its content.
        fsync: flush before answering.
        source_link: treatment of a link as the source.
    """

    recursive: bool
    fsync: bool
    source_link: LeafLink


def list_request(request: directories_pb2.ListDirectoryRequest) -> ListRequest:
    """Check a request of ListDirectory.

    Raises:
        TransferError: INVALID_REQUEST for a page token that no answer has.
    """
    token = request.page_token
    behind = tuple(token.split(b"/")) if token else ()
    if len(token) > MAX_PATH_BYTES or any(not _is_name(name) for name in behind):
        raise invalid("page_token", "is not from an answer of ListDirectory")
    if len(behind) > 1 and not request.recursive:
        raise invalid("page_token", "is from a recursive listing")
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return ListRequest(text_of(request.path), request.recursive, size, behind)


def make_request(request: directories_pb2.MakeDirectoryRequest) -> MakeRequest:
    """Check a request of MakeDirectory.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    check_enum("parents", request.parents, files_pb2.ParentPolicy.values())
    mode = request.mode
    if mode & ~_ALL_MODE_BITS or mode & _TYPE_BITS not in {0, stat.S_IFDIR}:
        raise invalid("mode", f"0{mode:o} is not the mode of a directory")
    return MakeRequest(
        text_of(request.path),
        mode & 0o777 if mode else None,
        request.parents == files_pb2.PARENT_POLICY_CREATE,
        request.exist_ok,
    )


def remove_request(request: directories_pb2.RemovePathRequest) -> RemoveRequest:
    """Check a request of RemovePath.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    check_id("if_version", request.if_version)
    return RemoveRequest(text_of(request.path), request.recursive, request.missing_ok, request.if_version)


def move_request(request: directories_pb2.MovePathRequest) -> PlaceRequest:
    """Check a request of MovePath.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    replaces, condition = _replacing(request)
    return PlaceRequest(
        source=text_of(request.source),
        destination=text_of(request.destination),
        replaces=replaces,
        source_version=request.source_version,
        condition=condition,
        create_parents=request.parents == files_pb2.PARENT_POLICY_CREATE,
    )


def copy_request(request: directories_pb2.CopyPathRequest) -> CopyRequest:
    """Check a request of CopyPath.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    replaces, condition = _replacing(request)
    check_enum("durability", request.durability, files_pb2.Durability.values())
    check_enum("leaf_link", request.leaf_link, files_pb2.LeafLinkPolicy.values())
    if request.leaf_link == files_pb2.LEAF_LINK_POLICY_REPLACE:
        raise invalid("leaf_link", "LEAF_LINK_POLICY_REPLACE is only for uploads")
    return CopyRequest(
        source=text_of(request.source),
        destination=text_of(request.destination),
        replaces=replaces,
        source_version=request.source_version,
        condition=condition,
        create_parents=request.parents == files_pb2.PARENT_POLICY_CREATE,
        recursive=request.recursive,
        fsync=request.durability != files_pb2.DURABILITY_RENAME,
        source_link=LeafLink(request.leaf_link or files_pb2.LEAF_LINK_POLICY_REFUSE),
    )


def text_of(path: bytes) -> str:
    """Return a path as the agent's other code has it: UTF-8, other bytes as surrogates."""
    return path.decode("utf-8", "surrogateescape")


def _replacing(
    request: directories_pb2.MovePathRequest | directories_pb2.CopyPathRequest,
) -> tuple[bool, Condition | None]:
    """Return whether a destination may be replaced, and its condition."""
    check_enum("parents", request.parents, files_pb2.ParentPolicy.values())
    check_enum("replace", request.replace, directories_pb2.ReplacePolicy.values())
    check_id("source_version", request.source_version)
    replaces = request.replace == directories_pb2.REPLACE_POLICY_FILE
    if not request.HasField("condition"):
        return replaces, None
    condition = condition_of("condition", request.condition)
    if isinstance(condition, Absent):
        return False, condition
    if not replaces:
        raise invalid(
            "condition", "names an entry that is replaced, which only REPLACE_POLICY_FILE in `replace` allows"
        )
    return True, condition


def _is_name(name: bytes) -> bool:
    return name not in {b"", b".", b".."} and b"\0" not in name and len(name) <= MAX_NAME_BYTES
