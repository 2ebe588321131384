"""What callers are told about uploads, and why they may not go on with one."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core import upload_life
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import UploadRequest, upload_request
from openshell_supervisor_sim.agent.core.wire_numbers import set_clock_time
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what the operation may use."""

    principal: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Published:
    """The upload was published before; its finish can be repeated (RSM-6)."""

    size_bytes: int
    digest: Digest | None
    result: files_pb2.UploadFileResponse


@dataclass(frozen=True, slots=True)
class Verifying:
    """Another stream's finish is being carried out; ask again when it is settled."""

    upload: LiveUpload


def path_of(record: UploadRecord) -> str:
    """Return the absolute path of an upload's destination, for people."""
    return (record.parent.rstrip(b"/") + b"/" + record.name).decode("utf-8", "replace")


def finished_status(record: UploadRecord) -> files_pb2.UploadStatus:
    """Return what is known of an upload that has ended."""
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
    """Refuse to go on with an upload that ended without being published.

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
        case upload_life.LOST:
            raise unknown_upload(record.upload_id)
        case _:
            return


def require_same(request: UploadRequest, found: LiveUpload | UploadRecord) -> None:
    """Refuse a request that differs from the one that started an upload, or does not take its digest (RSM-1, DIG-7).

    Raises:
        TransferError: UPLOAD_CONFLICT, with the fields that differ.
    """
    record = found if isinstance(found, UploadRecord) else found.row
    same = request.fingerprint == record.fingerprint
    takes_digest = record.algorithm in (request.digests or ())
    if same and takes_digest:
        return
    differing = [] if same else request.differences(_first_request(record))
    fields = [f"metadata.{field}" for field in [*differing, *([] if takes_digest else ["accepted_digests"])]]
    told = ", ".join(fields) or "metadata"
    raise TransferError(
        Reason.UPLOAD_CONFLICT,
        f"{told}: the upload was started with another value; repeat the request unchanged, or start a new upload "
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
