"""What a connection's failures mean that somebody else owns: gRPC runs the owner's code in each call."""

from __future__ import annotations

from typing import Final

from openshell_files._core.resources import lacks_resources
from openshell_files._core.token_exchange import credentials_error

CLOSED: Final = "the client is closed, or the one whose connection it uses"

#: How gRPC's `ValueError` for a call on a closed channel begins.
_ON_CLOSED_CHANNEL: Final = "Cannot invoke RPC"


def owners_failure(error: Exception) -> Exception:
    """Return what an exception of a borrowed channel means that is no status: gRPC runs its owner's code in calls."""
    if isinstance(error, ValueError) and str(error).startswith(_ON_CLOSED_CHANNEL):
        return RuntimeError(CLOSED)
    if lacks_resources(error):
        return type(error)(*error.args)
    return credentials_error(
        f"the channel's owner gave no token: {type(error).__name__}: {error}",
        "Look at where it gets tokens.",
    )
