# Written by sdk/unasync.py from _async/directories/changing.py. Change that file instead.
"""Calls a unary method that changes the sandbox: repeated only if nothing happened (DIR-16)."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from openshell_files._core.directories.outcome import is_verdict, nothing_happened, outcome_unknown
from openshell_files._core.requests import SandboxAddress
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.rpc import Rpc
from openshell_files.errors import FilesError

_Answer = TypeVar("_Answer", bound=Message)


def change(
    rpc: Rpc,
    address: SandboxAddress,
    method: str,
    request: Message,
    kind: type[_Answer],
    timeout: float | None,
    *,
    path: str,
    what: str,
    lasts: bool = False,
) -> _Answer:
    """Call a method that changes the sandbox.

    Args:
        rpc: the gateway.
        address: the sandbox, for messages and for the gate.
        method: path of the method.
        request: its request.
        kind: type of its answer.
        timeout: seconds for all tries; None for no limit.
        path: remote path, for messages.
        what: the change, as in "removed".
        lasts: the work may take longer than other calls.

    Raises:
        OutcomeUnknown: the request may have reached the sandbox, and its answer did not come.
        FilesError: by the error table.
    """
    deadline, budget = Deadline(timeout), rpc.budget()
    gate = rpc.gate(address)
    entered = gate.enter(deadline, paced=False)
    try:
        while True:
            sent = False
            try:
                # A call without a connection fails in the same way whether it was sent or not.
                if not rpc.connect(deadline):
                    rpc.reach(address, deadline)
                sent = True
                return rpc.change(method, request, kind, deadline, lasts=lasts)
            except FilesError as error:
                error.about(path)
                address.name_in(error)
                rpc.refused(address, error)
                if sent and is_verdict(error):
                    raise
                if sent and not nothing_happened(error):
                    raise outcome_unknown(error, what) from error
                rpc.recover(error, budget, deadline)
    finally:
        if entered:
            gate.leave(paced=False)
