"""Endpoints and TLS: where a token may go, and certificates of both ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
import trustme
from fake_file_gateway import FakeGateway
from openshell_files import FilesClient, OidcAuth, TlsConfig


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
