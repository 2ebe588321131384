"""`openshell-files-gateway serve`: configuration, services, logs, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import trustme
from conditions import block_until
from dev_command import STOP_SECONDS, command, dev_stack
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from kill_client import content_of
from kill_scene import gateway_log, process_log
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import reason_of, stack_client

ISSUER = "https://issuer.example"
OIDC = f"[oidc]\nissuer = '{ISSUER}'\n"

#: Configuration → the key that the refusal names. tests/auth has every rule;
#: these are one of each kind.
REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "nobody could log in": ("[tls]\ndisabled = true\n", {}, "oidc.issuer (OPENSHELL_OIDC_ISSUER)"),
    "plaintext beyond loopback": (
        OIDC + "[tls]\ndisabled = true\n[server]\nbind_address = '0.0.0.0'\n",
        {},
        "tls.disabled (OPENSHELL_DISABLE_TLS)",
    ),
    "everybody beyond loopback": (
        "allow_unauthenticated_users = true\n[tls]\ndisabled = true\n[server]\nbind_address = '0.0.0.0'\n",
        {},
        "allow_unauthenticated_users (OPENSHELL_ALLOW_UNAUTHENTICATED_USERS)",
    ),
    "issuer over http": (
        "[oidc]\nissuer = 'http://issuer.example'\n[tls]\ndisabled = true\n",
        {},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
    ),
    "issuer of the environment": (
        OIDC + "[tls]\ndisabled = true\n",
        {"OPENSHELL_OIDC_ISSUER": "http://issuer.example"},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
    ),
    "not a number": (
        OIDC + "[tls]\ndisabled = true\n",
        {"OPENSHELL_OIDC_JWKS_TTL": "soon"},
        "oidc.jwks_ttl (OPENSHELL_OIDC_JWKS_TTL)",
    ),
    "a misspelt key": (OIDC + "[tls]\ndisable = true\n", {}, "tls.disable"),
    "not TOML": ("[oidc\n", {}, "gateway.toml"),
}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without settings of the one who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENSHELL_")} | dict(
        extra
    )


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsafe_configuration_is_refused(tmp_path: Path, case: str) -> None:
    """Exit 2, the key by both its names, nothing started."""
    text, extra, key = REFUSED[case]
    config = tmp_path / "gateway.toml"
    config.write_text(text, "utf-8")
    run = subprocess.run(
        [command("openshell-files-gateway"), "serve", "--config", str(config), "--port", "0", "--json"],
        env=_environment(extra), capture_output=True, text=True, check=False, timeout=STOP_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")
    assert "Traceback" not in run.stderr
    assert [line for line in run.stderr.splitlines() if key in line], run.stderr


@contextmanager
def _serving(
    *arguments: str, environment: Mapping[str, str]
) -> Generator[tuple[str, subprocess.Popen[str]], None, None]:
    """Run `serve` until the block ends; yields the endpoint."""
    process = subprocess.Popen(
        [command("openshell-files-gateway"), "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(environment),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        yield json.loads(line)["endpoint"], process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def provider() -> Generator[DevelopmentIdentityProvider, None, None]:
    with DevelopmentIdentityProvider(audience="of-the-environment") as running:
        yield running


def _oidc_environment(provider: DevelopmentIdentityProvider) -> dict[str, str]:
    return {
        "OPENSHELL_OIDC_ISSUER": provider.issuer,
        "OPENSHELL_OIDC_AUDIENCE": provider.audience,
        "OPENSHELL_OIDC_DANGEROUSLY_ALLOW_INSECURE_HTTP": "true",
        "OPENSHELL_OIDC_JWKS_TTL": "60",
        "OPENSHELL_OIDC_ROLES_CLAIM": "my.own.roles",
        "OPENSHELL_OIDC_USER_ROLE": "mover",
        "OPENSHELL_OIDC_ADMIN_ROLE": "boss",
        "OPENSHELL_DISABLE_TLS": "true",
        "OPENSHELL_RELAY_SESSION_WAIT_TIMEOUT": "0.1",
    }


async def test_the_environment_alone(provider: DevelopmentIdentityProvider, tmp_path: Path) -> None:
    """Upstream's names: issuer, audience, roles claim and roles are those of the environment."""
    config = tmp_path / "sandboxes.toml"
    config.write_text("[[sandboxes]]\nid = 'one'\nname = 'one'\n", "utf-8")
    mine = provider.issue(my={"own": {"roles": ["boss", "mover"]}})
    with _serving("--config", str(config), environment=_oidc_environment(provider)) as (endpoint, _):
        for token, reason in (
            (mine, "SUPERVISOR_NOT_CONNECTED"),
            (provider.issue(), "ROLE_REQUIRED"),
            (provider.issue(aud="openshell-cli"), "TOKEN_WRONG_AUDIENCE"),
        ):
            async with stack_client(endpoint, token) as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.stat("one", "/f")
                assert reason_of(caught.value) == reason


def test_health_and_reflection(provider: DevelopmentIdentityProvider) -> None:
    """What orchestrators and grpcurl ask for, without a token."""
    with (
        _serving(environment=_oidc_environment(provider)) as (endpoint, _),
        grpc.insecure_channel(endpoint) as channel,
    ):
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        for service in ("", methods.SERVICE):
            answer = check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = ProtoReflectionDescriptorDatabase(channel)
        assert {methods.SERVICE, "grpc.health.v1.Health"} <= set(reflection.get_services())
        file = reflection.FindFileContainingSymbol(methods.SERVICE)
        (service_descriptor,) = [one for one in file.service if one.name == "OpenShell"]
        described = {method.name for method in service_descriptor.method}
        assert {"UploadFile", "DownloadFile", "StartUpload", "GetUpload", "StatFile"} <= described


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(provider: DevelopmentIdentityProvider, number: signal.Signals) -> None:
    """Exit 0; what it has to say is JSON, line by line."""
    with _serving(environment=_oidc_environment(provider)) as (_, process):
        process.send_signal(number)
        output, errors = process.communicate(timeout=STOP_SECONDS)
        assert (process.returncode, output) == (0, "")
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["event"] for line in lines] == ["gateway listens", "gateway stops", "gateway stopped"]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)


def test_what_opens_it_is_said_at_the_start(provider: DevelopmentIdentityProvider) -> None:
    """Every rule is in tests/auth; here is that the warning reaches the log of the process."""
    nobody_has_roles = {"OPENSHELL_OIDC_USER_ROLE": "", "OPENSHELL_OIDC_ADMIN_ROLE": ""}
    with _serving(environment=_oidc_environment(provider) | nobody_has_roles) as (_, process):
        process.terminate()
        _, errors = process.communicate(timeout=STOP_SECONDS)
    warnings = [line for line in map(json.loads, errors.splitlines()) if line["level"] == "warning"]
    assert [(line["event"], line["because"]) for line in warnings] == [
        (
            "every user of the issuer is a platform administrator",
            "oidc.admin_role and oidc.user_role are empty",
        )
    ]


async def test_nobody_reads_its_errors(provider: DevelopmentIdentityProvider) -> None:
    """A pipe that is full of log lines holds up no call, and no signal."""
    with _serving(environment=_oidc_environment(provider)) as (endpoint, process):
        async with grpc.aio.insecure_channel(endpoint) as channel:
            health = cast("Any", channel.unary_unary(methods.HEALTH))
            stat = cast("Any", channel.unary_unary(methods.STAT_FILE))
            metadata = (("authorization", f"Bearer {provider.issue(my={'own': {'roles': ['mover']}})}"),)
            # A line is at most a few thousand bytes, a pipe holds 64 KiB.
            request = files_pb2.StatFileRequest(remote_path="x" * 1000).SerializeToString()
            for _ in range(100):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stat(request, metadata=metadata, timeout=STOP_SECONDS)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            await health(b"", timeout=STOP_SECONDS)
        process.terminate()
        block_until(lambda: process.poll() is not None, "it has stopped")
        assert process.returncode == 0


def test_handshakes_of_strangers_hold_up_nobody(tmp_path: Path) -> None:
    """gRPC would write a line for each to a pipe that nobody reads; it would be full after 300."""
    certificate = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    environment = {
        "OPENSHELL_ALLOW_UNAUTHENTICATED_USERS": "true",
        "OPENSHELL_TLS_CERT": str(chain),
        "OPENSHELL_TLS_KEY": str(key),
    }
    with _serving(environment=environment) as (endpoint, process):
        port = int(endpoint.rpartition(":")[2])
        for _ in range(1000):
            # It hangs up, by an end or a reset; that it does not is a timeout.
            with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with suppress(ConnectionResetError):
                    while stranger.recv(4096):
                        pass
        process.terminate()
        block_until(lambda: process.poll() is not None, "it has stopped")
        assert process.returncode == 0
        assert process.stderr is not None
        assert all(json.loads(line)["event"] for line in process.stderr)


async def test_every_line_of_a_transfer_has_its_id(tmp_path: Path) -> None:
    """Structured logs: gateway and supervisor use the id that the caller gave, and errors name it."""
    root = tmp_path / "root"
    with dev_stack("--root", str(root)) as stack:
        sandbox = stack.sandboxes[0]
        async with stack_client(stack.endpoint, stack.token) as client:
            metadata = files_pb2.UploadFileMetadata(sandbox_id=sandbox.id, remote_path="f", size_bytes=1000)
            await client.upload(metadata, content_of("f", 1000), transfer_id="the-upload")
            request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.id, remote_path="f")
            await client.download(request, transfer_id="the-download")
            with pytest.raises(grpc.aio.AioRpcError):
                await client.stat(sandbox.id, "missing", transfer_id="the-question")

        names = {"the-upload": "UploadFile", "the-download": "DownloadFile", "the-question": "StatFile"}
        outcomes = {"the-upload": "OK", "the-download": "OK", "the-question": "FILE_NOT_FOUND"}

        def calls() -> dict[object, dict[str, object]]:
            ended = [line for line in gateway_log(root) if line["event"] == "call ended"]
            return {
                line["method"]: line for line in ended if line["method"] in {*names.values(), "RelayStream"}
            }

        def operations() -> dict[object, object]:
            lines = process_log(root, sandbox.name)
            return {
                line["transfer_id"]: line["outcome"] for line in lines if line["event"] == "operation ended"
            }

        block_until(
            lambda: (
                calls().keys() >= {*names.values(), "RelayStream"} and operations().keys() >= names.keys()
            ),
            lambda: f"all of it is logged: {calls()} {operations()}",
        )
        assert stack.stop() == 0
    lines = gateway_log(root)
    said = [line for line in lines if "method" in line or "channel_id" in line or "sandbox_id" in line]
    assert all(line.get("transfer_id") for line in said), said
    by_name = {str(line["transfer_id"]): line for line in lines if line.get("method") in names.values()}
    assert {name: line["method"] for name, line in by_name.items()} == names
    # The supervisor's call carries one operation after the other (FRM-9); each names it.
    assert {line["channel_id"] for line in by_name.values()} == {calls()["RelayStream"]["channel_id"]}
    assert operations() == outcomes
    _check_facts(by_name)


def _check_facts(lines: dict[str, dict[str, Any]]) -> None:
    """The line at the end of a call says who did what where, and how it went."""
    upload, download, question = lines["the-upload"], lines["the-download"], lines["the-question"]
    assert (upload["outcome"], upload["path"], upload["published_bytes"]) == ("OK", "f", 1000)
    assert (download["outcome"], download["path"]) == ("OK", "f")
    assert int(download["content_bytes"]) >= 1000
    assert (question["outcome"], question["path"]) == ("FILE_NOT_FOUND", "missing")
    for line in (upload, download, question):
        assert {"user", "sandbox_id", "seconds", "peer"} <= set(line)
