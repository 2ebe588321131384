"""Certificates and ports of the command line: each failure is one line with its fix."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import trustme
from cli_scene import Cli, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.exit_codes import ExitCode


@pytest.fixture
def stocked(cli: Cli, gateway: FakeGateway) -> Cli:
    (cli.home / "a").write_bytes(b"hello")
    gateway.files["x"] = FakeFile(b"hello")
    return cli


def test_an_authority_without_a_certificate(stocked: Cli) -> None:
    stocked.env["OPENSHELL_FILES_ENDPOINT"] = "https://localhost:1"
    failed(stocked("stat", "demo", "x", "--tls-ca", "a"), ExitCode.LOCAL_FILE, "a holds no PEM certificate")


def _pem_files(home: Path) -> None:
    """Write what may stand at an option of TLS."""
    authority = trustme.CA()
    for name in ("mine", "other"):
        made = authority.issue_cert(f"{name}@example")
        made.cert_chain_pems[0].write_to_path(home / f"{name}.pem")
        made.private_key_pem.write_to_path(home / f"{name}.key")
    rsa = authority.issue_cert("rsa@example", key_type=trustme.KeyType.RSA)
    rsa.private_key_pem.write_to_path(home / "rsa.key")
    head, _, tail = (home / "mine.key").read_text().partition("\n")
    (home / "damaged.key").write_text(f"{head}\nAAAA{tail[4:]}")
    encrypted = head.replace("EC PRIVATE", "PRIVATE").replace("PRIVATE", "ENCRYPTED PRIVATE")
    (home / "encrypted.key").write_text(f"{encrypted}\n{tail}")
    (home / "empty").touch()
    (home / "directory").mkdir()
    (home / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("certificate", "key", "status", "said"),
    [
        ("missing", "mine.key", ExitCode.LOCAL_FILE, "--tls-cert: cannot read missing: No such file"),
        ("directory", "mine.key", ExitCode.LOCAL_FILE, "--tls-cert: cannot read directory"),
        ("empty", "mine.key", ExitCode.LOCAL_FILE, "--tls-cert: empty holds no PEM certificate"),
        ("mine.key", "mine.key", ExitCode.LOCAL_FILE, "--tls-cert: mine.key holds no PEM certificate"),
        ("damaged.pem", "mine.key", ExitCode.LOCAL_FILE, "--tls-cert: damaged.pem holds no PEM certificate"),
        ("mine.pem", "missing", ExitCode.LOCAL_FILE, "--tls-key: cannot read missing: No such file"),
        ("mine.pem", "empty", ExitCode.LOCAL_FILE, "--tls-key: empty holds no PEM private key"),
        ("mine.pem", "mine.pem", ExitCode.LOCAL_FILE, "--tls-key: mine.pem holds no PEM private key"),
        ("mine.pem", "damaged.key", ExitCode.LOCAL_FILE, "private key in damaged.key is damaged"),
        (
            "mine.pem",
            "encrypted.key",
            ExitCode.LOCAL_FILE,
            "--tls-key: the key in encrypted.key is encrypted",
        ),
        ("mine.pem", "other.key", ExitCode.USAGE, "--tls-key: the key in other.key is not that of"),
        ("mine.pem", "rsa.key", ExitCode.USAGE, "--tls-key: the key in rsa.key is not that of"),
    ],
)
def test_a_client_certificate_that_cannot_be_used(
    stocked: Cli, certificate: str, key: str, status: ExitCode, said: str
) -> None:
    """It is told before anything is connected, with the option or variable and what to do."""
    _pem_files(stocked.home)
    stocked.env["OPENSHELL_FILES_ENDPOINT"] = "https://localhost:1"
    failed(stocked("stat", "demo", "x", "--tls-cert", certificate, "--tls-key", key), status, said)
    stocked.env |= {"OPENSHELL_FILES_TLS_CERT": certificate, "OPENSHELL_FILES_TLS_KEY": key}
    error = stocked("stat", "demo", "x", "--json").json["error"]
    assert (error["exit_code"], error["retry"]) == (status, "never")
    assert "OPENSHELL_FILES_TLS_" in error["message"]
    assert error["fix"]


def test_a_client_certificate_that_fits(stocked: Cli) -> None:
    """The gateway is what fails then."""
    _pem_files(stocked.home)
    stocked.env["OPENSHELL_FILES_ENDPOINT"] = "https://localhost:1"
    fitting = ("--tls-cert", "mine.pem", "--tls-key", "mine.key", "--attempts", "1")
    failed(stocked("stat", "demo", "x", *fitting), ExitCode.UNAVAILABLE, "nothing listens there")


def test_an_issuer_that_cannot_be_reached(stocked: Cli) -> None:
    """It is not the gateway, and no class of a library is a cause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = stocked(
        "stat", "demo", "x", "--issuer", f"http://127.0.0.1:{port}", "--client-id", "c", "--attempts", "1"
    )
    assert outcome.status == ExitCode.USAGE
    stocked.env["OPENSHELL_FILES_OIDC_CLIENT_SECRET"] = "secret"
    outcome = stocked(
        "stat", "demo", "x", "--issuer", f"http://127.0.0.1:{port}", "--client-id", "c", "--attempts", "1"
    )
    failed(outcome, ExitCode.NOT_AUTHENTICATED, "the issuer at 127.0.0.1", "nothing listens there")
    assert "gateway" not in outcome.err
    assert "Error" not in outcome.err


def test_a_port_that_is_no_gateway(stocked: Cli) -> None:
    """gRPC's own lines do not come between; TLS to a plain port is told in one line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        stocked.env["OPENSHELL_FILES_ENDPOINT"] = f"127.0.0.1:{port}"
        outcome = stocked.process("stat", "demo", "x", "--attempts", "1")
    failed(outcome, ExitCode.UNAVAILABLE, "nothing listens there", "--endpoint")


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("trusting", ["nothing", "another"])
def test_a_certificate_that_is_not_trusted(stocked: Cli, address: str, trusting: str) -> None:
    """Of the two addresses of `localhost` one has a listener, whichever gRPC tells of."""
    made, other = trustme.CA(), trustme.CA()
    other.cert_pem.write_to_path(stocked.home / "other.pem")
    certificate = made.issue_cert("localhost")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port(
        f"{address}:0",
        grpc.ssl_server_credentials(
            [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
        ),
    )
    server.start()
    try:
        stocked.env["OPENSHELL_FILES_ENDPOINT"] = f"https://localhost:{port}"
        trust = ["--tls-ca", "other.pem"] if trusting == "another" else []
        outcome = stocked.process("stat", "demo", "x", "--attempts", "1", *trust)
    finally:
        server.stop(None).wait()
    failed(outcome, ExitCode.UNAVAILABLE, "certificate is not trusted", "--tls-ca")


def test_tls_to_a_plain_port(stocked: Cli, gateway: FakeGateway) -> None:
    stocked.env["OPENSHELL_FILES_ENDPOINT"] = f"https://{gateway.address}"
    outcome = stocked.process("stat", "demo", "x", "--attempts", "1")
    failed(outcome, ExitCode.UNAVAILABLE, "TLS handshake", "http://", "--tls-ca")
