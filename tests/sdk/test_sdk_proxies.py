"""What is not sent in clear to another machine is not sent in clear to a proxy either."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_file_gateway import FakeGateway
from openshell_files import NO_RETRY, AsyncFilesClient, FilesClient, OidcAuth, TlsConfig
from openshell_files.errors import FilesError
from recording_proxy import EXCEPTIONS, VARIABLES, RecordingProxy, recording_proxy
from simple_issuer import SimpleIssuer, simple_issuer


@pytest.fixture
def issuer() -> Iterator[SimpleIssuer]:
    with simple_issuer() as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[RecordingProxy]:
    with recording_proxy() as running:
        yield running


def blocking(endpoint: str, auth: Any) -> None:
    with FilesClient(endpoint, auth=auth, retry=NO_RETRY) as client:
        client.sandbox("demo").write_bytes("x", b"1")


def asynchronous(endpoint: str, auth: Any) -> None:
    async def run() -> None:
        async with AsyncFilesClient(endpoint, auth=auth, retry=NO_RETRY) as client:
            await client.sandbox("demo").write_bytes("x", b"1")

    asyncio.run(run())


@pytest.mark.parametrize("connecting", [blocking, asynchronous])
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_proxy_sees_neither_token_nor_secret(
    gateway: FakeGateway,
    issuer: SimpleIssuer,
    proxy: RecordingProxy,
    monkeypatch: pytest.MonkeyPatch,
    connecting: Callable[[str, Any], None],
    variable: str,
) -> None:
    """By number and by name, for the gateway and for the issuer."""
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    for name, value in proxy.variables(variable).items():
        monkeypatch.setenv(name, value)
    port = gateway.address.rpartition(":")[2]
    by_name = issuer.url.replace("127.0.0.1", "localhost")
    for endpoint, named in ((gateway.address, issuer.url), (f"http://localhost:{port}", by_name)):
        issuer.issuer = named
        connecting(endpoint, OidcAuth.client_credentials(named, "me", "s3cret"))
    assert len(gateway.tokens) == 2
    assert (proxy.connections, proxy.received) == (0, [])


def test_a_proxy_may_carry_what_is_encrypted(proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is about what is readable: to a gateway elsewhere, TLS goes through the proxy as before."""
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://{proxy.address}")
    with (
        FilesClient("gateway.example:443", auth=OidcAuth("t0ken"), tls=TlsConfig(), retry=NO_RETRY) as client,
        pytest.raises(FilesError),
    ):
        client.sandbox("demo").stat("x", timeout=20)
    assert proxy.received[0].startswith(b"CONNECT gateway.example:443 ")
    assert b"t0ken" not in b"".join(proxy.received)


@pytest.mark.parametrize("listening", ["127.0.0.1:0", "[::1]:0"])
def test_localhost_reaches_both_families(listening: str) -> None:
    """No resolver is asked what `localhost` is."""
    fake = FakeGateway()
    fake.address = listening
    fake.start()
    try:
        port = fake.address.rpartition(":")[2]
        with FilesClient(f"localhost:{port}", auth=OidcAuth("t")) as client:
            client.sandbox("demo").write_bytes("x", b"1")
    finally:
        fake.stop()
    assert fake.files["x"].content == b"1"
