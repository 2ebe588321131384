"""Settings that are allowed and let more in than a reader of the file may think.

What would be unsafe everywhere is refused (`consistency`). These are choices
that somebody may want, so the gateway starts, and says at every start what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openshell_files_gateway.config.tables import GatewayTables, OidcSettings


@dataclass(frozen=True, slots=True)
class Opening:
    """What somebody gets.

    Attributes:
        what: happens, as a sentence.
        because: the settings that make it so.
    """

    what: str
    because: str


def find_openings(settings: GatewayTables) -> Iterator[Opening]:
    """Return what these settings open."""
    if settings.oidc is not None:
        because = all_are_administrators(settings.oidc)
        if because:
            yield Opening("every user of the issuer is a platform administrator", because)
    if settings.allow_unauthenticated_users:
        yield Opening(
            "whoever reaches the port without a token is a platform administrator",
            "allow_unauthenticated_users is set",
        )
    if settings.sandbox_tokens.allow_no_expiry:
        yield Opening(
            "a sandbox token that was stolen may be good for ever", "sandbox_tokens.allow_no_expiry is set"
        )


def all_are_administrators(oidc: OidcSettings) -> str:
    """Return why every user who gets in is a platform administrator; "" if not every one is."""
    if not oidc.user_role and not oidc.admin_role:
        return "oidc.admin_role and oidc.user_role are empty"
    if oidc.user_role == oidc.admin_role:
        return "oidc.admin_role and oidc.user_role are the same"
    return ""
