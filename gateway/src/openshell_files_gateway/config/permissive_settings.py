"""Settings that grant more access than a reader of the file may expect; the gateway logs them at every start.

`consistency` refuses combinations of settings that are never safe. The settings
here may be intended, so the gateway logs their effect and starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openshell_files_gateway.config.tables import GatewayTables, OidcSettings


@dataclass(frozen=True, slots=True)
class PermissiveSetting:
    """Access that the settings grant.

    Attributes:
        effect: the access, as a sentence.
        cause: the settings that grant it.
    """

    effect: str
    cause: str


def find_permissive_settings(settings: GatewayTables) -> Iterator[PermissiveSetting]:
    """Yield each kind of access that a reader of these settings may not expect."""
    if settings.oidc is not None:
        cause = all_are_administrators(settings.oidc)
        if cause:
            yield PermissiveSetting("every user of the issuer is a platform administrator", cause)
    if settings.allow_unauthenticated_users:
        yield PermissiveSetting(
            "every caller without a token is a platform administrator",
            "allow_unauthenticated_users is set",
        )
    if settings.sandbox_tokens.allow_no_expiry:
        yield PermissiveSetting(
            "a stolen sandbox token may never expire", "sandbox_tokens.allow_no_expiry is set"
        )


def all_are_administrators(oidc: OidcSettings) -> str:
    """Return the reason why every user is a platform administrator; "" if only some are."""
    if not oidc.user_role and not oidc.admin_role:
        return "oidc.admin_role and oidc.user_role are empty"
    if oidc.user_role == oidc.admin_role:
        return "oidc.admin_role and oidc.user_role are the same"
    return ""
