"""The requests of archives: UploadFile with `is_archive`, DownloadFile with `as_archive` (ARC-8, ARC-11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from openshell_files_protocol.errors import invalid
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.requests import (
    DownloadRequest,
    UploadRequest,
    download_request,
    upload_request,
)

#: Fields of an upload that an archive cannot have, and why.
_NOT_OF_UPLOADS: Final = {
    "upload_id": "an archive is unpacked while it arrives, so it cannot be resumed",
    "request_id": "an archive is unpacked while it arrives, so it cannot be resumed",
    "epoch": "an archive is unpacked while it arrives, so it cannot be resumed",
    "lanes": "an archive arrives in its order, on one stream",
    "condition": "a condition is for one file",
    "modified_time": "an archive has the times of its entries",
    "keep_read_only": "an archive replaces what its entries name",
}

#: Fields of a download that an archive cannot have, and why.
_NOT_OF_DOWNLOADS: Final = {
    "offset": "an archive is made while it is sent, so it has no ranges",
    "length": "an archive is made while it is sent, so it has no ranges",
    "tail_bytes": "an archive is made while it is sent, so it has no ranges",
    "if_version": "a version is of one file",
}


def archive_upload_request(metadata: files_pb2.UploadFileMetadata) -> UploadRequest:
    """Check the metadata of an upload that is unpacked.

    `mode` has no meaning: it would be that of the archive, which is not kept.

    Raises:
        TransferError: INVALID_REQUEST, with the name of a field that does not fit.
    """
    for field, why in _NOT_OF_UPLOADS.items():
        if _is_set(metadata, field):
            raise invalid(f"metadata.{field}", f"does not fit is_archive: {why} (ARC-8)")
    if metadata.leaf_link not in {
        files_pb2.LEAF_LINK_POLICY_UNSPECIFIED,
        files_pb2.LEAF_LINK_POLICY_REFUSE,
    }:
        raise invalid(
            "metadata.leaf_link", "does not fit is_archive: no link is followed or replaced (ARC-8)"
        )
    plain = files_pb2.UploadFileMetadata()
    plain.CopyFrom(metadata)
    plain.is_archive = False
    return upload_request(plain)


def archive_download_request(request: files_pb2.DownloadFileRequest) -> DownloadRequest:
    """Check the request of a directory as an archive. A link at the end of its path is always followed.

    Raises:
        TransferError: INVALID_REQUEST, with the name of a field that does not fit.
    """
    for field, why in _NOT_OF_DOWNLOADS.items():
        if _is_set(request, field):
            raise invalid(field, f"does not fit as_archive: {why} (ARC-22)")
    plain = files_pb2.DownloadFileRequest()
    plain.CopyFrom(request)
    plain.as_archive = False
    return replace(download_request(plain), follow_link=True)


def _is_set(message: files_pb2.UploadFileMetadata | files_pb2.DownloadFileRequest, field: str) -> bool:
    return any(described.name == field for described, _ in message.ListFields())
