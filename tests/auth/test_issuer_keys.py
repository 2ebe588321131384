"""AUT-2: which published keys are used, each with one algorithm."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.auth.issuer_keys import KeySetError, UnusableKeyError, read_key, read_key_set
from token_forge import private_key, signer

ES = signer("ES256", "ec-key")
RS = signer("RS256", "rsa-key")


def without(jwk: dict[str, Any], *names: str, **changes: object) -> dict[str, Any]:
    return {name: value for name, value in {**jwk, **changes}.items() if name not in names}


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
)
def test_a_key_is_for_the_algorithm_that_it_names(algorithm: str) -> None:
    """AUT-2: one key, one algorithm."""
    assert read_key(signer(algorithm).jwk).algorithm == algorithm


@pytest.mark.parametrize(
    ("kind", "expected"), [("RS512", "RS256"), ("ES256", "ES256"), ("ES384", "ES384"), ("EdDSA", "EdDSA")]
)
def test_a_key_that_names_none_is_for_the_usual_one(kind: str, expected: str) -> None:
    """AUT-2: the default depends on the kind of key only, never on a token."""
    assert read_key(without(signer(kind).jwk, "alg")).algorithm == expected


def small_rsa() -> dict[str, Any]:
    public = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    return {**jwt.get_algorithm_by_name("RS256").to_jwk(public, as_dict=True), "kid": "small"}


def other_curve() -> dict[str, Any]:
    public = ec.generate_private_key(ec.SECP521R1()).public_key()
    return {**jwt.get_algorithm_by_name("ES512").to_jwk(public, as_dict=True), "kid": "p521"}


def with_private_part() -> dict[str, Any]:
    return {**jwt.get_algorithm_by_name("ES256").to_jwk(private_key("ES256"), as_dict=True), "kid": "leaked"}


UNUSABLE: dict[str, object] = {
    "no_object": "ec-key",
    "kid_missing": without(ES.jwk, "kid"),
    "kid_a_number": {**ES.jwk, "kid": 1},
    "for_encryption": {**RS.jwk, "use": "enc"},
    "use_a_number": {**RS.jwk, "use": 1},
    "for_signing_only": {**RS.jwk, "key_ops": ["sign"]},
    "key_ops_no_list": {**RS.jwk, "key_ops": "verify"},
    "alg_of_another_kind": {**RS.jwk, "alg": "ES256"},
    "alg_of_another_curve": {**ES.jwk, "alg": "ES384"},
    "alg_for_encryption": {**RS.jwk, "alg": "RSA-OAEP"},
    "alg_none": {**RS.jwk, "alg": "none"},
    "alg_hmac": {**RS.jwk, "alg": "HS256"},
    "alg_a_number": {**RS.jwk, "alg": 256},
    "private_leftover": {**RS.jwk, "dp": "AQAB"},
    "kty_missing": without(ES.jwk, "kty"),
    "symmetric": {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
    "symmetric_without_key": {"kty": "oct", "kid": "secret"},
    "ed448": {"kty": "OKP", "crv": "Ed448", "kid": "ed448", "x": "AA"},
    "curve_unknown": {**ES.jwk, "crv": "P-111"},
    "curve_a_list": {**ES.jwk, "crv": ["P-256"]},
    "point_not_on_curve": {**ES.jwk, "x": "A" * 43},
    "point_too_short": {**ES.jwk, "x": "AA"},
    "modulus_missing": without(RS.jwk, "n"),
    "modulus_a_number": {**RS.jwk, "n": 65537},
    "exponent_even": {**RS.jwk, "e": "Ag"},
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_key_that_is_not_for_this_is_left_out(case: str) -> None:
    """AUT-2: the others are used all the same."""
    with pytest.raises(UnusableKeyError):
        read_key(UNUSABLE[case])
    keys = read_key_set(json.dumps({"keys": [UNUSABLE[case], ES.jwk]}).encode())
    assert list(keys.keys) == ["ec-key"]
    assert len(keys.left_out) == 1


@pytest.mark.parametrize("make", [small_rsa, other_curve, with_private_part])
def test_a_weak_or_leaked_key_is_left_out(make: Any) -> None:
    """AUT-2: RSA below 2048 bits, other curves, and keys whose private part is published."""
    with pytest.raises(UnusableKeyError):
        read_key(make())


@pytest.mark.parametrize(
    "other",
    [
        signer("ES256", "same", label="other").jwk,
        signer("RS256", "same").jwk,
        signer("ES384", "same").jwk,
    ],
)
def test_a_kid_with_two_keys_is_unusable(other: dict[str, Any]) -> None:
    """AUT-2: nobody can say which of them the issuer means."""
    first = signer("ES256", "same").jwk
    for order in ([first, other], [other, first], [first, other, first]):
        assert read_key_set(json.dumps({"keys": [*order, RS.jwk]}).encode()).keys.keys() == {"rsa-key"}


def test_a_kid_with_two_algorithms_is_unusable() -> None:
    """AUT-2: not even if the key is the same."""
    document = {"keys": [signer("RS256", "same").jwk, signer("PS256", "same").jwk]}
    assert not read_key_set(json.dumps(document).encode()).keys


def test_a_key_listed_twice_is_one_key() -> None:
    """AUT-2: a harmless repetition."""
    assert read_key_set(json.dumps({"keys": [ES.jwk, ES.jwk]}).encode()).keys.keys() == {"ec-key"}


@pytest.mark.parametrize(
    "document", [b"", b"no json", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    """AUT-2: an error page does not become an empty set of keys."""
    with pytest.raises(KeySetError):
        read_key_set(document)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([ES.jwk, RS.jwk]), st.dictionaries(st.sampled_from([*ES.jwk, *RS.jwk, "key_ops"]), _json)
)
def test_any_member_may_be_anything(jwk: dict[str, Any], changes: dict[str, object]) -> None:
    """AUT-2: one odd key never keeps the others from being read."""
    try:
        key = read_key({**jwk, **changes})
    except UnusableKeyError:
        return
    assert key.algorithm in ("ES256", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
