"""Answers about uploads: the status of one, and the refusals of a request that names one (RSM-2, RSM-7, RSM-11)."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import UploadRequest, upload_request
from openshell_supervisor_sim.agent.core.upload_life import State
from openshell_supervisor_sim.agent.core.wire_numbers import set_clock_time
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of an operation.

    Attributes:
        principal: its name.
        limits: of the operation.
    """

    principal: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Published:
    """An upload that was published before, so that its finish can be repeated (RSM-6)."""

    size_bytes: int
    digest: Digest | None
    result: files_pb2.UploadFileResponse


@dataclass(frozen=True, slots=True)
class Verifying:
    """An upload whose finish is being carried out for another stream; the operation is repeated after that."""

    upload: LiveUpload


def live_status(upload: LiveUpload, *, digest: bool) -> files_pb2.UploadStatus:
    """Return the state of an upload in memory.

    Args:
        upload: unfinished, or ended without a row in the journal.
        digest: with the digest of the staged bytes, if it is known.

    Raises:
        TransferError: UPLOAD_UNKNOWN for an upload that is lost, whose row could not be deleted yet.
    """
    with upload.lock:
        record, content, state = upload.row, upload.content, upload.state
        if state is State.LOST:
            raise unknown_upload(record.upload_id)
        status = files_pb2.UploadStatus(
            upload_id=record.upload_id,
            request_id=record.request_id,
            state=state.wire,
            path=upload.path,
            size_bytes=upload.request.size_bytes or 0,
            epoch=record.epoch,
            failure_reason=record.failure_reason,
            digest_algorithm=record.algorithm.wire,
        )
        # An upload that was aborted or expired has no content any more.
        if state.unfinished or state is State.PUBLISHED:
            status.staged_bytes, status.durable_bytes = content.size, content.durable
        if state is State.PUBLISHED:
            status.result.ParseFromString(record.result)
        if digest and (staged := content.digest) is not None:
            status.staged_digest.CopyFrom(staged.message)
        set_clock_time(status.created_time, record.created)
        set_clock_time(status.updated_time, upload.updated)
        set_clock_time(status.expiration_time, upload.updated + record.expiry)
        return status


def path_of(record: UploadRecord) -> str:
    """Return the absolute path of an upload's destination, for people."""
    return (record.parent.rstrip(b"/") + b"/" + record.name).decode("utf-8", "replace")


def finished_status(record: UploadRecord) -> files_pb2.UploadStatus:
    """Return the status of an upload that has ended, from its row."""
    size = record.finish_size
    status = files_pb2.UploadStatus(
        upload_id=record.upload_id,
        request_id=record.request_id,
        state=record.state,
        path=path_of(record),
        size_bytes=size,
        epoch=record.epoch,
        failure_reason=record.failure_reason,
        digest_algorithm=record.algorithm.wire,
    )
    if record.state == files_pb2.UPLOAD_STATE_PUBLISHED:
        status.result.ParseFromString(record.result)
        status.staged_bytes = size
        if record.finish is not None:
            status.staged_digest.CopyFrom(record.finish.message)
        status.durable_bytes = size if status.result.durability == files_pb2.DURABILITY_FSYNC else 0
    set_clock_time(status.created_time, record.created)
    set_clock_time(status.updated_time, record.updated)
    return status


def raise_if_ended(record: UploadRecord) -> None:
    """Refuse to resume an upload that ended without being published.

    Raises:
        TransferError: UPLOAD_ABORTED, UPLOAD_EXPIRED or UPLOAD_UNKNOWN.
    """
    match record.state:
        case files_pb2.UPLOAD_STATE_ABORTED:
            why = f" ({record.failure_reason})" if record.failure_reason else ""
            raise TransferError(
                Reason.UPLOAD_ABORTED,
                f"the upload was ended{why}",
                {"failure_reason": record.failure_reason} if record.failure_reason else {},
            )
        case files_pb2.UPLOAD_STATE_EXPIRED:
            raise TransferError(Reason.UPLOAD_EXPIRED, "the upload's time ran out")
        case files_pb2.UPLOAD_STATE_UNSPECIFIED:
            raise unknown_upload(record.upload_id)
        case _:
            return


def require_same(request: UploadRequest, found: LiveUpload | UploadRecord) -> None:
    """Refuse a request that differs from the one that started an upload, or does not accept its digest (RSM-11, DIG-7).

    Raises:
        TransferError: UPLOAD_CONFLICT, with the fields that differ.
    """
    record = found if isinstance(found, UploadRecord) else found.row
    same = request.fingerprint == record.fingerprint
    accepts_digest = record.algorithm in (request.digests or ())
    if same and accepts_digest:
        return
    differing = [] if same else request.differences(_first_request(record))
    fields = [
        f"metadata.{field}" for field in [*differing, *([] if accepts_digest else ["accepted_digests"])]
    ]
    named = ", ".join(fields) or "metadata"
    raise TransferError(
        Reason.UPLOAD_CONFLICT,
        f"{named}: the upload was started with another value; repeat the request unchanged, or start a new upload "
        "without its upload_id and request_id",
        {"fields": ",".join(fields)},
    )


def _first_request(record: UploadRecord) -> UploadRequest:
    metadata = files_pb2.UploadFileMetadata.FromString(record.metadata)
    return upload_request(metadata, started=True)


def published(record: UploadRecord) -> Published:
    """Return the outcome of an upload that was published."""
    result = files_pb2.UploadFileResponse.FromString(record.result)
    return Published(record.finish_size, record.finish, result)


def unknown_upload(name: str) -> TransferError:
    """Make the error for an upload that does not exist, or not for this caller (RSM-2)."""
    return TransferError(Reason.UPLOAD_UNKNOWN, f"there is no upload {name!r} of this caller in the sandbox")
