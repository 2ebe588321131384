"""Errors of a borrowed channel, whose owner's interceptors run in each call."""

from __future__ import annotations

from typing import Final

from openshell_files._core.resources import lacks_resources
from openshell_files._core.token_exchange import credentials_error

CLOSED: Final = "the client is closed, or the one whose connection it uses"

#: Beginning of gRPC's `ValueError` for a call on a closed channel.
_ON_CLOSED_CHANNEL: Final = "Cannot invoke RPC"


def owners_failure(error: Exception) -> Exception:
    """Convert an exception without a gRPC status: it comes from the owner's interceptor, or from a closed channel."""
    if isinstance(error, ValueError) and str(error).startswith(_ON_CLOSED_CHANNEL):
        return RuntimeError(CLOSED)
    if lacks_resources(error):
        return type(error)(*error.args)
    return credentials_error(
        f"the channel's owner gave no token: {type(error).__name__}: {error}",
        "Check the source of its tokens.",
    )
