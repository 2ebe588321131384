"""Hostile tokens at the gateway's door (AUT-1, AUT-2, must hold 4).

tests/auth tries many more against the verifier. Here each class that the
issue names goes over the wire, and a supervisor that writes down every relay
it is asked for shows that nothing got through.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc
import jwt
import pytest
from conditions import until
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason
from stack_client import reason_of
from token_forge import assemble, encode, hmac_sha256, signer

Forge = Callable[[GatewayHarness], str | None]


def _published(harness: GatewayHarness) -> dict[str, Any]:
    return harness.identity_provider.jwks["keys"][0]


def _pem(harness: GatewayHarness) -> bytes:
    """Return the issuer's public key as anybody can make it from the JWK set."""
    key = jwt.PyJWK(_published(harness)).key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _parts(harness: GatewayHarness) -> tuple[dict[str, object], bytes]:
    """Return header and payload of an honest token."""
    payload = harness.identity_provider.issue().split(".")[1]
    return {"typ": "JWT", "kid": _published(harness)["kid"]}, _decode(payload)


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _unsigned(harness: GatewayHarness) -> str:
    header, payload = _parts(harness)
    return assemble(json.dumps(header | {"alg": "none"}).encode(), payload, lambda _: b"")


def _hs256(harness: GatewayHarness, secret: bytes) -> str:
    header, payload = _parts(harness)
    return assemble(json.dumps(header | {"alg": "HS256"}).encode(), payload, hmac_sha256(secret))


def _by_another_key(harness: GatewayHarness, key_id: str) -> str:
    header, payload = _parts(harness)
    other = signer("ES256", "somebody-elses")
    return assemble(json.dumps(header | {"alg": "ES256", "kid": key_id}).encode(), payload, other.sign)


def _tampered(harness: GatewayHarness) -> str:
    head, _, signature = harness.identity_provider.issue().split(".")
    _, payload = _parts(harness)
    claims = json.loads(payload) | {"sub": "mallory-the-administrator"}
    return f"{head}.{encode(json.dumps(claims).encode())}.{signature}"


HOSTILE: dict[str, tuple[Forge, Reason]] = {
    "no token": (lambda _: None, Reason.TOKEN_MISSING),
    "garbage": (lambda _: "2YotnFZFEjr1zCsicMWpAA-garbage", Reason.TOKEN_MALFORMED),
    "three parts of garbage": (lambda _: "garbage-one.garbage-two.garbage-three", Reason.TOKEN_MALFORMED),
    "expired": (lambda h: h.identity_provider.issue(ttl=-3600), Reason.TOKEN_EXPIRED),
    "not yet valid": (
        lambda h: h.identity_provider.issue(nbf=4_000_000_000, exp=4_000_000_100),
        Reason.TOKEN_NOT_YET_VALID,
    ),
    "wrong audience": (lambda h: h.identity_provider.issue(aud="somebody-else"), Reason.TOKEN_WRONG_AUDIENCE),
    "wrong issuer": (
        lambda h: h.identity_provider.issue(iss="https://attacker.example"),
        Reason.TOKEN_WRONG_ISSUER,
    ),
    "unknown key": (lambda h: _by_another_key(h, "no-such-key-anywhere"), Reason.TOKEN_UNKNOWN_KEY),
    "known key id, other key": (
        lambda h: _by_another_key(h, str(_published(h)["kid"])),
        Reason.TOKEN_BAD_SIGNATURE,
    ),
    "alg none": (_unsigned, Reason.TOKEN_BAD_ALGORITHM),
    "HS256 with the public key": (lambda h: _hs256(h, _pem(h)), Reason.TOKEN_BAD_ALGORITHM),
    "HS256 with the JWK": (
        lambda h: _hs256(h, json.dumps(_published(h)).encode()),
        Reason.TOKEN_BAD_ALGORITHM,
    ),
    "tampered": (_tampered, Reason.TOKEN_BAD_SIGNATURE),
}

REQUESTS = {
    "UploadFile": files_pb2.UploadFileRequest(
        metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=1)
    ).SerializeToString(),
    "DownloadFile": files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f").SerializeToString(),
    **{
        name: message.SerializeToString()
        for name, message in (
            (
                "StatFile",
                files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="/f"),
            ),
            (
                "GetUpload",
                files_pb2.GetUploadRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), upload_id="u"),
            ),
            (
                "GetTransferCapabilities",
                files_pb2.GetTransferCapabilitiesRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX)),
            ),
            ("ListUploads", files_pb2.ListUploadsRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX))),
            (
                "AbortUpload",
                files_pb2.AbortUploadRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), upload_id="u"),
            ),
            (
                "StartUpload",
                files_pb2.StartUploadRequest(
                    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f")
                ),
            ),
        )
    },
    "ConnectSupervisor": openshell_pb2.SupervisorMessage(
        hello=openshell_pb2.SupervisorHello(sandbox_id=SANDBOX)
    ).SerializeToString(),
    "RelayStream": openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="c")).SerializeToString(),
    "RefreshSandboxToken": b"",
}
UNARY = {
    "StatFile",
    "GetUpload",
    "ListUploads",
    "AbortUpload",
    "StartUpload",
    "GetTransferCapabilities",
    "RefreshSandboxToken",
}


class Witness:
    """A supervisor that answers nothing and writes down every relay it is asked for."""

    def __init__(self) -> None:
        self.opens: list[openshell_pb2.RelayOpen] = []

    async def watch(self, harness: GatewayHarness, connected: asyncio.Event) -> None:
        supervisor = harness.supervisor()
        await supervisor.connect()
        connected.set()
        while (message := await supervisor.hear()) is not None:
            self.opens.append(message.relay_open)


@pytest.fixture
async def door() -> AsyncGenerator[tuple[GatewayHarness, Witness], None]:
    """A gateway, and a witness behind it."""
    witness = Witness()
    async with running_gateway() as harness:
        connected = asyncio.Event()
        watching = asyncio.create_task(witness.watch(harness, connected))
        await connected.wait()
        try:
            yield harness, witness
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def _call(harness: GatewayHarness, method: str, token: str | None) -> grpc.aio.AioRpcError:
    """Make a call that is refused, and return the refusal."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _answer(harness.channel(), method, metadata)
    return caught.value


async def _answer(channel: Any, method: str, metadata: tuple[tuple[str, str], ...]) -> None:
    request, path = REQUESTS[method], methods.path(method)
    if method in UNARY:
        await channel.unary_unary(path)(request, metadata=metadata)
    elif method == "DownloadFile":
        await channel.unary_stream(path)(request, metadata=metadata).read()
    else:
        # UPL-13: refused while nothing was sent yet and the stream is open.
        await channel.stream_stream(path)(metadata=metadata).read()


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_token_gets_nowhere(door: tuple[GatewayHarness, Witness], case: str) -> None:
    """AUT-1, AUT-2, AUT-6, AUT-9: UNAUTHENTICATED for its reason on every method; no word of it in the message."""
    harness, witness = door
    forge, reason = HOSTILE[case]
    token = forge(harness)
    for method in REQUESTS:
        error = await _call(harness, method, token)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, (method, error)
        assert reason_of(error) == reason.name, method
        if token is not None:
            _assert_not_echoed(error, token)
    assert witness.opens == []
    # The witness would have seen something: an honest call reaches it.
    asking = asyncio.create_task(harness.stat())
    try:
        await until(lambda: witness.opens, "the witness is asked for a relay")
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert len(witness.opens) == 1


async def test_health_needs_no_token(door: tuple[GatewayHarness, Witness]) -> None:
    """AUT-1: every method but Health."""
    harness, _ = door
    channel: Any = harness.channel()
    answer = await channel.unary_unary(methods.HEALTH)(openshell_pb2.HealthRequest().SerializeToString())
    assert openshell_pb2.HealthResponse.FromString(answer).status == openshell_pb2.SERVICE_STATUS_HEALTHY


def _assert_not_echoed(error: grpc.aio.AioRpcError, token: str) -> None:
    """Nothing of the token longer than a word is in anything that the caller gets back."""
    shown = f"{error.details()} {error.debug_error_string()} {error.trailing_metadata()!r}"
    for start in range(len(token) - 12):
        piece = token[start : start + 12]
        assert piece not in shown, f"{shown!r} repeats {piece!r}"
    for word in ("somebody-else", "attacker.example", "mallory", "no-such-key"):
        assert word not in shown, f"{shown!r} repeats {word!r}"
