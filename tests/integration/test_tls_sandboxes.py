"""A gateway with a certificate, and the sandboxes that it makes itself: their supervisors have to trust it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from dev_command import STOP_SECONDS, command, dev_stack
from openshell_files import AsyncFilesClient, OidcAuth, TlsConfig
from sandbox_calls import SandboxCalls


@contextmanager
def gateway_with_tls(root: Path, settings: dict[str, str]) -> Generator[str, None, None]:
    """Run a second gateway with the stack's configuration; gives its endpoint."""
    process = subprocess.Popen(
        [command("openshell-files-gateway"), "serve", "--json", "--config", str(root / "gateway.toml"),
         "--port", "0", "--exit-on-stdin-close"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the gateway does not start; its log is above"
        yield str(json.loads(line)["endpoint"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=STOP_SECONDS)


@pytest.mark.parametrize("authority", ["named", "in the certificate's file"])
async def test_a_sandbox_behind_tls(tmp_path: Path, authority: str) -> None:
    """SBX-1: made, used for commands and files, and deleted, by the authority that compute.tls_ca names or tls.certificate ends with."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1", "localhost")
    ca_file, chain, key = tmp_path / "ca.pem", tmp_path / "chain.pem", tmp_path / "key.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    certificate.private_key_pem.write_to_path(str(key))
    for part in [*certificate.cert_chain_pems, ca.cert_pem]:
        part.write_to_path(str(chain), append=True)
    settings = {
        "OPENSHELL_DISABLE_TLS": "false",
        "OPENSHELL_TLS_CERT": str(chain),
        "OPENSHELL_TLS_KEY": str(key),
        "OPENSHELL_COMPUTE_DIRECTORY": str(tmp_path / "made"),
    }
    if authority == "named":
        settings["OPENSHELL_COMPUTE_TLS_CA"] = str(ca_file)
    root = tmp_path / "stack"
    with dev_stack("--root", str(root)) as stack, gateway_with_tls(root, settings) as endpoint:
        credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
        async with grpc.aio.secure_channel(endpoint, credentials) as channel:
            calls = SandboxCalls(channel, stack.token)
            made = (await calls.create()).metadata.name
            await calls.ready(made)
            ran = await calls.run(made, "echo", "hello")
            assert (ran.exit_code, ran.stdout) == (0, b"hello\n")
            async with AsyncFilesClient(
                endpoint, auth=OidcAuth(stack.token), tls=TlsConfig(ca_path=str(ca_file))
            ) as client:
                files = client.sandbox(made)
                await files.write_bytes("greeting", b"hello")
                assert await files.read_bytes("greeting") == b"hello"
            await calls.delete(made)
            assert made not in await calls.names()
