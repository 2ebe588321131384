"""The file agent behind a port: who it talks to, and that it serves them."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conditions import until
from digest_values import finish_of
from openshell_files_process import agent_secret
from openshell_files_process.agent_secret import (
    NONCE_BYTES,
    SecretError,
    agent_proof,
    gateway_proof,
    load_secret,
)
from openshell_files_protocol.framing import FrameDecoder, frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_supervisor_sim import agent_port
from openshell_supervisor_sim.agent import AgentSettings, FileAgent
from openshell_supervisor_sim.agent_port import AgentPort, listen
from openshell_supervisor_sim.relay.targets import RelayTargets
from supervisor_scene import SandboxPlaces, connected, supervisor_process
from vector_cases import Handshakes, Proof, named, read

SECRET = b"0123456789abcdef0123456789abcdef"
NONCE = bytes(range(NONCE_BYTES))

Request = file_relay_pb2.FileRelayRequest
Response = file_relay_pb2.FileRelayResponse


class PortClient:
    """What a gateway does, in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = FrameDecoder()
        self._frames: list[Response] = []

    async def send(self, *messages: Request) -> None:
        for message in messages:
            self.writer.write(b"".join(frame_segments([message.SerializeToString()])))
        await self.writer.drain()

    async def frame(self) -> Response | None:
        while not self._frames:
            data = await self.reader.read(65536)
            if not data:
                return None
            self._frames += [Response.FromString(bytes(frame)) for frame in self._decoder.feed(data)]
        return self._frames.pop(0)

    async def error(self) -> str:
        frame = await self.frame()
        assert frame is not None
        assert frame.WhichOneof("frame") == "error", frame
        assert await self.frame() is None
        return frame.error.reason

    async def challenge(self, nonce: bytes = NONCE) -> file_relay_pb2.FileRelayChallenge:
        await self.send(Request(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=nonce)))
        frame = await self.frame()
        assert frame is not None
        assert frame.WhichOneof("frame") == "challenge", frame
        return frame.challenge


def proof(challenge: file_relay_pb2.FileRelayChallenge, secret: bytes = SECRET) -> Request:
    return Request(proof=file_relay_pb2.FileRelayProof(proof=gateway_proof(secret, NONCE, challenge.nonce)))


def stat_request(path: str = "/sandbox/f") -> Request:
    return Request(
        open=file_relay_pb2.FileRelayOpen(
            protocol_version=1,
            transfer_id="t",
            principal="alice",
            stat_file=files_pb2.StatFileRequest(remote_path=path),
        )
    )


def upload_request(path: str) -> Request:
    metadata = files_pb2.UploadFileMetadata(remote_path=path, explicit_finish=True)
    return Request(
        open=file_relay_pb2.FileRelayOpen(
            protocol_version=1, transfer_id="t", principal="alice", upload=metadata
        )
    )


@pytest.fixture
async def port(places: SandboxPlaces) -> AsyncIterator[int]:
    (places.root / "sandbox/f").write_bytes(b"content")
    agent = FileAgent(AgentSettings(root=places.root, state_dir=places.state))
    await agent.start()
    listener = listen("127.0.0.1", 0)
    serving = AgentPort(agent, SECRET, max_connections=2)
    accepting = asyncio.create_task(serving.serve(listener))
    try:
        yield listener.getsockname()[1]
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await serving.drain(0)
        listener.close()
        await agent.aclose()


@asynccontextmanager
async def client_of(port: int) -> AsyncGenerator[PortClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield PortClient(reader, writer)
    finally:
        writer.close()


async def test_both_prove_themselves(port: int) -> None:
    """FRM-8: then the agent serves, also what was sent together with the proof."""
    async with client_of(port) as client:
        challenge = await client.challenge()
        assert challenge.proof == agent_proof(SECRET, NONCE, challenge.nonce)
        assert len(challenge.nonce) == NONCE_BYTES
        await client.send(proof(challenge), stat_request())
        frames = [await client.frame(), await client.frame()]
        assert [frame.WhichOneof("frame") for frame in frames if frame is not None] == [
            "accepted",
            "stat_file",
        ]
        assert await client.frame() is None


async def test_byte_by_byte(port: int) -> None:
    """FRM-8, FRM-1: how the handshake is cut means nothing."""
    async with client_of(port) as client:
        challenge = await client.challenge()
        whole = b"".join(
            b"".join(frame_segments([message.SerializeToString()]))
            for message in (proof(challenge), stat_request())
        )
        for number in range(len(whole)):
            client.writer.write(whole[number : number + 1])
            await client.writer.drain()
        frame = await client.frame()
        assert frame is not None
        assert frame.WhichOneof("frame") == "accepted"


async def test_a_wrong_proof(port: int) -> None:
    """FRM-20: another secret, the agent's own proof sent back, none, one for another nonce."""
    for wrong in ("secret", "reflected", "empty", "nonce"):
        async with client_of(port) as client:
            challenge = await client.challenge()
            value = {
                "secret": gateway_proof(b"x" * 32, NONCE, challenge.nonce),
                "reflected": challenge.proof,
                "empty": b"",
                "nonce": gateway_proof(SECRET, challenge.nonce, challenge.nonce),
            }[wrong]
            await client.send(Request(proof=file_relay_pb2.FileRelayProof(proof=value)), stat_request())
            assert await client.error() == "AGENT_UNAUTHENTICATED"


async def test_no_proof_is_good_twice(port: int) -> None:
    """FRM-22: the agent's nonce is new each time, so a recorded proof is worth nothing."""
    async with client_of(port) as first:
        recorded = proof(await first.challenge())
    async with client_of(port) as second:
        await second.challenge()
        await second.send(recorded)
        assert await second.error() == "AGENT_UNAUTHENTICATED"


@pytest.mark.parametrize(
    "first",
    [
        stat_request(),
        Request(),
        Request(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=b"short")),
        Request(proof=file_relay_pb2.FileRelayProof(proof=bytes(32))),
    ],
    ids=["open", "nothing", "short nonce", "proof"],
)
async def test_nothing_before_the_handshake(port: int, first: Request) -> None:
    """FRM-20: a peer that has not proved itself gets nothing but the refusal."""
    async with client_of(port) as client:
        await client.send(first)
        assert await client.error() == "AGENT_UNAUTHENTICATED"


@pytest.mark.parametrize(
    "data", [b"\xff" * 20, b"SSH-2.0-x\r\n", b"\x04\xff\xff\xff\xff", b"\x81\x80\x04" + bytes(100)]
)
async def test_bytes_that_are_no_handshake(port: int, data: bytes) -> None:
    """FRM-20: no varint, another protocol, no message, a frame larger than a stranger may send."""
    async with client_of(port) as client:
        client.writer.write(data)
        assert await client.error() == "AGENT_UNAUTHENTICATED"


async def test_a_peer_that_says_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """FRM-20: it is told and closed when the time is over."""
    monkeypatch.setattr(agent_port, "HANDSHAKE_SECONDS", 0.1)
    async with client_of(port) as client:
        assert await client.error() == "AGENT_UNAUTHENTICATED"


async def test_strangers_are_bounded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody keeps the gateway out by opening connections and saying nothing."""
    monkeypatch.setattr(agent_port, "MAX_HANDSHAKES", 2)
    async with client_of(port) as one, client_of(port) as two:
        await one.challenge()
        await two.challenge()
        async with client_of(port) as third:
            assert await third.frame() is None
        await one.send(proof(await _again(one)))
        assert await one.error() == "AGENT_UNAUTHENTICATED"


async def _again(_: PortClient) -> file_relay_pb2.FileRelayChallenge:
    return file_relay_pb2.FileRelayChallenge(nonce=NONCE)


async def test_operations_are_bounded(port: int) -> None:
    """More than allowed are told so, with a time to try again."""
    async with client_of(port) as one, client_of(port) as two, client_of(port) as three:
        for number, client in enumerate((one, two)):
            await client.send(proof(await client.challenge()), upload_request(f"/sandbox/{number}"))
            accepted = await client.frame()
            assert accepted is not None
            assert accepted.WhichOneof("frame") == "accepted"
        await three.send(proof(await three.challenge()))
        assert await three.error() == "TOO_MANY_TRANSFERS"


async def test_through_the_tcp_target(port: int, places: SandboxPlaces) -> None:
    """FRM-8: an upload through a supervisor that only bridges bytes."""
    content = bytes(range(256)) * 8192
    async with connected(places.token, RelayTargets()) as scene:
        relay = await scene.gateway.open_relay(
            scene.session, tcp=openshell_pb2.TcpRelayTarget(host="127.0.0.1", port=port)
        )
        decoder = FrameDecoder()
        frames: list[Response] = []

        async def send(message: Request) -> None:
            await relay.send(b"".join(frame_segments([message.SerializeToString()])))

        async def receive() -> Response:
            while not frames:
                data = await relay.receive()
                assert data
                frames.extend(Response.FromString(bytes(frame)) for frame in decoder.feed(data))
            return frames.pop(0)

        await send(Request(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=NONCE)))
        await send(proof((await receive()).challenge))
        metadata = files_pb2.UploadFileMetadata(
            remote_path="/sandbox/up", size_bytes=len(content), explicit_finish=True
        )
        await send(
            Request(
                open=file_relay_pb2.FileRelayOpen(
                    protocol_version=1, transfer_id="t", principal="alice", upload=metadata
                )
            )
        )
        for start in range(0, len(content), 1 << 18):
            chunk = files_pb2.UploadFileRequest(chunk=content[start : start + (1 << 18)])
            await send(Request(upload=chunk))
        finish = finish_of(content)
        await send(Request(upload=files_pb2.UploadFileRequest(finish=finish)))
        assert (await receive()).WhichOneof("frame") == "accepted"
        answer = await receive()
        while answer.WhichOneof("frame") == "working":
            answer = await receive()
        assert answer.upload.bytes_written == len(content), answer
        relay.end()
    assert (places.root / "sandbox/up").read_bytes() == content


async def test_the_command(places: SandboxPlaces, tmp_path: Path) -> None:
    """`agent` says where it listens and what holds, serves, and stops when standard input ends."""
    secret = places.home / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    (places.root / "sandbox/f").write_bytes(b"content")
    options = ["--root", str(places.root), "--state-dir", str(places.state), "--secret-file", str(secret)]
    async with supervisor_process(*options, log=tmp_path / "log", command="agent") as (running, _):
        host, _, number = str(running.ready["listening"]).rpartition(":")
        assert host == "127.0.0.1"
        assert running.confinement["no_new_privs"] is True
        async with client_of(int(number)) as client:
            await client.send(proof(await client.challenge()), stat_request())
            frame = await client.frame()
            assert frame is not None
            assert frame.WhichOneof("frame") == "accepted"
        assert await running.stop() == 0
    assert SECRET.decode() not in (tmp_path / "log").read_text("utf-8")


async def test_an_agent_that_stops_lets_operations_finish(places: SandboxPlaces) -> None:
    agent = FileAgent(AgentSettings(root=places.root, state_dir=places.state))
    await agent.start()
    with listen("127.0.0.1", 0) as listener:
        serving = AgentPort(agent, SECRET)
        accepting = asyncio.create_task(serving.serve(listener))
        async with client_of(listener.getsockname()[1]) as client:
            await client.send(proof(await client.challenge()))
            await until(lambda: agent.statistics().active_operations == 1, "the agent serves")
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            draining = asyncio.create_task(serving.drain(30))
            (places.root / "sandbox/f").write_bytes(b"content")
            await client.send(stat_request())
            frame = await client.frame()
            assert frame is not None
            assert frame.WhichOneof("frame") == "accepted"
            client.writer.close()
            assert await draining == 0
    await agent.aclose()


@pytest.mark.parametrize("case", read(Handshakes).proofs, ids=named)
def test_vectors(case: Proof) -> None:
    """FRM-19: HMAC-SHA-256 of the role's text and both nonces."""
    texts = {
        b"openshell-files agent": (agent_proof, case.agent_proof),
        b"openshell-files gateway": (gateway_proof, case.gateway_proof),
    }
    secret, *nonces = map(bytes.fromhex, (case.secret, case.gateway_nonce, case.agent_nonce))
    for text, (proof_of, expected) in texts.items():
        assert proof_of(secret, *nonces).hex() == expected
        assert hmac.digest(secret, b"".join([text, *nonces]), "sha256").hex() == expected


def test_proofs_differ_by_role_and_nonces() -> None:
    """FRM-19: none is good for another role, order of nonces, or secret."""
    other = bytes(32)
    proofs = {
        agent_proof(SECRET, NONCE, other),
        gateway_proof(SECRET, NONCE, other),
        agent_proof(SECRET, other, NONCE),
        agent_proof(b"x" * 32, NONCE, other),
    }
    assert len(proofs) == 4
    with pytest.raises(ValueError, match="32 bytes"):
        agent_proof(SECRET, b"short", other)
    assert agent_secret.new_nonce() != agent_secret.new_nonce()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"x" * 31, 0o600, "31 bytes"),
        (b"  \n", 0o600, "0 bytes"),
        (SECRET, 0o644, "other users"),
        (SECRET, 0o602, "other users"),
        (b"x" * 70_000, 0o600, "more than"),
    ],
)
def test_secrets_that_are_refused(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    """FRM-18: short ones, and files that others may use; the message never holds it."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(SecretError, match=words) as caught:
        load_secret(path)
    assert SECRET.decode() not in str(caught.value)


def test_a_secret_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\n " + SECRET + b"\n")
    path.chmod(0o640)
    assert load_secret(path) == SECRET
    with pytest.raises(SecretError, match="No such file"):
        load_secret(tmp_path / "missing")


def test_it_listens_on_loopback_only() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.family is socket.AF_INET
