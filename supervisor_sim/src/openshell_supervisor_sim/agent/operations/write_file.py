"""One WriteFile: a whole upload in one visit of a disk thread (UPL-16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_WRITE_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.chunk_check import check_chunk
from openshell_supervisor_sim.agent.core.requests import UploadRequest, recorded, write_request
from openshell_supervisor_sim.agent.core.upload import Action, Finish, Refuse
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.receive_upload import (
    carry_out,
    end_attached,
    replayed,
    settled,
    upload_core,
)
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Outbound
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt
from openshell_supervisor_sim.agent.upload.status import Caller, Published, Verifying


async def write_file(
    services: Services, caller: Caller, outbound: Outbound, request: files_pb2.WriteFileRequest
) -> files_pb2.WriteFileResponse:
    """Carry out a WriteFile as an upload of its content.

    Raises:
        TransferError: nothing was published.
        ConnectionError: the peer is gone; the file may be published.
    """
    upload = write_request(request)
    inputs = _inputs(request)
    interrupt = Interrupt()
    work = partial(
        _admit_and_publish, services, caller, upload, recorded(request.metadata), inputs, interrupt
    )
    while True:
        outcome = await outbound.while_working(services.disk.run(work, interrupt=interrupt))
        if not isinstance(outcome, Verifying):
            return files_pb2.WriteFileResponse(
                file=outcome.file,
                durability=outcome.durability,
                replayed=outcome.replayed,
                already_identical=outcome.already_identical,
            )
        await outbound.while_working(settled(services, outcome.upload))


def _inputs(request: files_pb2.WriteFileRequest) -> Sequence[Chunk | Finish]:
    """Return the inputs that a stream of the same upload would bring.

    Raises:
        TransferError: CHUNK_CHECKSUM if empty content has a checksum.
    """
    finish = Finish(len(request.content), request.digest.algorithm, request.digest.value)
    if request.content:
        return Chunk(0, request.content, request.crc32c), finish
    check_chunk(0, b"", request.crc32c)
    return (finish,)


def _admit_and_publish(
    services: Services,
    caller: Caller,
    request: UploadRequest,
    metadata: bytes,
    inputs: Sequence[Chunk | Finish],
    interrupt: Interrupt,
) -> files_pb2.UploadFileResponse | Verifying:
    """Admit, stage and publish in a disk thread."""
    attached = services.attachment.attach(
        request, metadata, caller, _nobody_reads, interrupt, takes_slot=False
    )
    if isinstance(attached, Verifying):
        return attached
    try:
        if isinstance(attached, UploadAttempt):
            # A cancellation stops the finish, too: a condition may read a large destination.
            attached.interrupt = interrupt
        core = upload_core(request, attached, replace(caller.limits, max_chunk_bytes=MAX_WRITE_BYTES))
        actions = list[Action]()
        for event in inputs:
            actions.append(core.receive(event))
            if isinstance(actions[-1], Refuse):
                break
        if isinstance(attached, Published):
            return replayed(actions[-1], attached)
        response = carry_out(attached, actions)
    except BaseException:
        # No caller can resume the upload; its caller writes the file again (UPL-59). An upload that a refusal
        # ended keeps its row.
        if isinstance(attached, UploadAttempt):
            attached.forget(TransferError(Reason.UPLOAD_INCOMPLETE, "its WriteFile ended without publishing"))
        raise
    finally:
        end_attached(attached)
    if response is None:
        raise AssertionError("the finish decides the outcome")
    return response


def _nobody_reads(_: TransferError) -> None:
    """Do nothing when another stream takes the upload over: the attempt's next step raises it."""
