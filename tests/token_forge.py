"""Makes tokens, honest and hostile, and keys to sign them with."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from openshell_files_gateway.auth.issuer_keys import ALGORITHMS
from openshell_files_protocol.errors import TransferError

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

ISSUER = "https://issuer.example"
AUDIENCE = "the-gateway"

#: 2026-01-01T00:00:00Z, where the tests' clocks stand.
NOW = 1_767_225_600


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.cache
def private_key(kind: str, label: str = "") -> PrivateKey:
    """Return the key of that kind and label; made once, RSA is slow."""
    del label
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in ("ES256", "ES384"):
        return ec.generate_private_key(ec.SECP256R1() if kind == "ES256" else ec.SECP384R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Signer:
    """A key of an issuer.

    Attributes:
        key_id: `kid`.
        algorithm: what it signs with.
        private: the key.
    """

    key_id: str
    algorithm: str
    private: PrivateKey

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as it is published."""
        members = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        members.pop("key_ops", None)
        return {**members, "kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    @property
    def pem(self) -> bytes:
        """The public key as PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, data: bytes) -> bytes:
        """Sign with the algorithm."""
        return jwt.get_algorithm_by_name(self.algorithm).sign(data, self.private)


def signer(algorithm: str = "ES256", key_id: str = "key-1", label: str = "") -> Signer:
    """Return a signer; the same arguments give the same key."""
    kind = "RSA" if algorithm[:2] in ("RS", "PS") else algorithm
    return Signer(key_id, algorithm, private_key(kind, label))


def honest_claims(**changes: object) -> dict[str, object]:
    """Return claims that are accepted, with changes; None leaves a claim out."""
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice-subject",
        "exp": NOW + 300,
        "iat": NOW - 5,
        "nbf": NOW - 5,
        "preferred_username": "alice",
        "realm_access": {"roles": ["openshell-user"]},
        "scope": "openid sandbox:write",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def token(
    key: Signer,
    claims: Mapping[str, object] | bytes | None = None,
    header: Mapping[str, object] | None = None,
    *,
    sign: Callable[[bytes], bytes] | None = None,
) -> str:
    """Sign a token.

    Args:
        key: names itself in the header and signs.
        claims: honest ones if left out; bytes are the payload as it is.
        header: changes to the header; None leaves a member out.
        sign: signs instead of the key.
    """
    members: dict[str, object] = {"alg": key.algorithm, "kid": key.key_id, "typ": "JWT", **(header or {})}
    head = json.dumps({name: value for name, value in members.items() if value is not None}).encode()
    body = (
        claims
        if isinstance(claims, bytes)
        else json.dumps(honest_claims() if claims is None else claims).encode()
    )
    return assemble(head, body, sign or key.sign)


def assemble(head: bytes, body: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Join header and payload, whatever they are, with their signature."""
    signed = f"{encode(head)}.{encode(body)}"
    return f"{signed}.{encode(sign(signed.encode()))}"


def hmac_sha256(secret: bytes) -> Callable[[bytes], bytes]:
    """Return what signs with HS256."""
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


def assert_leaks_nothing(error: TransferError, secret: str) -> None:
    """Check that an error repeats nothing of a token, encoded or decoded.

    Expected issuer and audience may be named: they come from the configuration.
    """
    shown = " ".join(
        (str(error), error.message, *error.metadata.values(), *(str(v) for v in error.field_violations))
    )
    windows = {shown[start : start + 8] for start in range(len(shown) - 7)}
    leaked = [
        secret[start : start + 8] for start in range(len(secret) - 7) if secret[start : start + 8] in windows
    ]
    assert not leaked, f"{shown!r} repeats {leaked[0]!r} of the token"
    for word in _decoded_strings(secret):
        if len(word) >= 6 and word not in (ISSUER, AUDIENCE):
            assert word not in shown, f"{shown!r} repeats {word!r} of the token"
    assert error.__cause__ is None, "the cause of a refusal may hold the token"


def _decoded_strings(secret: str) -> Iterator[str]:
    for part in secret.split(".")[:2]:
        try:
            value = cast("object", json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))
        except (ValueError, RecursionError):
            continue
        # The algorithm's name is public, and refusals list those accepted.
        yield from (text for text in _strings(value) if text not in ALGORITHMS)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in cast("dict[str, object]", value).values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _strings(item)
