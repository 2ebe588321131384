"""Frees the staged bytes of an upload that ended without success (RSM-37)."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Retry, reason_named

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.rpc import Rpc
from openshell_files._core import answers
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files.errors import FilesError
from openshell_files.results import UploadState

#: Pause before another try, in seconds.
_RETRY_SECONDS: Final = 0.1


async def free(rpc: Rpc, address: SandboxAddress, plan: UploadPlan, seconds: float) -> None:
    """Abort an upload within `seconds`; if that fails, the upload expires (RSM-8)."""
    deadline = Deadline(seconds)
    while True:
        try:
            await _free_once(rpc, address, plan, deadline)
        except FilesError as error:
            # Without a reason the connection is lost, so another try would fail, too.
            retry = reason_named(error.reason) is not None and error.retry in {Retry.AGAIN, Retry.LATER}
            if not retry or deadline.over():
                return
        except RuntimeError:
            # The client was closed.
            return
        else:
            return
        await _io.sleep(_RETRY_SECONDS)


async def _free_once(rpc: Rpc, address: SandboxAddress, plan: UploadPlan, deadline: Deadline) -> None:
    ref = address.ref()
    upload_id = plan.upload_id
    if not upload_id:
        answer = await rpc.start_upload(plan.takeover(), deadline)
        upload_id = answer.upload.upload_id
    if plan.finish_sent:
        request = files_pb2.GetUploadRequest(sandbox=ref, upload_id=upload_id)
        status = await rpc.get_upload(request, deadline)
        if answers.upload_state(status.upload) is not UploadState.RECEIVING:
            return
    await rpc.abort_upload(files_pb2.AbortUploadRequest(sandbox=ref, upload_id=upload_id), deadline)
