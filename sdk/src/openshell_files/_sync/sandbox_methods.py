# Written by sdk/unasync.py from _async/sandbox_methods.py. Change that file instead.
"""The gateway and the sandbox that the methods of one object share."""

from __future__ import annotations

from openshell_files._core.requests import SandboxAddress
from openshell_files._sync.rpc import Rpc


class SandboxMethods:
    """Base of the methods of one sandbox.

    Args:
        rpc: the gateway.
        address: the sandbox.
    """

    def __init__(self, rpc: Rpc, address: SandboxAddress) -> None:
        self._rpc = rpc
        self._address = address

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}>"
