"""AUT-3: the tokens that the gateway signs for supervisors."""

from __future__ import annotations

import json

import jwt
import pytest
from key_sources import Clock
from openshell_files_gateway.auth.principals import SandboxPrincipal
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer, SandboxTokenVerifier
from openshell_files_gateway.auth.tokens import read_header
from openshell_files_gateway.config.signing_key import SigningKey, generate_signing_key
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from token_forge import NOW, Signer, assert_leaks_nothing, token

SANDBOX = "0b8f7a52-6f0c-4b53-9d3b-6a2f5f3f3b11"
DAY = 86_400

KEY = generate_signing_key()
CLOCK = Clock(NOW)


def issuer(*, ttl: float = DAY, allow_no_expiry: bool = False) -> SandboxTokenIssuer:
    return SandboxTokenIssuer(KEY, gateway_id="test", ttl=ttl, allow_no_expiry=allow_no_expiry, clock=CLOCK)


def verifier(*keys: SigningKey, clock: Clock = CLOCK, allow_no_expiry: bool = False) -> SandboxTokenVerifier:
    return SandboxTokenVerifier(
        keys or (KEY,), gateway_id="test", allow_no_expiry=allow_no_expiry, clock=clock
    )


def verify(checker: SandboxTokenVerifier, text: str) -> SandboxPrincipal:
    header = read_header(text)
    assert checker.claims_header(header)
    return checker.verify(text, header)


def claims(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "iss": "openshell-gateway:test",
        "aud": "openshell-gateway:test",
        "sub": f"spiffe://openshell/sandbox/{SANDBOX}",
        "iat": NOW,
        "exp": NOW + DAY,
        "sandbox_id": SANDBOX,
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def forged(**changes: object) -> str:
    """A token that only somebody with the key can make, with the wrong claims."""
    return token(Signer(KEY.key_id, "EdDSA", KEY.private), claims(**changes))


def test_the_token_is_upstreams() -> None:
    """Facts 2.6: header and claims as OpenShell's own supervisors carry them."""
    minted = issuer().mint(SANDBOX)
    assert jwt.get_unverified_header(minted.token) == {"alg": "EdDSA", "kid": KEY.key_id, "typ": "JWT"}
    assert jwt.decode(minted.token, options={"verify_signature": False}) == claims()
    assert minted.expiry == NOW + DAY


def test_the_published_key_verifies_it() -> None:
    """Facts 2.6.7: anybody can check with the JWK set."""
    text = issuer().mint(SANDBOX).token
    (jwk,) = jwt.PyJWKSet.from_json(json.dumps(issuer().public_jwks)).keys
    assert jwk.key_id == KEY.key_id
    signed = jwt.PyJWS().decode(text, key=jwk.key, algorithms=["EdDSA"])
    assert json.loads(signed)["sandbox_id"] == SANDBOX


def test_it_is_for_one_sandbox() -> None:
    """AUT-3."""
    assert verify(verifier(), issuer().mint(SANDBOX).token) == SandboxPrincipal(SANDBOX)


@pytest.mark.parametrize("seconds", [1, 1.9, 3600, 30 * DAY])
def test_the_ttl_is_what_was_asked_for(seconds: float) -> None:
    assert issuer(ttl=5).mint(SANDBOX, seconds).expiry == NOW + int(seconds)
    assert issuer(ttl=seconds).mint(SANDBOX).expiry == NOW + int(seconds)


@pytest.mark.parametrize("seconds", [0, 0.5, -1, -DAY])
def test_a_token_for_ever_is_not_made_by_mistake(seconds: float) -> None:
    """Upstream's default is a token without an expiry; here it has to be allowed."""
    with pytest.raises(ValueError, match="no expiry"):
        issuer().mint(SANDBOX, seconds)
    with pytest.raises(ValueError, match="no expiry"):
        issuer(ttl=seconds)


def test_a_token_for_ever_where_it_is_allowed() -> None:
    minted = issuer(ttl=0, allow_no_expiry=True).mint(SANDBOX)
    assert minted.expiry is None
    assert verify(verifier(allow_no_expiry=True, clock=Clock(NOW * 2)), minted.token) == SandboxPrincipal(
        SANDBOX
    )
    with pytest.raises(TransferError) as caught:
        verify(verifier(), minted.token)
    assert caught.value.reason is Reason.TOKEN_EXPIRED


def test_a_token_without_a_sandbox_is_not_made() -> None:
    with pytest.raises(ValueError, match="sandbox"):
        issuer().mint("")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "openshell-gateway:other", "aud": "openshell-gateway:other"}, Reason.TOKEN_WRONG_ISSUER),
        ({"iss": "https://issuer.example"}, Reason.TOKEN_WRONG_ISSUER),
        ({"aud": "openshell-cli"}, Reason.TOKEN_WRONG_AUDIENCE),
        ({"exp": NOW - 60}, Reason.TOKEN_EXPIRED),
        ({"exp": 0}, Reason.TOKEN_EXPIRED),
        ({"exp": None}, Reason.TOKEN_CLAIM_INVALID),
        ({"iat": NOW + 61}, Reason.TOKEN_NOT_YET_VALID),
        ({"sandbox_id": None}, Reason.TOKEN_CLAIM_INVALID),
        ({"sandbox_id": ""}, Reason.TOKEN_CLAIM_INVALID),
        ({"sandbox_id": 7}, Reason.TOKEN_CLAIM_INVALID),
        ({"sandbox_id": "some-other-sandbox"}, Reason.TOKEN_CLAIM_INVALID),
        ({"sub": None}, Reason.TOKEN_CLAIM_INVALID),
        ({"sub": SANDBOX}, Reason.TOKEN_CLAIM_INVALID),
        ({"sub": f"spiffe://elsewhere/sandbox/{SANDBOX}"}, Reason.TOKEN_CLAIM_INVALID),
        ({"sub": f"spiffe://openshell/sandbox/{SANDBOX}/x"}, Reason.TOKEN_CLAIM_INVALID),
    ],
)
def test_claims_that_contradict_are_refused(changes: dict[str, object], reason: Reason) -> None:
    """AUT-3: `sub` and `sandbox_id` must agree, which upstream does not check."""
    text = forged(**changes)
    with pytest.raises(TransferError) as caught:
        verify(verifier(), text)
    assert caught.value.reason is reason
    assert SANDBOX not in caught.value.message
    if "sandbox_id" in changes or "sub" in changes:
        assert_leaks_nothing(caught.value, text)


def test_another_key_with_the_same_id_is_refused() -> None:
    text = token(Signer(KEY.key_id, "EdDSA", generate_signing_key().private), claims())
    with pytest.raises(TransferError) as caught:
        verify(verifier(), text)
    assert caught.value.reason is Reason.TOKEN_BAD_SIGNATURE


def test_other_keys_and_algorithms_are_not_judged_here() -> None:
    """Facts 2.6.4: they fall through to the issuer."""
    checker = verifier()
    assert not checker.claims_header(read_header(token(Signer("another", "EdDSA", KEY.private), claims())))
    assert not checker.claims_header(
        read_header(token(Signer(KEY.key_id, "EdDSA", KEY.private), claims(), {"alg": "ES256"}))
    )


def test_a_token_expires_although_it_was_verified() -> None:
    clock = Clock(NOW)
    checker = verifier(clock=clock)
    text = issuer(ttl=10).mint(SANDBOX).token
    for _ in range(2):
        assert verify(checker, text) == SandboxPrincipal(SANDBOX)
    clock.now += 70
    with pytest.raises(TransferError) as caught:
        verify(checker, text)
    assert caught.value.reason is Reason.TOKEN_EXPIRED


def test_keys_can_be_changed_without_locking_supervisors_out() -> None:
    """While the old key is still listed, its tokens are accepted."""
    replacement = generate_signing_key()
    old = issuer().mint(SANDBOX).token
    new = SandboxTokenIssuer(replacement, gateway_id="test", clock=CLOCK).mint(SANDBOX).token
    both = verifier(replacement, KEY)
    assert verify(both, old) == verify(both, new)
    assert not verifier(replacement).claims_header(read_header(old))
