# Written by sdk/unasync.py from _async/unary.py. Change that file instead.
"""Calls a unary method of one sandbox with retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from openshell_files._core.requests import SandboxAddress
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.rpc import Rpc
from openshell_files.errors import FilesError

_Request = TypeVar("_Request", bound=Message)
_Answer = TypeVar("_Answer", bound=Message)


def call_with_retries(
    rpc: Rpc,
    address: SandboxAddress,
    call: Callable[[_Request, Deadline], _Answer],
    request: _Request,
    timeout: Deadline | float | None,
    path: str = "",
) -> _Answer:
    """Call an idempotent method as often as the retry policy allows.

    Args:
        rpc: the gateway.
        address: the sandbox, for messages and for the gate.
        call: the method.
        request: its request.
        timeout: seconds for all tries, or their deadline; None for no limit.
        path: remote path, for messages.
    """
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    budget = rpc.budget()
    gate = rpc.gate(address)
    entered = gate.enter(deadline, paced=False)
    try:
        while True:
            try:
                return call(request, deadline)
            except FilesError as error:
                error.about(path)
                address.name_in(error)
                rpc.refused(address, error)
                rpc.recover(error, budget, deadline)
    finally:
        if entered:
            gate.leave(paced=False)
