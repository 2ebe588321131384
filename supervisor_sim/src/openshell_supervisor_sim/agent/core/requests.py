"""The requests of a file relay, checked field by field.

A protobuf message may hold any combination of values. Here it becomes a checked value, or an
INVALID_REQUEST that names the field.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass, replace
from enum import Enum

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.digest_choice import (
    accepted_digests,
    check_listed,
    declared_digest,
    unsupported,
)
from openshell_supervisor_sim.agent.core.field_checks import MAX_ID_CHARACTERS, check_enum, check_id
from openshell_supervisor_sim.agent.core.wire_numbers import (
    MAX_TIMESTAMP_SECONDS,
    MIN_TIMESTAMP_SECONDS,
    NANOSECONDS,
)


class LeafLink(Enum):
    """Treatment of a symbolic link at the end of a path (PTH-14)."""

    REFUSE = files_pb2.LEAF_LINK_POLICY_REFUSE
    FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
    REPLACE = files_pb2.LEAF_LINK_POLICY_REPLACE
    NOFOLLOW = files_pb2.LEAF_LINK_POLICY_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Absent:
    """Condition: nothing is at the destination (CND-1)."""


@dataclass(frozen=True, slots=True)
class Present:
    """Condition: a file is at the destination."""


@dataclass(frozen=True, slots=True)
class HasDigest:
    """Condition: the file at the destination has this digest."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class HasVersion:
    """Condition: the file at the destination has this version."""

    version: str


Condition = Absent | Present | HasDigest | HasVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """The metadata of an upload.

    Attributes:
        path: as the caller gave it.
        size_bytes: declared size; None if it is not known yet.
        mode: permission bits, or None to keep or default them (UPL-10, UPL-46).
        explicit_finish: an UploadFinish will come.
        upload_id: of the upload to resume, or empty.
        request_id: the caller's own name for the upload, or empty.
        condition: of the destination, or None.
        modified_ns: modified time in nanoseconds since 1970; None for now.
        create_parents: create directories that are missing.
        leaf_link: how a link at the destination is treated.
        fsync: flush before answering.
        epoch: attempt, as StartUpload answered; 0 if not given.
        digests: algorithms that the caller accepts, best first (DIG-2); None if it asked for no
            digest (DIG-9).
        keep_read_only: do not replace a file that may not be written (UPL-45).
    """

    path: str
    size_bytes: int | None
    mode: int | None
    explicit_finish: bool
    upload_id: str
    request_id: str
    condition: Condition | None
    modified_ns: int | None
    create_parents: bool
    leaf_link: LeafLink
    fsync: bool
    epoch: int
    digests: tuple[DigestAlgorithm, ...] | None = (DigestAlgorithm.SHA256,)
    keep_read_only: bool = False

    @property
    def resumable(self) -> bool:
        """True if the upload can be found again after its stream broke (RSM-10)."""
        return bool(self.upload_id or self.request_id)

    @property
    def fingerprint(self) -> bytes:
        """Digest of the fields that must be the same in every attempt (RSM-11)."""
        same = tuple(self._terms.values())
        return hashlib.sha256(repr(same).encode("utf-8", "surrogatepass")).digest()

    def differences(self, first: UploadRequest) -> list[str]:
        """Return the names of the fields whose values differ from those of the request that started the upload."""
        terms, others = self._terms, first._terms
        return [field for field in {**others, **terms} if terms.get(field) != others.get(field)]

    @property
    def _terms(self) -> dict[str, object]:
        """Values that must be the same in every attempt, by the field of the metadata."""
        terms: dict[str, object] = {
            "remote_path": self.path,
            "size_bytes": self.size_bytes,
            "mode": self.mode,
            "condition": repr(self.condition),
            "modified_time": self.modified_ns,
            "parents": self.create_parents,
            "leaf_link": self.leaf_link.name,
            "durability": self.fsync,
        }
        if self.keep_read_only:
            terms["keep_read_only"] = "keep_read_only"
        return terms


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """A download: the bytes of a file, and how they are sent.

    Attributes:
        path: as the caller gave it.
        checked: send FileChunk and a trailer.
        offset: first byte.
        length: bytes at most; None reads to the end.
        tail_bytes: bytes from the end instead of `offset` and `length`; 0 for none.
        if_version: version that the file must have, or empty.
        allow_change: continue if the file changes (DWN-15).
        follow_link: follow a link at the end of the path.
        max_chunk_bytes: largest content of one message; 0 leaves it to the agent.
        digests: algorithms that the caller accepts, best first (DIG-2).
    """

    path: str
    checked: bool
    offset: int
    length: int | None
    tail_bytes: int
    if_version: str
    allow_change: bool
    follow_link: bool
    max_chunk_bytes: int
    digests: tuple[DigestAlgorithm, ...] = (DigestAlgorithm.SHA256,)


@dataclass(frozen=True, slots=True)
class UploadKey:
    """The name by which GetUpload asks for an upload: one of the two is set."""

    upload_id: str
    request_id: str


def upload_request(metadata: files_pb2.UploadFileMetadata, *, started: bool = False) -> UploadRequest:
    """Check the metadata of an upload.

    Args:
        metadata: from UploadFile or StartUpload.
        started: it came in StartUpload, which implies an explicit finish.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if metadata.is_archive:
        raise invalid("metadata.is_archive", "is only for UploadFile, without a start (ARC-8)")
    explicit = metadata.explicit_finish or started or bool(metadata.upload_id)
    check_id("metadata.upload_id", metadata.upload_id)
    check_id("metadata.request_id", metadata.request_id)
    if metadata.upload_id and not started and not metadata.epoch:
        raise invalid("metadata.epoch", "is missing; an upload_id needs the epoch that StartUpload answered")
    wants_digest = explicit or metadata.request_id or metadata.accepted_digests
    check_enum("metadata.parents", metadata.parents, files_pb2.ParentPolicy.values())
    check_enum("metadata.durability", metadata.durability, files_pb2.Durability.values())
    return UploadRequest(
        path=metadata.remote_path,
        size_bytes=None if explicit and not metadata.size_bytes else metadata.size_bytes,
        mode=_mode(metadata.mode),
        explicit_finish=explicit,
        upload_id=metadata.upload_id,
        request_id=metadata.request_id,
        condition=condition_of("metadata.condition", metadata.condition)
        if metadata.HasField("condition")
        else None,
        modified_ns=_modified(metadata) if metadata.HasField("modified_time") else None,
        create_parents=metadata.parents == files_pb2.PARENT_POLICY_CREATE,
        leaf_link=_upload_leaf_link(metadata.leaf_link),
        fsync=metadata.durability != files_pb2.DURABILITY_RENAME,
        epoch=metadata.epoch,
        digests=accepted_digests("metadata.accepted_digests", metadata.accepted_digests)
        if wants_digest
        else None,
        keep_read_only=metadata.keep_read_only,
    )


def write_request(request: files_pb2.WriteFileRequest) -> UploadRequest:
    """Check the metadata of a WriteFile (UPL-16), and set the fields that the request implies.

    Raises:
        TransferError: as `upload_request`.
    """
    metadata = request.metadata
    for field in ("upload_id", "lanes"):
        if getattr(metadata, field):
            raise invalid(
                f"metadata.{field}", "is for UploadFile; WriteFile begins and ends with its request"
            )
    size = len(request.content)
    if metadata.size_bytes not in {0, size}:
        raise invalid("metadata.size_bytes", f"is {metadata.size_bytes}, content has {size} bytes")
    if not request.HasField("digest"):
        raise invalid("digest", "is missing; WriteFile publishes nothing without it (UPL-30)")
    metadata.explicit_finish = True
    # A repeated request may omit the size although the first had it, or the other way round.
    metadata.size_bytes = size
    upload = upload_request(metadata)
    digest = declared_digest("digest", request.digest)
    if digest is None:
        raise unsupported("digest.algorithm", tuple(DigestAlgorithm))
    if metadata.accepted_digests:
        check_listed(request.digest.algorithm, metadata)
    # The request has the digest of the content, and the upload takes its algorithm (DIG-19).
    metadata.accepted_digests[:] = [digest.algorithm.wire]
    return replace(upload, digests=(digest.algorithm,))


def recorded(metadata: files_pb2.UploadFileMetadata) -> bytes:
    """Return the metadata as the journal stores it: the checked fields that a later start needs."""
    kept = files_pb2.UploadFileMetadata()
    kept.CopyFrom(metadata)
    kept.DiscardUnknownFields()
    for field in ("sandbox_id", "sandbox", "workspace", "upload_id", "epoch", "lanes"):
        kept.ClearField(field)
    return kept.SerializeToString()


def download_request(request: files_pb2.DownloadFileRequest) -> DownloadRequest:
    """Check a download's request.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if request.tail_bytes and (request.offset or request.HasField("length")):
        raise invalid("tail_bytes", "excludes offset and length (DWN-13)")
    check_enum("on_change", request.on_change, files_pb2.ChangePolicy.values())
    return DownloadRequest(
        path=request.remote_path,
        checked=request.checked,
        offset=request.offset,
        length=request.length if request.HasField("length") else None,
        tail_bytes=request.tail_bytes,
        if_version=request.if_version,
        allow_change=request.on_change == files_pb2.CHANGE_POLICY_ALLOW,
        follow_link=follows("leaf_link", request.leaf_link),
        max_chunk_bytes=request.max_chunk_bytes,
        digests=accepted_digests("accepted_digests", request.accepted_digests),
    )


def upload_key(request: files_pb2.GetUploadRequest) -> UploadKey:
    """Check the name by which GetUpload asks for an upload.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    if bool(request.upload_id) == bool(request.request_id):
        raise invalid("upload_id", "give either upload_id or request_id")
    return UploadKey(request.upload_id, request.request_id)


def follows(field: str, policy: int) -> bool:
    """Return whether to follow a link at the end of a path that is read.

    Raises:
        TransferError: INVALID_REQUEST for the policy of uploads.
    """
    link = _leaf_link(field, policy)
    if link is LeafLink.REPLACE:
        raise invalid(field, "LEAF_LINK_POLICY_REPLACE is only for uploads")
    if link is LeafLink.NOFOLLOW:
        raise invalid(field, "LEAF_LINK_POLICY_NOFOLLOW is only for StatFile, without a digest")
    return link is LeafLink.FOLLOW


def stat_leaf_link(request: files_pb2.StatFileRequest) -> LeafLink:
    """Return how StatFile treats a link.

    Raises:
        TransferError: INVALID_REQUEST for the policy of uploads, and for a digest of a link.
    """
    if request.leaf_link == files_pb2.LEAF_LINK_POLICY_NOFOLLOW and not request.include_digest:
        return LeafLink.NOFOLLOW
    return LeafLink.FOLLOW if follows("leaf_link", request.leaf_link) else LeafLink.REFUSE


def _leaf_link(field: str, policy: int) -> LeafLink:
    check_enum(field, policy, files_pb2.LeafLinkPolicy.values())
    return LeafLink(policy or files_pb2.LEAF_LINK_POLICY_REFUSE)


def _upload_leaf_link(policy: int) -> LeafLink:
    link = _leaf_link("metadata.leaf_link", policy)
    if link is LeafLink.NOFOLLOW:
        raise invalid("metadata.leaf_link", "LEAF_LINK_POLICY_NOFOLLOW is only for StatFile")
    return link


def _mode(mode: int) -> int | None:
    """Apply UPL-10, UPL-46 and UPL-47."""
    if mode == 0:
        return None
    if mode >> 16 or stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise invalid("metadata.mode", f"0{mode:o} is not the mode of a regular file")
    return mode & 0o777


def _modified(metadata: files_pb2.UploadFileMetadata) -> int:
    time = metadata.modified_time
    if not MIN_TIMESTAMP_SECONDS <= time.seconds <= MAX_TIMESTAMP_SECONDS:
        raise invalid("metadata.modified_time", "is outside the years 1 to 9999")
    if not 0 <= time.nanos < NANOSECONDS:
        raise invalid(
            "metadata.modified_time", f"has {time.nanos} nanos, a second has 0 to {NANOSECONDS - 1}"
        )
    return time.seconds * NANOSECONDS + time.nanos


def condition_of(field: str, condition: files_pb2.UploadCondition) -> Condition:
    """Check a condition on a destination (CND-7).

    Raises:
        TransferError: INVALID_REQUEST or DIGEST_UNSUPPORTED.
    """
    match condition.WhichOneof("condition"):
        case "absent":
            return Absent()
        case "present":
            return Present()
        case "digest":
            digest = declared_digest(f"{field}.digest", condition.digest)
            if digest is None:
                raise unsupported(f"{field}.digest", tuple(DigestAlgorithm))
            return HasDigest(digest)
        case "version" if len(condition.version) > MAX_ID_CHARACTERS:
            raise invalid(f"{field}.version", f"is longer than {MAX_ID_CHARACTERS} characters")
        case "version" if condition.version:
            return HasVersion(condition.version)
        case "version":
            raise invalid(f"{field}.version", "is empty; omit the condition instead")
        case None:
            # It may be a condition of a later version: never ignore it.
            raise invalid(field, "names no condition that this server knows")
