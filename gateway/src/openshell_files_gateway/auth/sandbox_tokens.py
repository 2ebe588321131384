"""Signs and verifies the tokens of supervisors (AUT-3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import jwt
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.claims import ClaimRules, check_claims
from openshell_files_gateway.auth.issuer_keys import VerificationKey
from openshell_files_gateway.auth.principals import SandboxPrincipal
from openshell_files_gateway.auth.tokens import TokenHeader, verify_signature
from openshell_files_gateway.auth.verified_tokens import VerifiedToken, VerifiedTokens
from openshell_files_gateway.config.signing_key import SigningKey
from openshell_files_gateway.config.tables import DEFAULT_LEEWAY_SECONDS

ALGORITHM: Final = "EdDSA"

_SUBJECT_PREFIX: Final = "spiffe://openshell/sandbox/"


def gateway_name(gateway_id: str) -> str:
    """Return the name of a gateway, which is both issuer and audience of its sandbox tokens."""
    return f"openshell-gateway:{gateway_id}"


class MintedToken(NamedTuple):
    """A new token.

    Attributes:
        token: the encoded token.
        expiry: Unix time in seconds at which it expires; None for never.
    """

    token: str
    expiry: int | None


class SandboxTokenIssuer:
    """Signs tokens for supervisors.

    Args:
        key: the gateway's key.
        gateway_id: name of the gateway; gateways that share the key share it.
        ttl: default lifetime of tokens in seconds.
        allow_no_expiry: allow a lifetime of 0, a token that never expires.
        clock: Unix time in seconds.

    Raises:
        ValueError: `ttl` is out of range.
    """

    def __init__(
        self,
        key: SigningKey,
        *,
        gateway_id: str,
        ttl: float = 86_400.0,
        allow_no_expiry: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._name = gateway_name(gateway_id)
        self._allow_no_expiry = allow_no_expiry
        self._clock = clock
        self._ttl = self._checked(ttl)
        self._signatures = jwt.PyJWS(algorithms=[ALGORITHM])

    @property
    def public_jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key, as a JWK set for publication."""
        return self._key.public_jwks

    def mint(self, sandbox_id: str, ttl: float | None = None) -> MintedToken:
        """Sign a token for one sandbox.

        Args:
            sandbox_id: UUID of the sandbox.
            ttl: lifetime in seconds, at least 1; 0 for no expiry, where
                allowed; None for the default.

        Raises:
            ValueError: `sandbox_id` is empty or `ttl` out of range.
        """
        if not sandbox_id:
            raise ValueError("a token needs a sandbox")
        lifetime = self._ttl if ttl is None else self._checked(ttl)
        now = int(self._clock())
        expiry = now + lifetime if lifetime else 0
        token = jwt.encode(
            {
                "iss": self._name,
                "aud": self._name,
                "sub": _SUBJECT_PREFIX + sandbox_id,
                "iat": now,
                "exp": expiry,
                "sandbox_id": sandbox_id,
            },
            self._key.private,
            algorithm=ALGORITHM,
            headers={"kid": self._key.key_id},
        )
        return MintedToken(token, expiry or None)

    def _checked(self, ttl: float) -> int:
        lifetime = int(ttl)
        if lifetime > 0 or (ttl == 0 and self._allow_no_expiry):
            return lifetime
        raise ValueError("the lifetime of a token must be at least 1 s; 0, no expiry, must be allowed")


class SandboxTokenVerifier:
    """Verifies a supervisor's token and returns its sandbox.

    Args:
        keys: the accepted keys: the gateway's own and, during a key rotation,
            the former one.
        gateway_id: name of the gateway.
        allow_no_expiry: accept tokens that never expire.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        keys: Iterable[SigningKey],
        *,
        gateway_id: str,
        allow_no_expiry: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = {key.key_id: VerificationKey.of(key.key_id, ALGORITHM, key.public) for key in keys}
        name = gateway_name(gateway_id)
        self._rules = ClaimRules(name, name, DEFAULT_LEEWAY_SECONDS, zero_never_expires=allow_no_expiry)
        self._clock = clock
        self._verified = VerifiedTokens[SandboxPrincipal]()

    def claims_header(self, header: TokenHeader) -> bool:
        """Return True if this verifier is responsible for a token with this header."""
        return header.algorithm == ALGORITHM and header.key_id in self._keys

    def verify(self, token: str, header: TokenHeader) -> SandboxPrincipal:
        """Verify a token and return its principal.

        Args:
            token: a token that this verifier is responsible for.
            header: its header.

        Raises:
            TransferError: the reason of the failed check, as for users'
                tokens; TOKEN_CLAIM_INVALID also if its claims name different
                sandboxes.
        """
        remembered = self._verified.find(token, self._clock())
        if remembered is not None:
            return remembered.principal
        key = self._keys[header.key_id]
        claims = verify_signature(token, key)
        registered = check_claims(claims, self._rules, self._clock())
        sandbox_id = claims.get("sandbox_id")
        if not isinstance(sandbox_id, str) or not sandbox_id:
            raise TransferError(Reason.TOKEN_CLAIM_INVALID, "the token's claim 'sandbox_id' is missing")
        if registered.subject != _SUBJECT_PREFIX + sandbox_id:
            raise TransferError(
                Reason.TOKEN_CLAIM_INVALID,
                "the token's claims 'sub' and 'sandbox_id' name different sandboxes",
            )
        principal = SandboxPrincipal(sandbox_id)
        self._verified.remember(token, VerifiedToken(principal, key, registered.expires_at))
        return principal
