"""Tokens: whose they are, when they are fetched, and where they never go."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import grpc
import pytest
import trustme
from fake_file_gateway import FakeGateway
from openshell_files import AsyncFilesClient, ClientCredentials, FilesClient, OidcAuth, TlsConfig
from openshell_files.errors import CredentialsError, Unauthenticated
from openshell_files_protocol.limits import MIB
from sdk_flavours import Connect


class FakeIssuer:
    """An identity provider that gives numbered tokens."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.discoveries = 0
        self.lifetime: Any = 3600
        self.answer: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
        self.url = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", "0")))
        if request.command == "POST":
            self.forms.append(parse_qs(body.decode()))
        if self.answer(request):
            return
        if request.command == "GET":
            self.discoveries += 1
            reply(request, 200, {"issuer": self.url, "token_endpoint": f"{self.url}/token"})
        else:
            reply(request, 200, {"access_token": f"token-{len(self.forms)}", "expires_in": self.lifetime})


def reply(
    request: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    fake = FakeIssuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.handle(self)

        def do_POST(self) -> None:
            fake.handle(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


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


def credentials(issuer: FakeIssuer) -> ClientCredentials:
    return OidcAuth.client_credentials(issuer.url, "me", "s3cret", audience="gateway", scope="sandbox:write")


def test_grant(connect: Connect, gateway: FakeGateway, issuer: FakeIssuer) -> None:
    files = connect(auth=credentials(issuer))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer token-1"] * 2
    assert issuer.discoveries == 1
    assert issuer.forms == [
        {
            "grant_type": ["client_credentials"],
            "client_id": ["me"],
            "client_secret": ["s3cret"],
            "scope": ["sandbox:write"],
            "audience": ["gateway"],
        }
    ]


def test_short_lived_token_is_replaced(connect: Connect, gateway: FakeGateway, issuer: FakeIssuer) -> None:
    """A token that lives no longer than the margin is used once."""
    issuer.lifetime = 29
    files = connect(auth=credentials(issuer))
    files.write_bytes("x", b"1")
    files.stat("x")
    assert gateway.tokens == ["Bearer token-1", "Bearer token-2"]


def test_refused_token_is_fetched_anew(connect: Connect, gateway: FakeGateway, issuer: FakeIssuer) -> None:
    gateway.accepted_tokens = {"token-2"}
    connect(auth=credentials(issuer)).write_bytes("x", b"1")
    assert gateway.tokens == ["Bearer token-1", "Bearer token-2"]


def test_single_flight(gateway: FakeGateway, issuer: FakeIssuer) -> None:
    with FilesClient(gateway.address, auth=credentials(issuer)) as client:
        files = client.sandbox("demo")
        threads = [threading.Thread(target=files.write_bytes, args=(f"x{i}", b"1")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(issuer.forms) == 1
    assert len(gateway.files) == 8


async def test_single_flight_async(gateway: FakeGateway, issuer: FakeIssuer) -> None:
    async with AsyncFilesClient(gateway.address, auth=credentials(issuer)) as client:
        files = client.sandbox("demo")
        await asyncio.gather(*(files.write_bytes(f"x{i}", b"1") for i in range(8)))
    assert len(issuer.forms) == 1


Answer = Callable[[FakeIssuer, BaseHTTPRequestHandler], None]
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
    "no lifetime": ("POST", lambda _, r: reply(r, 200, {"access_token": "t"}), "expires_in"),
    "bad lifetime": (
        "POST",
        lambda _, r: reply(r, 200, b'{"access_token": "t", "expires_in": Infinity}'),
        "expires_in",
    ),
    "too large": ("GET", lambda _, r: reply(r, 200, b" " * (2 * MIB)), "too large"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers(connect: Connect, gateway: FakeGateway, issuer: FakeIssuer, case: str) -> None:
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


# The wire


def test_token_needs_tls_or_loopback() -> None:
    with pytest.raises(ValueError, match="without TLS"):
        FilesClient("gateway.example:17670", auth=OidcAuth("t"))
    with pytest.raises(ValueError, match="without TLS"):
        FilesClient("http://10.0.0.1:80", auth=OidcAuth("t"))
    for endpoint in ("localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/run/x", "http://127.9.9.9:1"):
        FilesClient(endpoint, auth=OidcAuth("t")).close()
    FilesClient("gateway.example:1", auth=OidcAuth("t"), tls=TlsConfig()).close()
    FilesClient("https://gateway.example", auth=OidcAuth("t")).close()
    FilesClient("gateway.example:1", auth=OidcAuth("t"), allow_insecure_token=True).close()


@pytest.mark.parametrize("endpoint", ["", "host", "host:port", ":1", "ftp://x", "http://x/path"])
def test_malformed_endpoint(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        FilesClient(endpoint)


def test_conflicting_options() -> None:
    with pytest.raises(ValueError, match="http"):
        FilesClient("http://127.0.0.1:1", tls=TlsConfig())
    with pytest.raises(ValueError, match="both"):
        TlsConfig(cert_path="x")
    with pytest.raises(ValueError, match="positive"):
        FilesClient("127.0.0.1:1", timeout=0)


def test_tls_both_ways(tmp_path: Any) -> None:
    """The gateway's certificate is checked, and the client shows its own."""
    ca = trustme.CA()
    server_cert, client_cert = ca.issue_cert("localhost"), ca.issue_cert("client@example")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    client_cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    client_cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    fake = FakeGateway()
    fake.start(
        grpc.ssl_server_credentials(
            [(server_cert.private_key_pem.bytes(), server_cert.cert_chain_pems[0].bytes())],
            root_certificates=ca.cert_pem.bytes(),
            require_client_auth=True,
        )
    )
    port = fake.address.rpartition(":")[2]
    try:
        tls = TlsConfig(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
        with FilesClient(f"https://localhost:{port}", auth=OidcAuth("t"), tls=tls) as client:
            client.sandbox("demo").write_bytes("x", b"1")
        assert fake.files["x"].content == b"1"
    finally:
        fake.stop()
