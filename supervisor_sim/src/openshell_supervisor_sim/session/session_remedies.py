"""What an operator can do about a session that the gateway refuses: no retry mends these refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc

#: Remedy by the status of the refusal. The gateway may change its settings, so the supervisor still retries.
REMEDIES: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.PERMISSION_DENIED: "the token is of another sandbox: give the file with this sandbox's token as "
    "--token-file, or the token's sandbox as --sandbox-id",
    grpc.StatusCode.UNAUTHENTICATED: "write a new token of this sandbox into the file of --token-file; "
    "`openshell-files-gateway sandbox-token` prints one",
    grpc.StatusCode.NOT_FOUND: "the gateway has no such sandbox: check --sandbox-id, or add the sandbox to the "
    "gateway's settings",
}


class Remedies:
    """Returns each remedy once, until a session is accepted."""

    def __init__(self) -> None:
        self._told = set[grpc.StatusCode]()

    def new(self, code: grpc.StatusCode | None) -> str | None:
        """Return the remedy for a status; None if there is none, or the log has it."""
        if code is None or code in self._told or code not in REMEDIES:
            return None
        self._told.add(code)
        return REMEDIES[code]

    def reset(self) -> None:
        """Note that a session was accepted: a later refusal is another one."""
        self._told.clear()
