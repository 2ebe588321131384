"""Checks the claims of a token after its signature: issuer, audience, times, subject (RFC 7519 §4.1).

PyJWT's own checks are not used, because they read the clock themselves and
accept strings as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, cast

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

#: Scopes that only request claims from an OpenID provider.
_OPENID_SCOPES: Final = frozenset({"openid", "profile", "email", "offline_access"})

#: End of the year 9999. Later times are mistakes, for example milliseconds.
_LATEST_TIME: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """The values that the claims of a token must have.

    Attributes:
        issuer: exact value of `iss`.
        audience: value of `aud`, or one of its values.
        leeway: tolerated difference between the clocks of issuer and gateway, in seconds.
        zero_never_expires: accept `exp` 0 as a token that never expires.
    """

    issuer: str
    audience: str
    leeway: float
    zero_never_expires: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredClaims:
    """The checked claims.

    Attributes:
        subject: `sub`.
        expires_at: Unix time at which the token expires, leeway included;
            infinity for never.
    """

    subject: str
    expires_at: float


def check_claims(claims: Mapping[str, object], rules: ClaimRules, now: float) -> RegisteredClaims:
    """Check issuer, audience, times and subject.

    Args:
        claims: the token's claims.
        rules: the values that they must have.
        now: Unix time.

    Raises:
        TransferError: TOKEN_CLAIM_INVALID for a claim that is missing or of
            the wrong type, else the reason of the failed check.
    """
    if _string(claims, "iss") != rules.issuer:
        raise TransferError(Reason.TOKEN_WRONG_ISSUER, f"the token's issuer (iss) is not '{rules.issuer}'")
    if rules.audience not in _audiences(claims):
        raise TransferError(
            Reason.TOKEN_WRONG_AUDIENCE, f"the token's audience (aud) does not contain '{rules.audience}'"
        )
    expires_at = _time(claims, "exp") + rules.leeway
    if rules.zero_never_expires and claims["exp"] == 0:
        expires_at = math.inf
    if now >= expires_at:
        raise TransferError(Reason.TOKEN_EXPIRED, _about_time("the token has expired (exp)", now))
    for claim in ("nbf", "iat"):
        if claim in claims and _time(claims, claim) > now + rules.leeway:
            raise TransferError(
                Reason.TOKEN_NOT_YET_VALID, _about_time(f"the token is not valid yet ({claim})", now)
            )
    return RegisteredClaims(_string(claims, "sub"), expires_at)


def read_roles(claims: Mapping[str, object], path: str) -> frozenset[str]:
    """Return the roles at a dotted path: the strings of a list."""
    value = _at(claims, path)
    return frozenset(_strings(cast("list[object]", value))) if isinstance(value, list) else frozenset()


def read_scopes(claims: Mapping[str, object], path: str) -> frozenset[str]:
    """Return the scopes at a dotted path: the words of a string (RFC 6749 §3.3), or the strings of a list."""
    value = _at(claims, path)
    if isinstance(value, str):
        found = frozenset(value.split())
    elif isinstance(value, list):
        found = frozenset(_strings(cast("list[object]", value)))
    else:
        found = frozenset[str]()
    return found - _OPENID_SCOPES


def _at(claims: Mapping[str, object], path: str) -> object:
    name, _, rest = path.partition(".")
    value = claims.get(name)
    if not rest:
        return value
    return _at(cast("dict[str, object]", value), rest) if isinstance(value, dict) else None


def _strings(values: list[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _string(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    # Unprintable characters could forge log lines, or are no valid Unicode.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _invalid(name, "a string of printable characters")
    return value


def _audiences(claims: Mapping[str, object]) -> list[str]:
    value = claims.get("aud")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        items = cast("list[object]", value)
        strings = _strings(items)
        if items and len(strings) == len(items):
            return strings
    raise _invalid("aud", "a string or a list of strings")


def _time(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    # bool is a subclass of int in Python, but another type in JSON.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_TIME:
        raise _invalid(name, "a time in seconds since 1970")
    return float(value)


def _invalid(name: str, expected: str) -> TransferError:
    return TransferError(
        Reason.TOKEN_CLAIM_INVALID,
        f"the token's claim '{name}' is missing or not {expected}",
        metadata={"claim": name},
    )


def _about_time(fault: str, now: float) -> str:
    return f"{fault}; the gateway's time is {datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"
