"""AUT-2: fetching an issuer's documents, and everything that may answer in its place."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme
from openshell_files_gateway.auth.oidc.issuer_documents import IssuerDocumentError, IssuerDocuments
from openshell_files_gateway.config.tables import OidcSettings
from recording_proxy import EXCEPTIONS, VARIABLES, recording_proxy
from scripted_issuer import DISCOVERY, JWKS, Reply, ScriptedIssuer
from token_forge import signer

KEY = signer("ES256", "the-key")


@pytest.fixture
async def issuer() -> AsyncIterator[ScriptedIssuer]:
    async with ScriptedIssuer(KEY) as running:
        yield running


async def fetch(running: ScriptedIssuer, **changes: object) -> list[str]:
    settings = {"issuer": running.issuer, "dangerously_allow_insecure_http": True, **changes}
    documents = IssuerDocuments(OidcSettings.model_validate(settings))
    try:
        return list((await documents.fetch()).keys)
    finally:
        await documents.aclose()


async def refusal(running: ScriptedIssuer, **changes: object) -> str:
    with pytest.raises(IssuerDocumentError) as caught:
        await fetch(running, **changes)
    return str(caught.value)


@pytest.mark.parametrize("variable", VARIABLES)
async def test_a_proxy_is_not_asked_for_plain_documents(
    issuer: ScriptedIssuer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """What a proxy answered in clear would be keys: nobody would notice that they are its own."""
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    with recording_proxy() as proxy:
        for name, value in proxy.variables(variable).items():
            monkeypatch.setenv(name, value)
        assert await fetch(issuer) == ["the-key"]
    assert proxy.connections == 0


async def test_plain_keys_of_an_issuer_elsewhere(
    issuer: ScriptedIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration comes through the proxy by TLS, keys on loopback never do."""
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    with recording_proxy() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        assert "cannot fetch" in await refusal(
            issuer, issuer="https://issuer.example", jwks_allowed_origins=[issuer.issuer]
        )
        assert proxy.received[0].startswith(b"CONNECT issuer.example:443 ")


async def test_keys_are_found_by_discovery(issuer: ScriptedIssuer) -> None:
    assert await fetch(issuer) == ["the-key"]
    assert issuer.requests == {DISCOVERY: 1, JWKS: 1}


async def test_a_slash_at_the_end_of_the_issuer_does_not_matter(issuer: ScriptedIssuer) -> None:
    """Issuers differ from their configuration in it; tokens must match to the letter all the same."""
    assert await fetch(issuer, issuer=issuer.issuer + "/") == ["the-key"]
    issuer.configure(issuer=issuer.issuer + "/")
    assert await fetch(issuer) == ["the-key"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/jwk-set+json"]
)
async def test_json_types_are_accepted(issuer: ScriptedIssuer, kind: str) -> None:
    issuer.replies[JWKS].headers = {"content-type": kind}
    assert await fetch(issuer) == ["the-key"]


HONEST = json.dumps({"keys": [KEY.jwk]}).encode()

BROKEN: dict[str, tuple[Callable[[], Reply], str]] = {
    "redirect": (lambda: Reply(b"", 302, {"location": "/elsewhere"}), "redirect"),
    "permanent_redirect": (lambda: Reply(b"", 308, {"location": "https://attacker.example/"}), "redirect"),
    "missing": (lambda: Reply(b"{}", 404), "404"),
    "failing": (lambda: Reply(HONEST, 503), "503"),
    "no_content": (lambda: Reply(b"", 204), "204"),
    "html": (lambda: Reply(HONEST, headers={"content-type": "text/html"}), "content type"),
    "no_type": (lambda: Reply(HONEST, headers={"content-type": None}), "content type"),
    "packed": (lambda: Reply(gzip.compress(HONEST), headers={"content-encoding": "gzip"}), "compressed"),
    "cut_off": (lambda: Reply(HONEST, headers={"content-length": "100000"}), "cannot fetch"),
    "endless": (lambda: Reply(b" " * 65536, endless=True), "larger"),
    "no_json": (lambda: Reply(b"<html>"), "JSON"),
    "a_list": (lambda: Reply(b"[]"), ""),
}


@pytest.mark.parametrize("path", [DISCOVERY, JWKS])
@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_document_is_refused(issuer: ScriptedIssuer, path: str, case: str) -> None:
    make, words = BROKEN[case]
    issuer.replies[path] = make()
    assert words in await refusal(issuer)
    assert set(issuer.requests) <= {DISCOVERY, JWKS}


@pytest.mark.parametrize(("path", "limit"), [(DISCOVERY, 64 * 1024), (JWKS, 1024 * 1024)])
async def test_a_document_may_have_its_size_and_no_more(
    issuer: ScriptedIssuer, path: str, limit: int
) -> None:
    body = issuer.replies[path].body
    issuer.replies[path].body = body + b" " * (limit - len(body))
    assert await fetch(issuer) == ["the-key"]
    issuer.replies[path].body += b" "
    assert f"larger than {limit} bytes" in await refusal(issuer)


async def test_another_issuers_configuration_is_refused(issuer: ScriptedIssuer) -> None:
    issuer.configure(issuer="https://attacker.example")
    assert "another issuer" in await refusal(issuer)
    issuer.configure(issuer=None)
    assert "another issuer" in await refusal(issuer)
    assert JWKS not in issuer.requests


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://attacker.example/jwks", "origin"),
        ("http://attacker.example/jwks", "not https"),
        ("http://localhost:1/jwks", "not https"),
        ("file:///etc/passwd", "no host"),
        ("/jwks", "no host"),
        (None, "no jwks_uri"),
        (7, "no jwks_uri"),
    ],
)
async def test_keys_from_elsewhere_are_refused(issuer: ScriptedIssuer, address: object, words: str) -> None:
    issuer.configure(jwks_uri=address)
    assert words in await refusal(issuer)
    assert JWKS not in issuer.requests


async def test_keys_of_another_port_need_to_be_allowed(issuer: ScriptedIssuer) -> None:
    async with ScriptedIssuer(signer("ES256", "other-key", label="other")) as other:
        issuer.configure(jwks_uri=other.issuer + JWKS)
        assert "origin" in await refusal(issuer)
        assert not other.requests
        assert await fetch(issuer, jwks_allowed_origins=[other.issuer]) == ["other-key"]


async def test_an_issuer_that_is_slow_in_all_is_given_up(issuer: ScriptedIssuer) -> None:
    """The limit holds for both documents together, however many bytes trickle in."""
    issuer.replies[JWKS].gate = asyncio.Event()
    assert "longer than" in await refusal(issuer, fetch_timeout=0.2)


async def test_an_issuer_that_is_down_is_an_outage() -> None:
    async with ScriptedIssuer(KEY) as gone:
        pass
    assert "cannot fetch" in await refusal(gone)


async def test_https_is_verified_against_the_configured_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    right, wrong, chain = (tmp_path / f"{name}.pem" for name in ("right", "wrong", "chain"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    server.load_cert_chain(chain)
    authority.cert_pem.write_to_path(str(right))
    trustme.CA().cert_pem.write_to_path(str(wrong))
    async with ScriptedIssuer(KEY, tls=server) as issuer:
        secure = {"dangerously_allow_insecure_http": False}
        assert await fetch(issuer, ca_file=right, **secure) == ["the-key"]
        assert "cannot fetch" in await refusal(issuer, ca_file=wrong, **secure)
        assert "cannot fetch" in await refusal(issuer, **secure)
        assert "certificates" in await refusal(issuer, ca_file=tmp_path / "missing.pem", **secure)
