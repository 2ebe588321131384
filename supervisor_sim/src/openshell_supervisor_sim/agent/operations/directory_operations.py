"""The operations on directories: the request in, disk work in slices, the answer out (DIR-1)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Generator
from functools import partial
from typing import Final

from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

from openshell_supervisor_sim.agent.core.directory_requests import (
    copy_request,
    list_request,
    make_request,
    move_request,
    remove_request,
)
from openshell_supervisor_sim.agent.directories.making import make_directory
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Outbound

#: Seconds that a disk thread works on one operation before others get a turn.
_SLICE_SECONDS: Final = 0.5


class Stepwise:
    """Carries out work of many steps in slices, so that no disk thread is held for long.

    Args:
        services: of the agent.
        outbound: gets `working` meanwhile (FRM-7).
        interrupt: set if the operation is cancelled.
    """

    def __init__(self, services: Services, outbound: Outbound, interrupt: Interrupt) -> None:
        self._services = services
        self._outbound = outbound
        self._interrupt = interrupt
        self._done = 0

    async def run(self, steps: Generator[None]) -> None:
        """Carry out all steps. Work that is cancelled is closed in a disk thread before this returns.

        Raises:
            TransferError: of a step.
        """
        try:
            await self._outbound.while_working(self._slices(steps), lambda: self._done)
        finally:
            if inspect.getgeneratorstate(steps) != inspect.GEN_CLOSED:
                await self._services.disk.run(steps.close)

    async def _slices(self, steps: Generator[None]) -> None:
        while not await self._services.disk.run(partial(self._slice, steps), interrupt=self._interrupt):
            pass

    def _slice(self, steps: Generator[None]) -> bool:
        """Carry out some steps; return whether they were the last."""
        end = time.monotonic() + _SLICE_SECONDS
        for _ in steps:
            self._interrupt.check()
            self._done += 1
            if time.monotonic() > end:
                return False
        return True


async def directory_operation(
    services: Services, outbound: Outbound, opened: file_relay_pb2.FileRelayOpen
) -> file_relay_pb2.FileRelayResponse | None:
    """Carry out an operation on directories; return None if the frame has another operation.

    Raises:
        TransferError: the operation was refused, or failed.
        ConnectionError: the peer is gone.
    """
    response = file_relay_pb2.FileRelayResponse()
    interrupt = Interrupt()
    parts = services.directories
    match opened.WhichOneof("operation"):
        case "list_directory":
            work = partial(parts.lister.page, list_request(opened.list_directory), interrupt)
            page = await outbound.while_working(services.disk.run(work, interrupt=interrupt))
            response.list_directory.CopyFrom(page)
        case "make_directory":
            request = make_request(opened.make_directory)
            made = await outbound.while_working(
                services.disk.run(partial(make_directory, services.root, services.fs, request))
            )
            response.make_directory.CopyFrom(made)
        case "remove_path":
            removal = parts.removal(remove_request(opened.remove_path))
            await Stepwise(services, outbound, interrupt).run(removal.steps())
            response.remove_path.removed_entries = removal.removed
        case "move_path":
            move = partial(parts.mover.move, move_request(opened.move_path), interrupt)
            moved = await outbound.while_working(services.disk.run(move, interrupt=interrupt))
            response.move_path.CopyFrom(moved)
        case "copy_path":
            copy = parts.copier.copy(copy_request(opened.copy_path), interrupt)
            await Stepwise(services, outbound, interrupt).run(copy.steps())
            response.copy_path.CopyFrom(copy.response)
        case _:
            return None
    return response
