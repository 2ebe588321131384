"""AUT-2: the claims of a token whose signature is right."""

from __future__ import annotations

import math
from typing import TypeGuard

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.auth.claims import ClaimRules, check_claims, read_roles, read_scopes
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from token_forge import AUDIENCE, ISSUER, NOW, honest_claims

RULES = ClaimRules(ISSUER, AUDIENCE, leeway=60)


@pytest.mark.parametrize("exp", [NOW - 59, NOW, NOW + 1, float(NOW) - 59.5, 253_402_300_799])
def test_leeway_is_given_on_expiry(exp: float) -> None:
    """AUT-2: expiry counts the configured leeway."""
    assert check_claims(honest_claims(exp=exp), RULES, NOW).expires_at == exp + 60


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_leeway_is_given_on_the_beginning(claim: str) -> None:
    """AUT-2: a clock that is ahead by the leeway is tolerated."""
    check_claims(honest_claims(**{claim: NOW + 60}), RULES, NOW)
    with pytest.raises(TransferError) as caught:
        check_claims(honest_claims(**{claim: NOW + 61}), RULES, NOW)
    assert caught.value.reason is Reason.TOKEN_NOT_YET_VALID


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_the_beginning_may_be_left_out(claim: str) -> None:
    """AUT-2: RFC 7519 asks for neither."""
    check_claims(honest_claims(**{claim: None}), RULES, NOW)


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["account", AUDIENCE]])
def test_the_audience_may_be_one_of_several(audience: object) -> None:
    """AUT-2: RFC 7519 §4.1.3."""
    assert check_claims(honest_claims(aud=audience), RULES, NOW).subject == "alice-subject"


def test_never_expiring_is_only_for_those_who_allow_it() -> None:
    """AUT-3: upstream's `exp` 0."""
    rules = ClaimRules(ISSUER, AUDIENCE, leeway=60, zero_never_expires=True)
    assert check_claims(honest_claims(exp=0), rules, NOW).expires_at == math.inf
    with pytest.raises(TransferError, match="TOKEN_EXPIRED"):
        check_claims(honest_claims(exp=1), rules, NOW)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("iss", "aud", "sub", "exp", "nbf", "iat"), _json)))
def test_any_claims_are_refused_in_order(claims: dict[str, object]) -> None:
    """AUT-2: whatever was signed, the answer is a row of the table."""
    with pytest.raises(TransferError) as caught:
        check_claims(claims, RULES, NOW)
    assert caught.value.reason in (Reason.TOKEN_CLAIM_INVALID, Reason.TOKEN_WRONG_ISSUER)


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


_times = _json | st.integers(NOW - 100, NOW + 100) | st.floats(NOW - 100, NOW + 100)


@given(_times, _times)
def test_odd_times_of_an_honest_issuer_are_refused_in_order(exp: object, nbf: object) -> None:
    """AUT-2: numbers of any size and kind."""
    claims = {**honest_claims(), "exp": exp, "nbf": nbf}
    if is_number(exp) and NOW - 60 < exp <= 253_402_300_799 and is_number(nbf) and 0 <= nbf <= NOW + 60:
        check_claims(claims, RULES, NOW)
        return
    with pytest.raises(TransferError) as caught:
        check_claims(claims, RULES, NOW)
    assert caught.value.reason in (
        Reason.TOKEN_CLAIM_INVALID,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_NOT_YET_VALID,
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("realm_access.roles", {"a", "b"}),
        ("groups", {"c"}),
        ("realm_access", set[str]()),
        ("realm_access.roles.deeper", set[str]()),
        ("nothing.there", set[str]()),
        ("text", set[str]()),
    ],
)
def test_roles_are_read_at_their_path(path: str, expected: set[str]) -> None:
    """AUT-4: a list, of which only strings count."""
    claims: dict[str, object] = {
        "realm_access": {"roles": ["a", 7, None, "b", ["c"]]},
        "groups": ["c"],
        "text": "a b",
    }
    assert read_roles(claims, path) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("openid sandbox:write  sandbox:read offline_access", {"sandbox:write", "sandbox:read"}),
        (["sandbox:write", 7, "profile", "email"], {"sandbox:write"}),
        (None, set[str]()),
        (7, set[str]()),
        ({"sandbox:write": True}, set[str]()),
    ],
)
def test_scopes_are_words_or_a_list(value: object, expected: set[str]) -> None:
    """AUT-11: OpenID's own scopes are left out."""
    assert read_scopes({"scope": value}, "scope") == expected
    assert read_scopes({"outer": {"scope": value}}, "outer.scope") == expected
