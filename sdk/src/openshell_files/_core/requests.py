"""Builds the requests of the protocol from a caller's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from openshell_files_protocol.digests import PREFERRED, Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._known_errors import error_from_reason
from openshell_files._values import remote_path, text
from openshell_files.errors import FilesError, SandboxNotFound, SandboxNotReady
from openshell_files.options import (
    Condition,
    DigestChoice,
    Durability,
    LeafLink,
    ReadOptions,
    RemotePath,
    WriteOptions,
)

#: File type bits of a regular file. They distinguish a mode without any
#: permission from 0, which means "not given".
_REGULAR: Final = 0o100000

PERMISSIONS: Final = 0o777

DURABILITY: Final[Mapping[Durability, files_pb2.Durability.ValueType]] = {
    Durability.RENAME: files_pb2.DURABILITY_RENAME,
    Durability.FSYNC: files_pb2.DURABILITY_FSYNC,
}
LEAF_LINK: Final[Mapping[LeafLink, files_pb2.LeafLinkPolicy.ValueType]] = {
    LeafLink.REFUSE: files_pb2.LEAF_LINK_POLICY_REFUSE,
    LeafLink.FOLLOW: files_pb2.LEAF_LINK_POLICY_FOLLOW,
    LeafLink.REPLACE: files_pb2.LEAF_LINK_POLICY_REPLACE,
    LeafLink.NOFOLLOW: files_pb2.LEAF_LINK_POLICY_NOFOLLOW,
}


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """Address of a sandbox: its id, or its name and workspace.

    Attributes:
        id: the sandbox's id; excludes `name`.
        name: its name.
        workspace: of the name.
    """

    id: str = ""
    name: str = ""
    workspace: str = ""

    def __post_init__(self) -> None:
        if bool(self.id) == bool(self.name):
            raise ValueError("give the sandbox's name, or its id, and not both")

    def ref(self) -> files_pb2.SandboxRef:
        """Return the address as a message of the unary methods."""
        if self.id:
            return files_pb2.SandboxRef(id=self.id)
        return files_pb2.SandboxRef(name=self.name, workspace=self.workspace)

    def __str__(self) -> str:
        return self.id or self.name

    def described(self) -> str:
        """Return the address as text for an error."""
        return (
            f"sandbox id {self.id}" if self.id else f"sandbox {self.name!r} in workspace {self.workspace!r}"
        )

    def name_in(self, error: FilesError) -> None:
        """Add the sandbox to the message of an error about it, unless the message names it.

        Gateways quote the name or the id, in words of their own.
        """
        about_sandbox = isinstance(error, SandboxNotFound | SandboxNotReady)
        if about_sandbox and repr(str(self)) not in error.message and self.described() not in error.message:
            error.reword(f"{error.message}: {self.described()}")


class NamedSandbox(Protocol):
    """Object with a name and a workspace, such as the official SDK's `SandboxRef`."""

    @property
    def name(self) -> str:
        """The sandbox's name."""
        ...

    @property
    def workspace(self) -> str:
        """The workspace of the name."""
        ...


class SandboxHolder(Protocol):
    """Object with a `NamedSandbox`, such as the official SDK's `SandboxSession` and `Sandbox`."""

    @property
    def sandbox(self) -> NamedSandbox:
        """The sandbox."""
        ...


def sandbox_address(
    named: str | NamedSandbox | SandboxHolder, sandbox_id: str, workspace: str | None, default: str
) -> SandboxAddress:
    """Return the address that a caller's arguments mean.

    Args:
        named: the name, or an object with name and workspace.
        sandbox_id: the id; empty if `named` is given.
        workspace: the caller's workspace; None takes `default`.
        default: the client's workspace.

    Raises:
        ValueError: neither name nor id is given, or both; or the workspace is
            another than that of `named`.
        TypeError: `named` has no name or no workspace.
    """
    text("id", sandbox_id)
    if workspace is not None:
        text("workspace", workspace)
    if isinstance(named, str):
        text("name", named)
        chosen = default if workspace is None else workspace
        return SandboxAddress(sandbox_id, named, "" if sandbox_id else chosen)
    ref: object = getattr(named, "sandbox", named)
    name, brought = getattr(ref, "name", None), getattr(ref, "workspace", None)
    if not isinstance(name, str) or not isinstance(brought, str):
        raise TypeError(f"name: give a sandbox's name or a SandboxRef, not {type(named).__name__}")
    text("name", name)
    text("workspace", brought)
    if workspace is not None and workspace != brought:
        raise ValueError(f"sandbox {name!r} is in workspace {brought!r}, not in {workspace!r}")
    return SandboxAddress(sandbox_id, name, brought)


def accepted_digests(choice: DigestChoice) -> tuple[DigestAlgorithm, ...]:
    """Return the algorithms of a caller's choice, best first (DIG-2)."""
    return PREFERRED if choice == "auto" else (DigestAlgorithm[choice.upper()],)


def upload_metadata(
    address: SandboxAddress, path: RemotePath, size: int | None, options: WriteOptions
) -> files_pb2.UploadFileMetadata:
    """Return the first message of an upload, without ids of the upload."""
    metadata = files_pb2.UploadFileMetadata(
        sandbox_id=address.id,
        sandbox=address.name,
        workspace=address.workspace if address.name else "",
        remote_path=remote_path("remote", path),
        size_bytes=size or 0,
        explicit_finish=True,
        parents=files_pb2.PARENT_POLICY_CREATE if options.parents else files_pb2.PARENT_POLICY_FAIL,
        leaf_link=LEAF_LINK[options.leaf_link],
        durability=DURABILITY[options.durability],
        keep_read_only=options.keep_read_only,
    )
    if options.mode is not None:
        metadata.mode = options.mode & PERMISSIONS or _REGULAR
    if options.modified_ns is not None:
        _set_modified(metadata, options.modified_ns)
    if options.condition is not None:
        set_condition(metadata.condition, options.condition)
    return metadata


def _set_modified(metadata: files_pb2.UploadFileMetadata, modified_ns: int) -> None:
    try:
        metadata.modified_time.FromNanoseconds(modified_ns)
    except ValueError:
        raise error_from_reason(
            Reason.INVALID_REQUEST,
            f"modified time: {modified_ns} ns since 1970 is outside the years 1 to 9999, which the protocol carries; "
            "leave modified_ns out, or give a time within them",
        ) from None


def set_condition(message: files_pb2.UploadCondition, condition: Condition) -> None:
    """Set a condition on a destination."""
    match condition.kind:
        case "absent":
            message.absent.SetInParent()
        case "present":
            message.present.SetInParent()
        case "digest":
            word, _, digits = condition.value.partition(":")
            digest = Digest(DigestAlgorithm[word.upper()], bytes.fromhex(digits))
            message.digest.CopyFrom(digest.message)
        case "version":
            message.version = condition.value
        case other:
            raise ValueError(f"unknown condition {other!r}")


def download_request(
    address: SandboxAddress, path: RemotePath, options: ReadOptions, max_chunk_bytes: int
) -> files_pb2.DownloadFileRequest:
    """Return the request of a checked download."""
    request = files_pb2.DownloadFileRequest(
        sandbox_id=address.id,
        sandbox=address.name,
        workspace=address.workspace if address.name else "",
        remote_path=remote_path("remote", path),
        checked=True,
        offset=options.offset,
        tail_bytes=options.tail or 0,
        if_version=options.if_version,
        on_change=files_pb2.CHANGE_POLICY_ALLOW if options.allow_changes else files_pb2.CHANGE_POLICY_ABORT,
        leaf_link=LEAF_LINK[options.leaf_link],
        max_chunk_bytes=max_chunk_bytes,
        accepted_digests=[algorithm.wire for algorithm in accepted_digests(options.digest)],
    )
    if options.length is not None:
        request.length = options.length
    return request


def stat_request(
    address: SandboxAddress, path: RemotePath, *, digests: Sequence[DigestAlgorithm], leaf_link: LeafLink
) -> files_pb2.StatFileRequest:
    """Return the request for the description of a file, with a digest if `digests` names any."""
    return files_pb2.StatFileRequest(
        sandbox=address.ref(),
        remote_path=remote_path("remote", path),
        include_digest=bool(digests),
        leaf_link=LEAF_LINK[leaf_link],
        accepted_digests=[algorithm.wire for algorithm in digests],
    )
