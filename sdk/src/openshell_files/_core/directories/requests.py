"""Builds the requests of the directory methods from a caller's arguments."""

from __future__ import annotations

from openshell_files_protocol.limits import MAX_PAGE_SIZE
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2

from openshell_files._core.requests import (
    DURABILITY,
    LEAF_LINK,
    PERMISSIONS,
    SandboxAddress,
    set_condition,
)
from openshell_files._values import any_remote_path
from openshell_files.options import Condition, Durability, LeafLink, RemotePath

#: File type bits of a directory. They distinguish a mode without any permission from 0, which means "not given".
_DIRECTORY = 0o040000


def path_bytes(name: str, path: RemotePath) -> bytes:
    """Return a path as the messages carry it: UTF-8, and the bytes themselves for surrogates."""
    return any_remote_path(name, path).encode("utf-8", "surrogateescape")


def list_request(
    address: SandboxAddress, path: RemotePath, *, recursive: bool
) -> directories_pb2.ListDirectoryRequest:
    """Return the request for the first page of a listing."""
    return directories_pb2.ListDirectoryRequest(
        sandbox=address.ref(), path=path_bytes("path", path), recursive=recursive, page_size=MAX_PAGE_SIZE
    )


def make_request(
    address: SandboxAddress, path: RemotePath, *, mode: int | None, parents: bool, exist_ok: bool
) -> directories_pb2.MakeDirectoryRequest:
    """Return the request for a new directory."""
    return directories_pb2.MakeDirectoryRequest(
        sandbox=address.ref(),
        path=path_bytes("path", path),
        mode=0 if mode is None else mode & PERMISSIONS or _DIRECTORY,
        parents=_parents(parents=parents),
        exist_ok=exist_ok,
    )


def remove_request(
    address: SandboxAddress, path: RemotePath, *, recursive: bool, missing_ok: bool, if_version: str
) -> directories_pb2.RemovePathRequest:
    """Return the request for a removal."""
    return directories_pb2.RemovePathRequest(
        sandbox=address.ref(),
        path=path_bytes("path", path),
        recursive=recursive,
        missing_ok=missing_ok,
        if_version=if_version,
    )


def move_request(
    address: SandboxAddress,
    source: RemotePath,
    destination: RemotePath,
    *,
    replace: bool,
    source_version: str,
    condition: Condition | None,
    parents: bool,
) -> directories_pb2.MovePathRequest:
    """Return the request for a move."""
    request = directories_pb2.MovePathRequest(
        sandbox=address.ref(),
        source=path_bytes("source", source),
        destination=path_bytes("destination", destination),
        replace=_policy(replace=replace, condition=condition),
        source_version=source_version,
        parents=_parents(parents=parents),
    )
    if condition is not None:
        set_condition(request.condition, condition)
    return request


def copy_request(
    address: SandboxAddress,
    source: RemotePath,
    destination: RemotePath,
    *,
    recursive: bool,
    replace: bool,
    source_version: str,
    condition: Condition | None,
    parents: bool,
    durability: Durability,
    leaf_link: LeafLink,
) -> directories_pb2.CopyPathRequest:
    """Return the request for a copy."""
    request = directories_pb2.CopyPathRequest(
        sandbox=address.ref(),
        source=path_bytes("source", source),
        destination=path_bytes("destination", destination),
        recursive=recursive,
        replace=_policy(replace=replace, condition=condition),
        source_version=source_version,
        parents=_parents(parents=parents),
        durability=DURABILITY[durability],
        leaf_link=LEAF_LINK[leaf_link],
    )
    if condition is not None:
        set_condition(request.condition, condition)
    return request


def _parents(*, parents: bool) -> files_pb2.ParentPolicy.ValueType:
    return files_pb2.PARENT_POLICY_CREATE if parents else files_pb2.PARENT_POLICY_FAIL


def _policy(*, replace: bool, condition: Condition | None) -> directories_pb2.ReplacePolicy.ValueType:
    """Return the policy: a condition on a file at the destination means that the file is replaced."""
    if replace or (condition is not None and condition.kind != "absent"):
        return directories_pb2.REPLACE_POLICY_FILE
    return directories_pb2.REPLACE_POLICY_NEVER
