"""A supervisor that reaches no gateway says whether TLS is the reason, and what to change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
from conditions import until
from openshell_supervisor_sim.session.connection_cause import ConnectionCause
from supervisor_scene import SUPERVISOR, SandboxPlaces


@dataclass(frozen=True)
class Listener:
    """What listens where a supervisor expects its gateway."""

    port: int
    authority: bytes


@asynccontextmanager
async def gateway(*, tls: bool, name: str = "localhost", client_ca: bool = False) -> AsyncGenerator[Listener]:
    """A gRPC server without methods."""
    server, authority = grpc.aio.server(), trustme.CA()
    if tls:
        certificate = authority.issue_cert(name)
        pem = authority.cert_pem.bytes()
        chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
        credentials = grpc.ssl_server_credentials(
            [(certificate.private_key_pem.bytes(), chain)],
            root_certificates=pem if client_ca else None,
            require_client_auth=client_ca,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        pem, port = authority.cert_pem.bytes(), server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Listener(port, pem)
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("tls", "trusted", "name", "client_ca", "says"),
    [
        (True, None, "localhost", False, ["speaks TLS", "--tls-ca"]),
        (True, None, "localhost", True, ["speaks TLS", "--tls-ca"]),
        (False, "own", "localhost", False, ["does not speak TLS", "omit --tls-ca"]),
        (True, "other", "localhost", False, ["certificate", "--tls-ca"]),
        (True, "own", "elsewhere.example", False, ["certificate", "--endpoint"]),
        (True, "own", "localhost", False, []),
        (False, None, "localhost", False, []),
    ],
)
async def test_the_cause_is_found(
    *, tls: bool, trusted: str | None, name: str, client_ca: bool, says: list[str]
) -> None:
    async with gateway(tls=tls, name=name, client_ca=client_ca) as listener:
        authority = {None: None, "own": listener.authority, "other": trustme.CA().cert_pem.bytes()}[trusted]
        found = await ConnectionCause(f"localhost:{listener.port}", authority).find()
    assert all(part in found for part in says), found
    assert bool(found) is bool(says)


@pytest.mark.parametrize(
    ("endpoint", "cause"),
    [
        ("localhost:1", "no gateway at localhost:1: Connection refused"),
        ("127.0.0.1:1", "no gateway at 127.0.0.1:1: Connection refused"),
        ("nowhere.invalid:1", "no gateway at nowhere.invalid:1: "),
        ("unix:/nowhere", ""),
        ("localhost", ""),
    ],
)
@pytest.mark.parametrize("authority", [None, trustme.CA().cert_pem.bytes()], ids=["plain", "tls"])
async def test_a_gateway_that_is_away(endpoint: str, cause: str, authority: bytes | None) -> None:
    found = await ConnectionCause(endpoint, authority).find()
    assert found.startswith(cause)
    assert bool(found) is bool(cause)
    assert "Errno" not in found
    assert "Connect call" not in found


async def test_a_listener_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openshell_supervisor_sim.session.connection_cause._LOOK_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # The kernel takes the connection up, and nobody answers.
        listener.listen()
        assert await ConnectionCause(f"127.0.0.1:{listener.getsockname()[1]}", None).find() == ""


async def test_the_log_says_it(tmp_path: Path) -> None:
    """The command as an operator types it, without --tls-ca."""
    places = SandboxPlaces(tmp_path)
    places.root.mkdir()
    places.token.write_text("token")
    log = tmp_path / "log"
    async with gateway(tls=True) as listener:
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                SUPERVISOR, "run", "--endpoint", f"localhost:{listener.port}", "--sandbox-id", "one",
                "--token-file", str(places.token), "--root", str(places.root), "--state-dir", str(places.state),
                "--no-exec", stderr=file,
            )  # fmt: skip
        try:
            await until(lambda: "speaks TLS; give --tls-ca" in log.read_text(), log.read_text)
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\xfe"])
async def test_an_authority_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """Else every attempt would fail, with another word for it each time."""
    file, token = tmp_path / "ca.pem", tmp_path / "token"
    file.write_bytes(content)
    token.write_text("token")
    process = await asyncio.create_subprocess_exec(
        SUPERVISOR, "run", "--endpoint", "localhost:1", "--sandbox-id", "one", "--token-file", str(token),
        "--root", str(tmp_path), "--tls-ca", str(file), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--tls-ca" in said
    assert b"no certificate in PEM" in said
