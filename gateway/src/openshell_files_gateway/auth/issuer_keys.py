"""Reads an issuer's JWK set: the keys that may verify tokens, each with its algorithm.

A JWK set (RFC 7517) may contain keys for encryption, keys of unknown types and
mistakes. Such keys are left out, each with a reason; the others are used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

#: Allowed algorithms by key type and curve. The first is the default for keys
#: without `alg`.
_ALGORITHMS_OF: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): _RSA_ALGORITHMS,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

#: All accepted algorithms. Not `none`, and no HMAC, whose secret would be the
#: published key.
ALGORITHMS: Final = frozenset(name for names in _ALGORITHMS_OF.values() for name in names)

#: RFC 7518 §3.3 requires 2048. The upper limit bounds the cost of a check.
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class UnusableKeyError(ValueError):
    """A key must not verify tokens; the message has the reason."""


class KeySetError(ValueError):
    """A document is not a JWK set."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key with the one algorithm that it verifies.

    Two keys are equal if they verify the same tokens.

    Attributes:
        key_id: `kid`.
        algorithm: name from RFC 7518 or RFC 8037.
        fingerprint: SHA-256 of the public key.
        public: the key itself.
    """

    key_id: str
    algorithm: str
    fingerprint: bytes
    public: PublicKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, key_id: str, algorithm: str, public: PublicKey) -> VerificationKey:
        """Return the key for a public key and its algorithm."""
        encoded = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return cls(key_id, algorithm, hashlib.sha256(encoded).digest(), public)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one JWK set.

    Attributes:
        keys: by `kid`.
        left_out: reasons why the other keys are not used, for the log.
    """

    keys: Mapping[str, VerificationKey]
    left_out: tuple[str, ...]


def read_key_set(document: bytes) -> KeySet:
    """Read a JWK set.

    Raises:
        KeySetError: the document is not a JWK set.
    """
    try:
        value = cast("object", json.loads(document))
    except (ValueError, RecursionError):
        raise KeySetError("the JWK set is not JSON") from None
    members = cast("dict[str, object]", value).get("keys") if isinstance(value, dict) else None
    if not isinstance(members, list):
        raise KeySetError("the JWK set has no list of keys")
    keys: dict[str, VerificationKey] = {}
    conflicting: set[str] = set()
    left_out: list[str] = []
    for position, member in enumerate(cast("list[object]", members)):
        try:
            key = read_key(member)
        except UnusableKeyError as error:
            left_out.append(f"key {position}: {error}")
            continue
        if keys.setdefault(key.key_id, key) != key:
            conflicting.add(key.key_id)
            left_out.append(
                f"key {position}: its kid is also that of another key or algorithm; neither is used"
            )
    usable = {key_id: key for key_id, key in keys.items() if key_id not in conflicting}
    return KeySet(usable, tuple(left_out))


def read_key(member: object) -> VerificationKey:
    """Read one JWK.

    Raises:
        UnusableKeyError: it is not a public signature key of a supported type.
    """
    if not isinstance(member, dict):
        raise UnusableKeyError("is not an object")
    jwk = cast("dict[str, object]", member)
    key_id = jwk.get("kid")
    if not isinstance(key_id, str):
        raise UnusableKeyError("has no kid")
    if _PRIVATE_MEMBERS & jwk.keys():
        raise UnusableKeyError("has private members, so its private key is public")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKeyError("is not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKeyError("is not for verifying")
    algorithm = _algorithm_of(jwk)
    try:
        public = cast("object", jwt.PyJWK(jwk, algorithm=algorithm).key)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise UnusableKeyError("has no valid public key") from None
    if not isinstance(public, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        raise UnusableKeyError("is of a kind that is not supported")
    if isinstance(public, RSAPublicKey) and not _MIN_RSA_BITS <= public.key_size <= _MAX_RSA_BITS:
        raise UnusableKeyError(f"is not RSA of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits")
    return VerificationKey.of(key_id, algorithm, public)


def _algorithm_of(jwk: Mapping[str, object]) -> str:
    kind, curve = jwk.get("kty"), jwk.get("crv", "")
    if not isinstance(kind, str) or not isinstance(curve, str):
        raise UnusableKeyError("has no key type")
    possible = _ALGORITHMS_OF.get((kind, curve))
    if possible is None:
        raise UnusableKeyError("is of a kind that is not supported")
    algorithm = jwk.get("alg", possible[0])
    if not isinstance(algorithm, str) or algorithm not in possible:
        raise UnusableKeyError("names an algorithm that is not supported for its kind")
    return algorithm
