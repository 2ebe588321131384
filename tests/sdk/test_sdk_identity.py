"""Tokens: given ones, the client credentials grant, and their lifetimes."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from fake_file_gateway import FakeGateway
from openshell_files import AsyncFilesClient, ClientCredentials, FilesClient, OidcAuth
from openshell_files.errors import CredentialsError, Unauthenticated
from openshell_files_protocol.limits import MIB
from sdk_flavours import Connect
from simple_issuer import SimpleIssuer, reply, simple_issuer


@pytest.fixture
def issuer() -> Iterator[SimpleIssuer]:
    with simple_issuer() as running:
        yield running


def test_token_is_asked_for_each_rpc(connect: Connect, gateway: FakeGateway) -> None:
    tokens = iter(["one", "two", "three"])
    files = connect(auth=OidcAuth(token=lambda: next(tokens)))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer one", "Bearer two"]


def test_refused_token_is_replaced_once(connect: Connect, gateway: FakeGateway) -> None:
    gateway.accepted_tokens = {"good"}
    tokens = iter(["stale", "good", "bad", "bad"])
    files = connect(auth=OidcAuth(token=lambda: next(tokens)))
    files.write_bytes("x", b"1")
    with pytest.raises(Unauthenticated) as caught:
        files.stat("x")
    assert caught.value.reason == "TOKEN_EXPIRED"


def test_fixed_token_is_not_tried_twice(connect: Connect, gateway: FakeGateway) -> None:
    gateway.accepted_tokens = set()
    with pytest.raises(Unauthenticated):
        connect(auth=OidcAuth("t")).write_bytes("x", b"1")
    assert len(gateway.calls) == 1


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_impossible_token_is_not_sent(connect: Connect, gateway: FakeGateway, token: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        connect(auth=OidcAuth(token)).stat("x")
    assert not token or token not in str(caught.value)
    assert gateway.calls == []


def test_failing_provider(connect: Connect) -> None:
    def fail() -> str:
        raise RuntimeError("vault is sealed")

    with pytest.raises(CredentialsError, match="vault is sealed"):
        connect(auth=OidcAuth(fail)).stat("x")


async def test_async_provider(gateway: FakeGateway) -> None:
    async def provide() -> str:
        await asyncio.sleep(0)
        return "async"

    async with AsyncFilesClient(gateway.address, auth=OidcAuth(provide)) as client:
        await client.sandbox("demo").write_bytes("x", b"1")
    assert gateway.tokens == ["Bearer async"]


def test_async_provider_in_the_blocking_client(gateway: FakeGateway) -> None:
    async def provide() -> str:
        return "never"

    with (
        FilesClient(gateway.address, auth=OidcAuth(provide)) as client,
        pytest.raises(CredentialsError, match="no str"),
    ):
        client.sandbox("demo").stat("x")


# Client credentials


def credentials(issuer: SimpleIssuer) -> ClientCredentials:
    return OidcAuth.client_credentials(issuer.url, "me", "s3cret", audience="gateway", scope="sandbox:write")


def test_grant(connect: Connect, gateway: FakeGateway, issuer: SimpleIssuer) -> None:
    files = connect(auth=credentials(issuer))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer token-1"] * 2
    assert issuer.discoveries == 1
    assert issuer.authorizations == [basic("me:s3cret")]
    assert issuer.forms == [
        {
            "grant_type": ["client_credentials"],
            "scope": ["sandbox:write"],
            "audience": ["gateway"],
        }
    ]


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


#: What the discovery document says: how the secret may be tried, in order.
SECRET_METHODS: dict[str, tuple[object, list[str]]] = {
    "nothing": (None, ["basic", "post"]),
    "empty": ([], ["basic", "post"]),
    "both": (["client_secret_post", "client_secret_basic"], ["basic", "post"]),
    "basic": (["client_secret_basic", "private_key_jwt"], ["basic"]),
    "post": (["client_secret_post"], ["post"]),
    "no list": ("client_secret_post", ["basic", "post"]),
}


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("case", SECRET_METHODS)
def test_how_the_secret_is_sent(connect: Connect, issuer: SimpleIssuer, case: str, status: int) -> None:
    """RFC 6749 §2.3.1: Basic first, each half form-encoded; the form where that is declared, or Basic is refused."""
    issuer.methods, expected = SECRET_METHODS[case]
    auth = ClientCredentials(issuer.url, "m:é", "s 3/+%")

    def refuse(request: BaseHTTPRequestHandler) -> bool:
        if request.command == "GET" or status == 200:
            return False
        reply(request, status, {"error": "invalid_client"})
        return True

    issuer.answer = refuse
    if status == 200:
        connect(auth=auth).write_bytes("x", b"1")
        expected = expected[:1]
    else:
        with pytest.raises(CredentialsError, match="invalid_client"):
            connect(auth=auth).stat("x")
    sent = [
        "basic" if header is not None else "post" if form.get("client_secret") == ["s 3/+%"] else "nothing"
        for header, form in zip(issuer.authorizations, issuer.forms, strict=True)
    ]
    assert sent == expected
    assert set(issuer.authorizations) <= {None, basic("m%3A%C3%A9:s+3%2F%2B%25")}


def test_other_refusals_are_final(connect: Connect, issuer: SimpleIssuer) -> None:
    """A secret is not sent twice where the client was recognised."""

    def refuse(request: BaseHTTPRequestHandler) -> bool:
        if request.command == "POST":
            reply(request, 400, {"error": "invalid_scope"})
        return request.command == "POST"

    issuer.answer = refuse
    with pytest.raises(CredentialsError, match="invalid_scope"):
        connect(auth=credentials(issuer)).stat("x")
    assert len(issuer.forms) == 1


#: Lifetimes as issuers write them, and whether a second call needs a new token.
LIFETIMES: dict[str, tuple[object, bool]] = {
    "absent": (None, False),
    "text": ("3600", False),
    "float": (3599.5, False),
    "text of a float": ("3599.5", False),
    "huge": (10**40, False),
    "beyond a float": (10**400, False),
    "shorter than the margin": (29, True),
    "one second as text": ("1", True),
}


@pytest.mark.parametrize("case", LIFETIMES)
def test_lifetimes(connect: Connect, gateway: FakeGateway, issuer: SimpleIssuer, case: str) -> None:
    """RFC 6749 §5.1: expires_in is recommended, not required."""
    issuer.lifetime, again = LIFETIMES[case]
    files = connect(auth=credentials(issuer))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer token-1", "Bearer token-2" if again else "Bearer token-1"]


@pytest.mark.parametrize("lifetime", [0, -5, "-5", "soon", "", True, [], {}, "nan", "inf", "1e999"])
def test_impossible_lifetimes(connect: Connect, issuer: SimpleIssuer, lifetime: object) -> None:
    issuer.lifetime = lifetime
    with pytest.raises(CredentialsError, match="expires_in"):
        connect(auth=credentials(issuer)).stat("x")


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER", None])
def test_token_types(connect: Connect, issuer: SimpleIssuer, kind: str | None) -> None:
    issuer.token = {"token_type": kind}
    connect(auth=credentials(issuer)).write_bytes("x", b"1")


@pytest.mark.parametrize("kind", ["DPoP", "mac", "", 1, ["Bearer"], "N_A\x1b[2J"])
def test_other_token_types(connect: Connect, issuer: SimpleIssuer, kind: object) -> None:
    issuer.token = {"token_type": kind}
    with pytest.raises(CredentialsError, match="only Bearer") as caught:
        connect(auth=credentials(issuer)).stat("x")
    assert "\x1b" not in str(caught.value)


#: Token endpoints to which no secret is sent.
@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost.evil/t", "http://127.1/t", "http://2130706433/t", "http://127.0.0.1@evil/t", "//evil/t",
     "http://127.0.0.1:99999/t", "http://[::1%25lo]/t", "http://127.0.0.1\\@evil/t", "https://evil /t", "ftp://x/t",
     "https://", "http://\uff4cocalhost/t", "https://u:p@x/t", "https://x/t#f"],
)  # fmt: skip
def test_dangerous_token_endpoints(connect: Connect, issuer: SimpleIssuer, endpoint: str) -> None:
    """The address that is checked is the one that is dialled, whatever the HTTP client would read in it."""

    def name_it(request: BaseHTTPRequestHandler) -> bool:
        reply(request, 200, {"issuer": issuer.url, "token_endpoint": endpoint})
        return True

    issuer.answer = name_it
    with pytest.raises(CredentialsError, match="URL"):
        connect(auth=credentials(issuer)).stat("x")
    assert issuer.forms == []


def test_short_lived_token_is_replaced(connect: Connect, gateway: FakeGateway, issuer: SimpleIssuer) -> None:
    """A token that lives no longer than the margin is used once."""
    issuer.lifetime = 29
    files = connect(auth=credentials(issuer))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer token-1", "Bearer token-2"]


def test_refused_token_is_fetched_anew(connect: Connect, gateway: FakeGateway, issuer: SimpleIssuer) -> None:
    gateway.accepted_tokens = {"token-2"}
    connect(auth=credentials(issuer)).write_bytes("x", b"1")
    assert gateway.tokens == ["Bearer token-1", "Bearer token-2"]


def test_single_flight(gateway: FakeGateway, issuer: SimpleIssuer) -> None:
    with FilesClient(gateway.address, auth=credentials(issuer)) as client:
        files = client.sandbox("demo")
        threads = [threading.Thread(target=files.write_bytes, args=(f"x{i}", b"1")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(issuer.forms) == 1
    assert len(gateway.files) == 8


async def test_single_flight_async(gateway: FakeGateway, issuer: SimpleIssuer) -> None:
    async with AsyncFilesClient(gateway.address, auth=credentials(issuer)) as client:
        files = client.sandbox("demo")
        await asyncio.gather(*(files.write_bytes(f"x{i}", b"1") for i in range(8)))
    assert len(issuer.forms) == 1


Answer = Callable[[SimpleIssuer, BaseHTTPRequestHandler], None]
BAD_ANSWERS: dict[str, tuple[str, Answer, str]] = {
    "redirect": (
        "POST",
        lambda issuer, r: reply(r, 307, {}, {"location": f"{issuer.url}/elsewhere"}),
        "status 307",
    ),
    "other issuer": (
        "GET",
        lambda issuer, r: reply(r, 200, {"issuer": "https://x", "token_endpoint": issuer.url}),
        "of issuer",
    ),
    "plain http": (
        "GET",
        lambda issuer, r: reply(
            r, 200, {"issuer": issuer.url, "token_endpoint": "http://issuer.example/token"}
        ),
        "https",
    ),
    "refused": ("POST", lambda _, r: reply(r, 401, {"error": "invalid_client"}), "invalid_client"),
    "no endpoint": ("GET", lambda issuer, r: reply(r, 200, {"issuer": issuer.url}), "no token endpoint"),
    "not json": ("GET", lambda _, r: reply(r, 200, b"<html>"), "not a JSON"),
    "no token": ("POST", lambda _, r: reply(r, 200, {"expires_in": 5}), "access_token"),
    "infinite": (
        "POST",
        lambda _, r: reply(r, 200, b'{"access_token": "t", "expires_in": NaN}'),
        "expires_in",
    ),
    "a list": ("POST", lambda _, r: reply(r, 200, [1]), "not a JSON object"),
    "deep": ("POST", lambda _, r: reply(r, 200, b"[" * 100_000), "not a JSON object"),
    "not text": ("POST", lambda _, r: reply(r, 200, b"\xff\xfe{"), "not a JSON object"),
    "code with an escape": (
        "POST",
        lambda _, r: reply(r, 403, {"error": "x\x1b[2J"}),
        "status 403$",
    ),
    "compressed": (
        "POST",
        lambda _, r: reply(r, 200, b"\x1f\x8b", {"content-encoding": "gzip"}),
        "not a JSON object",
    ),
    "no way for a secret": (
        "GET",
        lambda issuer, r: reply(
            r,
            200,
            {
                "issuer": issuer.url,
                "token_endpoint": issuer.url,
                "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            },
        ),
        "neither as client_secret_basic nor",
    ),
    "bad lifetime": (
        "POST",
        lambda _, r: reply(r, 200, b'{"access_token": "t", "expires_in": Infinity}'),
        "expires_in",
    ),
    "too large": ("GET", lambda _, r: reply(r, 200, b" " * (2 * MIB)), "too large"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers(connect: Connect, gateway: FakeGateway, issuer: SimpleIssuer, case: str) -> None:
    command, answer, words = BAD_ANSWERS[case]

    def bad(request: BaseHTTPRequestHandler) -> bool:
        if request.command != command:
            return False
        answer(issuer, request)
        return True

    issuer.answer = bad
    with pytest.raises(CredentialsError, match=words) as caught:
        connect(auth=credentials(issuer)).stat("x")
    assert "s3cret" not in repr(caught.value) + repr(credentials(issuer))
    assert gateway.calls == []


def test_issuer_that_is_away(connect: Connect) -> None:
    with pytest.raises(CredentialsError, match="cannot be reached"):
        connect(auth=ClientCredentials("http://127.0.0.1:1", "me", "s")).stat("x")
    with pytest.raises(CredentialsError, match="https"):
        connect(auth=ClientCredentials("http://issuer.example", "me", "s")).stat("x")
