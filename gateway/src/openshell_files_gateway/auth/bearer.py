"""The token in a call's metadata (RFC 6750 §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

#: Written exactly so. HTTP would allow any case, upstream's gateway does not;
#: a client that passes here has to pass there.
_SCHEME: Final = "Bearer "


def bearer_token(authorization: Sequence[str]) -> str | None:
    """Return the token of a call; None if the call carries no credentials at all.

    Args:
        authorization: every value of the metadata key `authorization`.

    Raises:
        TransferError: TOKEN_MISSING if there are credentials but no bearer
            token; TOKEN_MALFORMED if there is more than one value, as one
            checked by us may then not be the one that somebody else used.
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
