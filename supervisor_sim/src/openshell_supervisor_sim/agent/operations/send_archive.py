"""One DownloadFile with `as_archive`: a directory that is packed while it is sent (ARC-11)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from openshell_files_disk.archives.unpacking import DIGESTS

from openshell_supervisor_sim.agent.archives.archive_source import ArchiveSource
from openshell_supervisor_sim.agent.core.requests import DownloadRequest
from openshell_supervisor_sim.agent.core.tree_requests import SendRequest
from openshell_supervisor_sim.agent.download.source import Content, Hole
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.upload.status import Caller


def open_archive(
    services: Services, caller: Caller, request: DownloadRequest, interrupt: Interrupt, budget: int
) -> tuple[ArchiveSource, Sequence[Content | Hole]]:
    """Open a directory as an archive, and read its first pieces; blocks.

    Args:
        services: of the agent.
        caller: of the operation.
        request: of the caller.
        interrupt: stops the work.
        budget: bytes to read.

    Raises:
        TransferError: the directory cannot be sent.
    """
    wanted = SendRequest(
        path=request.path,
        exclude=(),
        include=(),
        skip_links=False,
        compare_content=False,
        algorithm=DIGESTS,
    )
    source = ArchiveSource(
        request, caller.limits, partial(services.trees.send, wanted, field="remote_path"), interrupt
    )
    try:
        return source, source.read(budget)
    except BaseException:
        source.close()
        raise
