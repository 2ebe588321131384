"""Reads the bearer token from a call's metadata (RFC 6750 §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

#: In exactly this case. HTTP allows any case, but upstream's gateway does not,
#: and a client that works here must work there.
_SCHEME: Final = "Bearer "


def bearer_token(authorization: Sequence[str]) -> str | None:
    """Return the token of a call; None if the call has no `authorization`.

    Args:
        authorization: all values of the metadata key `authorization`.

    Raises:
        TransferError: TOKEN_MISSING if the value is not a bearer token;
            TOKEN_MALFORMED for more than one value, since a proxy may have
            checked a different one.
    """
    if not authorization:
        return None
    if len(authorization) > 1:
        raise TransferError(
            Reason.TOKEN_MALFORMED, "the call has more than one `authorization`; send exactly one"
        )
    value = authorization[0]
    if not value.startswith(_SCHEME) or len(value) == len(_SCHEME):
        raise TransferError(
            Reason.TOKEN_MISSING,
            "`authorization` holds no bearer token; write `Bearer`, one space, and the token",
        )
    return value[len(_SCHEME) :]
