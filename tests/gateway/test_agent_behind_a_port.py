"""The gateway and whatever listens on the port of a sandbox's file agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_harness import SANDBOX, FakeRelay, FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import SandboxSettings
from openshell_files_gateway.files import agents
from openshell_files_process.agent_secret import NONCE_BYTES, agent_proof, gateway_proof
from openshell_files_protocol import methods
from openshell_files_protocol.framing import decode_relay_data, frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from status_details import reason_in

SECRET = b"0123456789abcdef0123456789abcdef"
PORT = 4711
CONTENT = b"the caller's bytes, which are for nobody else"

Challenge = file_relay_pb2.FileRelayChallenge
Response = file_relay_pb2.FileRelayResponse


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    file.chmod(0o600)
    return file


@pytest.fixture
async def harness(secret_file: Path) -> AsyncGenerator[GatewayHarness, None]:
    sandbox = SandboxSettings(id=SANDBOX, name="demo", agent_port=PORT, agent_secret=secret_file)
    async with running_gateway(changes={"sandboxes": (sandbox,)}) as running:
        yield running


async def listening(harness: GatewayHarness) -> FakeSupervisor:
    """Connect a supervisor that knows nothing of files."""
    supervisor = harness.supervisor()
    await supervisor.connect(files=None)
    return supervisor


async def taken(supervisor: FakeSupervisor) -> FakeRelay:
    opened = await supervisor.next_open()
    assert opened.WhichOneof("target") == "tcp"
    assert (opened.tcp.host, opened.tcp.port) == ("127.0.0.1", PORT)
    return await supervisor.claim(opened.channel_id)


async def asked(relay: FakeRelay) -> bytes:
    """Return the gateway's nonce, which is all that it says to a stranger."""
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.WhichOneof("frame") == "authenticate"
    assert len(frame.authenticate.nonce) == NONCE_BYTES
    return frame.authenticate.nonce


async def trusted(relay: FakeRelay, secret: bytes = SECRET) -> None:
    """Be the agent, up to the gateway's proof."""
    nonce, own = await asked(relay), b"a" * NONCE_BYTES
    await relay.answer(Response(challenge=Challenge(nonce=own, proof=agent_proof(secret, nonce, own))))
    frame = await relay.next_frame()
    assert frame is not None
    assert frame.WhichOneof("frame") == "proof"
    assert frame.proof.proof == gateway_proof(secret, nonce, own)


async def rest_of(relay: FakeRelay) -> bytes:
    """Return everything that the gateway says until it ends the relay."""
    rest = bytearray()
    while isinstance(message := await relay.call.read(), bytes):
        rest += decode_relay_data(message) or b""
    return bytes(rest)


async def upload(harness: GatewayHarness) -> bytes:
    channel: Any = harness.channel()
    call = channel.stream_unary(methods.UPLOAD_FILE)(metadata=harness.user())
    metadata = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", size_bytes=len(CONTENT))
    await call.write(files_pb2.UploadFileRequest(metadata=metadata).SerializeToString())
    await call.write(files_pb2.UploadFileRequest(chunk=CONTENT).SerializeToString())
    await call.done_writing()
    answer: bytes = await call
    return answer


async def test_an_upload(harness: GatewayHarness) -> None:
    """FRM-8: after the proofs it is an agent like any other."""
    supervisor = await listening(harness)
    uploading = asyncio.create_task(upload(harness))
    relay = await taken(supervisor)
    await trusted(relay)
    opened, content, end = [await relay.next_frame() for _ in range(3)]
    assert opened is not None
    assert opened.open.upload.remote_path == "/f"
    assert content is not None
    assert content.upload.chunk == CONTENT
    assert end is not None
    assert end.WhichOneof("frame") == "input_end"
    answer = files_pb2.UploadFileResponse(bytes_written=len(CONTENT))
    await relay.answer(Response(upload=answer))
    assert files_pb2.UploadFileResponse.FromString(await uploading) == answer


async def test_a_download(harness: GatewayHarness) -> None:
    """FRM-8."""
    supervisor = await listening(harness)
    channel: Any = harness.channel()
    request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f")
    call = channel.unary_stream(
        methods.DOWNLOAD_FILE, response_deserializer=files_pb2.DownloadFileResponse.FromString
    )(request.SerializeToString(), metadata=harness.user())
    relay = await taken(supervisor)
    await trusted(relay)
    opened = await relay.next_frame()
    assert opened is not None
    assert opened.open.download.remote_path == "/f"
    chunk = files_pb2.DownloadFileResponse(chunk=CONTENT)
    await relay.answer(Response(download=chunk))
    await relay.answer(Response(download_end=file_relay_pb2.FileRelayDownloadEnd(bytes_sent=len(CONTENT))))
    assert [message async for message in call] == [chunk]


async def test_every_relay_has_a_nonce_of_its_own(harness: GatewayHarness) -> None:
    """FRM-22: or an old proof could be used again."""
    supervisor = await listening(harness)
    nonces = set[bytes]()
    for _ in range(3):
        asking = asyncio.create_task(harness.stat())
        relay = await taken(supervisor)
        nonces.add(await asked(relay))
        await relay.call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await asking
    assert len(nonces) == 3


def answered(challenge: Callable[[bytes], Challenge]) -> Callable[[bytes], bytes]:
    """Return what says a challenge, made of the gateway's nonce."""
    return lambda nonce: b"".join(frame_segments([Response(challenge=challenge(nonce)).SerializeToString()]))


OWN = b"a" * NONCE_BYTES
OLD = b"o" * NONCE_BYTES

#: What a stranger says to the gateway's nonce, and what the caller hears.
STRANGERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another secret": (
        answered(lambda nonce: Challenge(nonce=OWN, proof=agent_proof(b"x" * 32, nonce, OWN))),
        "AGENT_UNAUTHENTICATED",
    ),
    "no secret": (
        answered(lambda nonce: Challenge(nonce=OWN, proof=agent_proof(b"", nonce, OWN))),
        "AGENT_UNAUTHENTICATED",
    ),
    "no proof": (answered(lambda _: Challenge(nonce=OWN)), "AGENT_UNAUTHENTICATED"),
    "a replayed challenge": (
        answered(lambda _: Challenge(nonce=OWN, proof=agent_proof(SECRET, OLD, OWN))),
        "AGENT_UNAUTHENTICATED",
    ),
    "the gateway's role": (
        answered(lambda nonce: Challenge(nonce=OWN, proof=gateway_proof(SECRET, nonce, OWN))),
        "AGENT_UNAUTHENTICATED",
    ),
    "the gateway's nonce": (
        answered(lambda nonce: Challenge(nonce=nonce, proof=nonce)),
        "AGENT_UNAUTHENTICATED",
    ),
    "a short nonce": (
        answered(lambda _: Challenge(nonce=b"a", proof=b"x" * 32)),
        "AGENT_UNAUTHENTICATED",
    ),
    "part of the proof": (
        answered(lambda nonce: Challenge(nonce=OWN, proof=agent_proof(SECRET, nonce, OWN)[:-1])),
        "AGENT_UNAUTHENTICATED",
    ),
    "an echo": (
        lambda nonce: b"".join(
            frame_segments(
                [
                    file_relay_pb2.FileRelayRequest(
                        authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=nonce)
                    ).SerializeToString()
                ]
            )
        ),
        "AGENT_PROTOCOL_ERROR",
    ),
    "an agent that asks for nothing": (
        lambda _: b"".join(
            frame_segments(
                [
                    Response(
                        accepted=file_relay_pb2.FileRelayAccepted(protocol_version=1)
                    ).SerializeToString(),
                    Response(stat_file=files_pb2.StatFileResponse()).SerializeToString(),
                ]
            )
        ),
        "AGENT_PROTOCOL_ERROR",
    ),
    "content before anything": (
        lambda _: b"".join(
            frame_segments(
                [Response(download=files_pb2.DownloadFileResponse(chunk=b"x")).SerializeToString()]
            )
        ),
        "AGENT_PROTOCOL_ERROR",
    ),
    "an SSH server": (lambda _: b"SSH-2.0-OpenSSH_9.9\r\n", "FILES_UNSUPPORTED"),
    "a web server": (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100, "AGENT_PROTOCOL_ERROR"),
    "noise": (lambda _: b"\xff" * 100, "FILES_UNSUPPORTED"),
    "an agent that was not let in": (
        lambda _: b"".join(
            frame_segments(
                [
                    Response(
                        error=file_relay_pb2.FileRelayError(
                            reason="AGENT_UNAUTHENTICATED", message="no", code=9
                        )
                    ).SerializeToString()
                ]
            )
        ),
        "AGENT_UNAUTHENTICATED",
    ),
}


@pytest.mark.parametrize("who", STRANGERS)
async def test_a_stranger_gets_nothing(harness: GatewayHarness, who: str) -> None:
    """FRM-21: neither `open` nor a byte of the caller's, and the caller hears why."""
    says, reason = STRANGERS[who]
    supervisor = await listening(harness)
    uploading = asyncio.create_task(upload(harness))
    relay = await taken(supervisor)
    await relay.send_bytes(says(await asked(relay)))
    assert await rest_of(relay) == b""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await uploading
    assert reason_in(caught.value) == reason


@pytest.mark.parametrize("says", [b"", b"\x40half a frame"], ids=["nothing", "half a frame"])
async def test_silence(harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    """FRM-21: is waited for not longer than a handshake may take."""
    monkeypatch.setattr(agents, "_HANDSHAKE_SECONDS", 0.05)
    supervisor = await listening(harness)
    uploading = asyncio.create_task(upload(harness))
    relay = await taken(supervisor)
    await asked(relay)
    if says:
        await relay.send_bytes(says)
    assert await rest_of(relay) == b""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await uploading
    assert reason_in(caught.value) == "FILES_UNSUPPORTED"
    assert str(PORT) in str(caught.value.details())


async def test_who_says_that_it_works_does_not_win_time(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FRM-21: FRM-7 is for agents that are known."""
    monkeypatch.setattr(agents, "_HANDSHAKE_SECONDS", 0.1)
    supervisor = await listening(harness)
    asking = asyncio.create_task(harness.stat())
    relay = await taken(supervisor)
    await asked(relay)
    working = Response(working=file_relay_pb2.FileRelayWorking())
    while not asking.done():
        try:
            await relay.answer(working)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            break
        await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert reason_in(caught.value) == "FILES_UNSUPPORTED"


def readable_for_others(file: Path) -> None:
    file.chmod(0o604)


def short(file: Path) -> None:
    file.write_bytes(b"short")


def gone(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("spoil", [readable_for_others, short, gone])
async def test_a_secret_that_cannot_be_used(
    harness: GatewayHarness, secret_file: Path, spoil: Callable[[Path], object]
) -> None:
    """FRM-8: the caller hears that it is the gateway's fault, and not where the secret is."""
    spoil(secret_file)
    supervisor = await listening(harness)
    asking = asyncio.create_task(harness.stat())
    relay = await taken(supervisor)
    assert await rest_of(relay) == b""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    assert reason_in(caught.value) == "AGENT_UNAUTHENTICATED"
    assert str(secret_file) not in str(caught.value)


async def test_a_secret_that_is_replaced(harness: GatewayHarness, secret_file: Path) -> None:
    """FRM-8: the next call uses the new one."""
    await asyncio.to_thread(secret_file.write_bytes, b"y" * 40)
    supervisor = await listening(harness)
    asking = asyncio.create_task(harness.stat())
    relay = await taken(supervisor)
    await trusted(relay, b"y" * 40)
    await relay.next_frame()
    await relay.answer(Response(stat_file=files_pb2.StatFileResponse()))
    await asking
