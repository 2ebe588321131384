"""AUT-2: what is refused, for which reason, and what the refusal gives away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from key_sources import Clock, ScriptedSource
from openshell_files_gateway.auth.authenticator import Authenticator
from openshell_files_gateway.auth.oidc.jwks import JwksCache
from openshell_files_gateway.auth.oidc.user_tokens import UserTokenVerifier
from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenVerifier
from openshell_files_gateway.auth.tokens import MAX_TOKEN_BYTES, read_header
from openshell_files_gateway.config.signing_key import generate_signing_key
from openshell_files_gateway.config.tables import OidcSettings
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from token_forge import (
    AUDIENCE,
    ISSUER,
    NOW,
    assemble,
    assert_leaks_nothing,
    encode,
    hmac_sha256,
    honest_claims,
    signer,
    token,
)

ES = signer("ES256", "ec-key")
RS = signer("RS256", "rsa-key")
#: Has the kid of a published key, and is another.
IMPOSTOR = signer("ES256", "ec-key", label="impostor")
UNPUBLISHED = signer("ES256", "no-such-key-anywhere")

LEEWAY = 60


def changed(**changes: object) -> str:
    return token(ES, honest_claims(**changes))


def with_header(**members: object) -> str:
    return token(ES, header=members)


def tampered() -> str:
    head, body, signature = token(ES).split(".")
    other = encode(json.dumps(honest_claims(sub="mallory-subject")).encode())
    assert other != body
    return f"{head}.{other}.{signature}"


def endless_exp() -> str:
    payload = json.dumps(honest_claims(exp=NOW + 300)).replace(str(NOW + 300), "1e999")
    return token(ES, payload.encode())


def spare_bits() -> str:
    """The same signature, written with other bits behind its end."""
    text = token(ES)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(text[-1])
    assert last % 16 == 0
    return text[:-1] + alphabet[last + 1]


def encrypted() -> str:
    return ".".join([encode(b'{"alg":"RSA-OAEP","enc":"A256GCM"}'), *(encode(b"part") for _ in range(4))])


def twice(member: bytes, again: bytes) -> bytes:
    return json.dumps(honest_claims()).encode().replace(b"{", b"{" + member + b"," + again + b",", 1)


HOSTILE: dict[str, tuple[Callable[[], str], Reason]] = {
    # No JWT at all
    "opaque": (lambda: "2YotnFZFEjr1zCsicMWpAA", Reason.TOKEN_MALFORMED),
    "garbage": (lambda: "!!!!.????.####", Reason.TOKEN_MALFORMED),
    "not_ascii": (lambda: "tökén.tökén.tökén", Reason.TOKEN_MALFORMED),
    "space_in_front": (lambda: " " + token(ES), Reason.TOKEN_MALFORMED),
    "newline_behind": (lambda: token(ES) + "\n", Reason.TOKEN_MALFORMED),
    "two_parts": (lambda: token(ES).rpartition(".")[0], Reason.TOKEN_MALFORMED),
    "four_parts": (lambda: token(ES) + ".YWJj", Reason.TOKEN_MALFORMED),
    "encrypted": (encrypted, Reason.TOKEN_MALFORMED),
    "huge": (lambda: token(ES, honest_claims(padding="x" * 16384)), Reason.TOKEN_MALFORMED),
    "padded_parts": (lambda: token(ES) + "=", Reason.TOKEN_MALFORMED),
    "header_bad_length": (lambda: "abcde." + token(ES).partition(".")[2], Reason.TOKEN_MALFORMED),
    "header_no_json": (lambda: assemble(b"no json here", b"{}", ES.sign), Reason.TOKEN_MALFORMED),
    "header_a_list": (lambda: assemble(b'["ES256"]', b"{}", ES.sign), Reason.TOKEN_MALFORMED),
    "header_nested_deep": (lambda: assemble(b"[" * 9000, b"{}", ES.sign), Reason.TOKEN_MALFORMED),
    "header_not_utf8": (lambda: assemble(b'{"alg":"\xff\xfe"}', b"{}", ES.sign), Reason.TOKEN_MALFORMED),
    "header_alg_twice": (
        lambda: assemble(b'{"alg":"none","alg":"ES256","kid":"ec-key"}', b"{}", ES.sign),
        Reason.TOKEN_MALFORMED,
    ),
    # Headers that demand something
    "crit": (lambda: with_header(crit=["exp"]), Reason.TOKEN_MALFORMED),
    "crit_empty": (lambda: with_header(crit=[]), Reason.TOKEN_MALFORMED),
    "crit_and_unknown_key": (lambda: token(UNPUBLISHED, header={"crit": ["x"]}), Reason.TOKEN_MALFORMED),
    "b64_and_unknown_key": (lambda: token(UNPUBLISHED, header={"b64": False}), Reason.TOKEN_MALFORMED),
    "b64_false": (lambda: with_header(b64=False), Reason.TOKEN_MALFORMED),
    "kid_missing": (lambda: with_header(kid=None), Reason.TOKEN_MALFORMED),
    "kid_a_number": (lambda: with_header(kid=7), Reason.TOKEN_MALFORMED),
    "kid_a_list": (lambda: with_header(kid=["ec-key"]), Reason.TOKEN_MALFORMED),
    "type_of_extension": (lambda: with_header(typ="openshell-ext+jwt"), Reason.TOKEN_MALFORMED),
    "type_of_logout": (lambda: with_header(typ="logout+jwt"), Reason.TOKEN_MALFORMED),
    "type_a_number": (lambda: with_header(typ=1), Reason.TOKEN_MALFORMED),
    # Algorithms
    "alg_missing": (lambda: with_header(alg=None), Reason.TOKEN_MALFORMED),
    "alg_none_unsigned": (
        lambda: token(ES, header={"alg": "none"}, sign=lambda _: b""),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "alg_none_odd_case": (
        lambda: token(ES, header={"alg": "nOnE"}, sign=lambda _: b""),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "alg_none_without_kid": (
        lambda: token(ES, header={"alg": "none", "kid": None}, sign=lambda _: b""),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "hs256_with_public_pem": (
        lambda: token(RS, header={"alg": "HS256"}, sign=hmac_sha256(RS.pem)),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "hs256_with_public_jwk": (
        lambda: token(RS, header={"alg": "HS256"}, sign=hmac_sha256(json.dumps(RS.jwk).encode())),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "es512": (lambda: with_header(alg="ES512"), Reason.TOKEN_BAD_ALGORITHM),
    "ps256_on_rs256_key": (
        lambda: token(signer("PS256", "rsa-key")),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "rs512_on_rs256_key": (lambda: token(signer("RS512", "rsa-key")), Reason.TOKEN_BAD_ALGORITHM),
    "es256_on_rsa_key": (lambda: token(signer("ES256", "rsa-key")), Reason.TOKEN_BAD_ALGORITHM),
    "eddsa_on_ec_key": (lambda: token(signer("EdDSA", "ec-key")), Reason.TOKEN_BAD_ALGORITHM),
    # Keys
    "unknown_key": (lambda: token(UNPUBLISHED), Reason.TOKEN_UNKNOWN_KEY),
    "absurd_kid": (
        lambda: with_header(kid="../../etc/passwd\u0000' OR 1=1 --" * 20),
        Reason.TOKEN_UNKNOWN_KEY,
    ),
    "empty_kid": (lambda: with_header(kid=""), Reason.TOKEN_UNKNOWN_KEY),
    "embedded_jwk": (
        lambda: token(UNPUBLISHED, header={"jwk": UNPUBLISHED.jwk}),
        Reason.TOKEN_UNKNOWN_KEY,
    ),
    "embedded_jwk_with_published_kid": (
        lambda: token(IMPOSTOR, header={"jwk": IMPOSTOR.jwk}),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "jku_elsewhere": (
        lambda: token(IMPOSTOR, header={"jku": "https://attacker.example/jwks"}),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "x5u_elsewhere": (
        lambda: token(IMPOSTOR, header={"x5u": "https://attacker.example/certificate"}),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    # Signatures, which are checked before any claim
    "other_key": (lambda: token(IMPOSTOR), Reason.TOKEN_BAD_SIGNATURE),
    "tampered": (tampered, Reason.TOKEN_BAD_SIGNATURE),
    "signature_truncated": (
        lambda: token(ES, sign=lambda data: ES.sign(data)[:-3]),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "signature_empty": (lambda: token(ES, sign=lambda _: b""), Reason.TOKEN_BAD_SIGNATURE),
    "signature_all_zero": (lambda: token(ES, sign=lambda _: bytes(64)), Reason.TOKEN_BAD_SIGNATURE),
    "signature_spare_bits": (spare_bits, Reason.TOKEN_MALFORMED),
    "signature_bad_and_expired": (
        lambda: token(IMPOSTOR, honest_claims(exp=1)),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "signature_bad_and_wrong_audience": (
        lambda: token(IMPOSTOR, honest_claims(aud="somebody-else")),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "signature_bad_and_no_claims": (lambda: token(IMPOSTOR, b"no json here"), Reason.TOKEN_BAD_SIGNATURE),
    # Claims
    "payload_no_json": (lambda: token(ES, b"no json here"), Reason.TOKEN_MALFORMED),
    "payload_a_list": (lambda: token(ES, b"[1,2,3]"), Reason.TOKEN_MALFORMED),
    "payload_with_nan": (lambda: token(ES, b'{"exp":NaN}'), Reason.TOKEN_MALFORMED),
    "payload_with_endless_number": (
        lambda: token(ES, b'{"exp":' + b"9" * 9000 + b"}"),
        Reason.TOKEN_MALFORMED,
    ),
    "payload_claim_twice": (lambda: token(ES, twice(b'"sub":"mallory"', b'"x":1')), Reason.TOKEN_MALFORMED),
    "expired": (lambda: changed(exp=NOW - LEEWAY - 1), Reason.TOKEN_EXPIRED),
    "expired_just_now": (lambda: changed(exp=NOW - LEEWAY), Reason.TOKEN_EXPIRED),
    "expires_never": (lambda: changed(exp=0), Reason.TOKEN_EXPIRED),
    "nbf_ahead": (lambda: changed(nbf=NOW + LEEWAY + 1), Reason.TOKEN_NOT_YET_VALID),
    "iat_ahead": (lambda: changed(iat=NOW + LEEWAY + 1), Reason.TOKEN_NOT_YET_VALID),
    "wrong_audience": (lambda: changed(aud="somebody-else"), Reason.TOKEN_WRONG_AUDIENCE),
    "wrong_audiences": (lambda: changed(aud=["somebody-else", "account"]), Reason.TOKEN_WRONG_AUDIENCE),
    "audience_as_part": (lambda: changed(aud=AUDIENCE + "-staging"), Reason.TOKEN_WRONG_AUDIENCE),
    "audience_as_word": (lambda: changed(aud=f"account {AUDIENCE}"), Reason.TOKEN_WRONG_AUDIENCE),
    "wrong_issuer": (lambda: changed(iss="https://attacker.example"), Reason.TOKEN_WRONG_ISSUER),
    "issuer_with_slash": (lambda: changed(iss=ISSUER + "/"), Reason.TOKEN_WRONG_ISSUER),
    "issuer_in_capitals": (lambda: changed(iss=ISSUER.upper()), Reason.TOKEN_WRONG_ISSUER),
    "exp_missing": (lambda: changed(exp=None), Reason.TOKEN_CLAIM_INVALID),
    "sub_missing": (lambda: changed(sub=None), Reason.TOKEN_CLAIM_INVALID),
    "aud_missing": (lambda: changed(aud=None), Reason.TOKEN_CLAIM_INVALID),
    "iss_missing": (lambda: changed(iss=None), Reason.TOKEN_CLAIM_INVALID),
    "exp_a_string": (lambda: changed(exp=str(NOW + 300)), Reason.TOKEN_CLAIM_INVALID),
    "exp_true": (lambda: changed(exp=True), Reason.TOKEN_CLAIM_INVALID),
    "exp_negative": (lambda: changed(exp=-1), Reason.TOKEN_CLAIM_INVALID),
    "exp_in_milliseconds": (lambda: changed(exp=(NOW + 300) * 1000), Reason.TOKEN_CLAIM_INVALID),
    "exp_beyond_floats": (endless_exp, Reason.TOKEN_CLAIM_INVALID),
    "nbf_a_string": (lambda: changed(nbf="soon"), Reason.TOKEN_CLAIM_INVALID),
    "iat_a_list": (lambda: changed(iat=[NOW]), Reason.TOKEN_CLAIM_INVALID),
    "sub_empty": (lambda: changed(sub=""), Reason.TOKEN_CLAIM_INVALID),
    "sub_with_newline": (lambda: changed(sub="alice\nadmin"), Reason.TOKEN_CLAIM_INVALID),
    "sub_no_unicode": (lambda: changed(sub="alice\ud800"), Reason.TOKEN_CLAIM_INVALID),
    "sub_a_number": (lambda: changed(sub=1000), Reason.TOKEN_CLAIM_INVALID),
    "aud_empty": (lambda: changed(aud=[]), Reason.TOKEN_CLAIM_INVALID),
    "aud_not_only_strings": (lambda: changed(aud=[AUDIENCE, 7]), Reason.TOKEN_CLAIM_INVALID),
    "aud_an_object": (lambda: changed(aud={AUDIENCE: True}), Reason.TOKEN_CLAIM_INVALID),
    "iss_a_list": (lambda: changed(iss=[ISSUER]), Reason.TOKEN_CLAIM_INVALID),
}


@pytest.fixture
async def authenticator() -> Authenticator:
    clock = Clock(NOW)
    settings = OidcSettings(issuer=ISSUER, audience=AUDIENCE, leeway=LEEWAY)
    return Authenticator(
        sandboxes=SandboxTokenVerifier([generate_signing_key()], gateway_id="openshell", clock=clock),
        users=UserTokenVerifier(
            settings, JwksCache(settings, source=ScriptedSource(ES, RS), clock=Clock()), clock=clock
        ),
    )


async def refusal_of(authenticator: Authenticator, authorization: list[str]) -> TransferError:
    with pytest.raises(TransferError) as caught:
        await authenticator.authenticate(authorization)
    return caught.value


async def test_an_honest_token_is_accepted(authenticator: Authenticator) -> None:
    """AUT-2: the table below would prove nothing if everything were refused."""
    user = await authenticator.authenticate([f"Bearer {token(ES)}"])
    assert getattr(user, "subject", None) == "alice-subject"
    assert await authenticator.authenticate([f"Bearer {token(RS)}"]) == user


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_token_is_refused_for_its_reason(authenticator: Authenticator, case: str) -> None:
    """AUT-2, AUT-9: the reason is that of the check that failed, and the message repeats nothing of the token."""
    make, reason = HOSTILE[case]
    text = make()
    error = await refusal_of(authenticator, [f"Bearer {text}"])
    assert error.reason is reason, error
    assert_leaks_nothing(error, text)


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_token_is_refused_again(authenticator: Authenticator, case: str) -> None:
    """AUT-2: that a token was seen before does not make it better."""
    make, _ = HOSTILE[case]
    text = make()
    first = await refusal_of(authenticator, [f"Bearer {text}"])
    second = await refusal_of(authenticator, [f"Bearer {text}"])
    assert first.reason is second.reason


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aud": "somebody-else"}, AUDIENCE),
        ({"iss": "https://attacker.example"}, ISSUER),
        ({"sub": None}, "'sub'"),
        ({"exp": 1}, "2026-01-01T00:00:00Z"),
    ],
)
async def test_a_refusal_names_what_was_expected(
    authenticator: Authenticator, changes: dict[str, Any], expected: str
) -> None:
    """AUT-9: the message names the check and what would have passed."""
    error = await refusal_of(authenticator, [f"Bearer {changed(**changes)}"])
    assert expected in error.message


def test_the_largest_token_is_read_and_a_larger_one_is_not() -> None:
    """AUT-2: the limit is the last size that is read."""
    largest = token(ES).ljust(MAX_TOKEN_BYTES, "A")
    assert read_header(largest).algorithm == "ES256"
    with pytest.raises(TransferError, match="larger"):
        read_header(largest + "A")


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ([], Reason.TOKEN_MISSING),
        ([""], Reason.TOKEN_MISSING),
        (["Bearer"], Reason.TOKEN_MISSING),
        (["Bearer "], Reason.TOKEN_MISSING),
        (["Basic dXNlcjpwYXNzd29yZA=="], Reason.TOKEN_MISSING),
        (["bearer {token}"], Reason.TOKEN_MISSING),
        (["BEARER {token}"], Reason.TOKEN_MISSING),
        (["{token}"], Reason.TOKEN_MISSING),
        (["Bearer\t{token}"], Reason.TOKEN_MISSING),
        (["Bearer  {token}"], Reason.TOKEN_MALFORMED),
        (["Bearer {token}", "Bearer {token}"], Reason.TOKEN_MALFORMED),
        (["Bearer {token}", "Basic dXNlcjpwYXNzd29yZA=="], Reason.TOKEN_MALFORMED),
        (["Bearer {token}, Bearer {token}"], Reason.TOKEN_MALFORMED),
    ],
)
async def test_exactly_one_bearer_token_is_taken(
    authenticator: Authenticator, authorization: list[str], reason: Reason
) -> None:
    """AUT-1: one value, written `Bearer` and one space, as upstream's gateway wants it."""
    text = token(ES)
    error = await refusal_of(authenticator, [value.replace("{token}", text) for value in authorization])
    assert error.reason is reason
    assert_leaks_nothing(error, text)
