"""The tokens that the gateway signs for supervisors (AUT-3)."""

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
    """Return issuer and audience of a gateway's sandbox tokens."""
    return f"openshell-gateway:{gateway_id}"


class MintedToken(NamedTuple):
    """A new token.

    Attributes:
        token: what the supervisor sends.
        expiry: Unix time in seconds when it expires; None if it never does.
    """

    token: str
    expiry: int | None


class SandboxTokenIssuer:
    """Signs tokens.

    Args:
        key: the gateway's key.
        gateway_id: the gateway's name, the same for all that share the key.
        ttl: seconds that tokens are valid unless `mint` is told otherwise.
        allow_no_expiry: whether 0 may be asked for, a token for ever.
        clock: Unix time in seconds.

    Raises:
        ValueError: `ttl` is not possible.
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
        """The key that verifies the tokens, as a JWK set to be published."""
        return self._key.public_jwks

    def mint(self, sandbox_id: str, ttl: float | None = None) -> MintedToken:
        """Sign a token for one sandbox.

        Args:
            sandbox_id: UUID of the sandbox.
            ttl: seconds that it is valid, at least 1; 0 for ever where that is
                allowed; the issuer's own if left out.

        Raises:
            ValueError: `sandbox_id` is empty or `ttl` is not possible.
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
        raise ValueError("a token is valid for at least one second; for ever only where that is allowed")


class SandboxTokenVerifier:
    """Makes a sandbox's principal of a token.

    Args:
        keys: the keys whose tokens are accepted: the gateway's own, and while
            keys are changed the one before.
        gateway_id: the gateway's name.
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
        """Say whether a token with this header is for this verifier to judge."""
        return header.algorithm == ALGORITHM and header.key_id in self._keys

    def verify(self, token: str, header: TokenHeader) -> SandboxPrincipal:
        """Verify a token and return whose it is.

        Args:
            token: a token that is for this verifier to judge.
            header: its header.

        Raises:
            TransferError: the check that failed, as for users' tokens;
                TOKEN_CLAIM_INVALID also if the token contradicts itself about
                its sandbox.
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
