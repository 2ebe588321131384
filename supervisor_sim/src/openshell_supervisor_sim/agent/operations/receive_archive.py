"""One UploadFile with `is_archive`: an upload whose content is unpacked while it arrives (ARC-8)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from openshell_files_disk.archives.limits import ArchiveLimits
from openshell_files_disk.archives.unpacking import DIGESTS
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2

from openshell_supervisor_sim.agent.archives.extraction import Extraction
from openshell_supervisor_sim.agent.core.archive_requests import archive_upload_request
from openshell_supervisor_sim.agent.core.digest_choice import choose
from openshell_supervisor_sim.agent.core.requests import UploadRequest
from openshell_supervisor_sim.agent.core.tree_requests import ReceiveRequest
from openshell_supervisor_sim.agent.operations.receive_upload import UploadSession
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Outbound
from openshell_supervisor_sim.agent.upload.status import Caller


async def receive_archive(
    services: Services,
    caller: Caller,
    outbound: Outbound,
    session: UploadSession,
    metadata: files_pb2.UploadFileMetadata,
    accepted: file_relay_pb2.FileRelayResponse,
) -> files_pb2.UploadFileResponse:
    """Unpack an archive; send `accepted` as soon as its directory is open.

    Args:
        services: of the agent.
        caller: of the operation.
        outbound: frames for the gateway.
        session: receives the stream.
        metadata: first message of the caller.
        accepted: frame to send.

    Raises:
        TransferError: the archive was not unpacked completely; what was unpacked stays.
        ConnectionError: the peer is gone.
    """
    request = archive_upload_request(metadata)
    attempt = await outbound.while_working(
        services.disk.run(partial(_open, services, caller, request), discard=lambda opened: opened.end())
    )
    return await session.receive_into(request, attempt, accepted)


def _open(services: Services, caller: Caller, request: UploadRequest) -> Extraction:
    """Open the directory; blocks.

    Raises:
        TransferError: the path cannot receive an archive, or the digests are not supported.
    """
    algorithm = None
    if request.explicit_finish:
        algorithm = choose("metadata.accepted_digests", request.digests or (), caller.limits.digests)
    wanted = ReceiveRequest(
        path=request.path,
        create_parents=request.create_parents,
        delete_others=False,
        atomic=False,
        dry_run=False,
        compare_content=False,
        fsync=request.fsync,
        algorithm=DIGESTS,
    )
    limits = ArchiveLimits(
        max_entries=caller.limits.max_archive_entries,
        max_bytes=caller.limits.max_extracted_bytes,
        max_ratio=services.settings.max_expansion_ratio,
    )
    return Extraction(
        request,
        lambda interrupt: services.trees.receive(
            wanted,
            # The archive's own limit on entries counts those that never become one of the tree, too.
            replace(caller.limits, max_tree_entries=0),
            interrupt.check,
            field="metadata.remote_path",
            ordered=False,
        ),
        limits,
        algorithm,
    )
