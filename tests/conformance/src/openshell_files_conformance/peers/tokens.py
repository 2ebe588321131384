"""Tokens of users, right and wrong ones, and the keys that sign them.

A token is right unless a case says otherwise: `claims` replaces or, with None, removes claims, and `header` does the same to the header.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

USER_ROLE: Final = "openshell-user"
ADMIN_ROLE: Final = "openshell-admin"
#: The scope of every file method (AUT-11).
WRITE_SCOPE: Final = "sandbox:write"

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class SigningKey:
    """A key of an issuer.

    Attributes:
        kid: its name in tokens and in the published set.
        algorithm: the one algorithm that it signs with.
    """

    kid: str
    algorithm: str
    private: _PrivateKey

    def published(self) -> dict[str, Any]:
        """Return the public half as an issuer publishes it."""
        public = self.private.public_key()
        encoder: Any = {"E": ECAlgorithm, "R": RSAAlgorithm, "P": RSAAlgorithm}.get(
            self.algorithm[0], RSAAlgorithm
        )
        if self.algorithm == "EdDSA":
            encoder = OKPAlgorithm
        key = cast("dict[str, Any]", json.loads(encoder.to_jwk(public)))
        return {
            **{name: value for name, value in key.items() if name != "key_ops"},
            "kid": self.kid,
            "alg": self.algorithm,
            "use": "sig",
        }

    def public_pem(self) -> bytes:
        """Return the public half in the form that a careless verifier takes for a shared secret."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def new_key(kid: str, algorithm: str = "ES256") -> SigningKey:
    """Make a key."""
    if algorithm == "EdDSA":
        return SigningKey(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
    if algorithm == "ES384":
        return SigningKey(kid, algorithm, ec.generate_private_key(ec.SECP384R1()))
    if algorithm == "ES256":
        return SigningKey(kid, algorithm, ec.generate_private_key(ec.SECP256R1()))
    return SigningKey(kid, algorithm, rsa.generate_private_key(65537, 2048))


@dataclass(frozen=True)
class TokenMaker:
    """Signs tokens as an issuer does.

    Attributes:
        issuer: claim `iss`.
        audience: claim `aud`.
    """

    issuer: str
    audience: str

    def claims(
        self, subject: str, *, roles: Sequence[str] = (USER_ROLE,), scope: str | None = WRITE_SCOPE
    ) -> dict[str, Any]:
        """Return the claims of a right token."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "iat": now,
            "nbf": now - 5,
            "exp": now + 3600,
            "realm_access": {"roles": list(roles)},
        }
        if scope is not None:
            claims["scope"] = scope
        return claims

    def sign(
        self,
        key: SigningKey,
        claims: Mapping[str, Any],
        *,
        algorithm: str = "",
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """Sign claims; those that are None are left out, in the header too."""
        kept = {name: value for name, value in claims.items() if value is not None}
        head = {"kid": key.kid, "typ": "JWT", **(header or {})}
        named = {name: value for name, value in head.items() if value is not None}
        encoder = jwt.PyJWT(options={"enforce_minimum_key_length": False})
        return encoder.encode(
            kept, cast(Any, key.private), algorithm=algorithm or key.algorithm, headers=named
        )


def unsigned(claims: Mapping[str, Any], kid: str) -> str:
    """Return a token of the algorithm `none`."""
    return f"{_part({'alg': 'none', 'typ': 'JWT', 'kid': kid})}.{_part(claims)}."


def hmac_of_public_key(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """Return a token signed by HMAC, with the issuer's public key as the secret: what everybody can make."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': key.kid})}.{_part(claims)}"
    mac = hmac.digest(key.public_pem(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def tampered(token: str) -> str:
    """Return a token with another subject than the one that was signed."""
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return f"{head}.{_part({**claims, 'sub': 'someone-else'})}.{signature}"


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(dict(value)).encode()).rstrip(b"=").decode()
