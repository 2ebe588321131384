"""The peers of the supervisor's role: frames, the fake gateway, the sandbox's files, and the handshake."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from openshell_files_conformance.cases.supervisor.vector_names import slug
from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_files_conformance.peers.agent_port import AGENT, GATEWAY, proof
from openshell_files_conformance.peers.deep_tree import opened, remove, walk
from openshell_files_conformance.peers.gateway import FakeGateway, RelayRefusedError, fake_gateway
from openshell_files_conformance.peers.operation import FileRelay, brief, data, digest
from openshell_files_conformance.peers.relay_frames import (
    FrameDecoder,
    FramingError,
    cut,
    encode_frame,
    encode_varint,
    requests,
)
from openshell_files_conformance.peers.sandbox_root import LocalRoot, SandboxFiles, probed
from openshell_files_conformance.vectors_data import value, vectors

Request = file_relay_pb2.FileRelayRequest
_FRAMES = vectors("frames")


class Body:
    """Stands for a message: the bodies in the vectors of frames are none."""

    @staticmethod
    def FromString(body: bytes) -> bytes:  # noqa: N802 - protobuf's name
        return body


@pytest.mark.parametrize("given", _FRAMES["streams"], ids=lambda given: given["name"])
@pytest.mark.parametrize("sizes", [[], [1] * 64, [3, 0, 5]], ids=["whole", "bytes", "odd"])
def test_the_decoder_takes_the_vectors(given: dict[str, Any], sizes: list[int]) -> None:
    if given.get("error") == "ssh":
        pytest.skip("a banner is the business of a gateway")
    body: Any = Body
    decoder, frames, error = FrameDecoder(body), list[bytes](), ""
    try:
        for piece in cut(value(given["stream"]), sizes):
            frames += decoder.feed(piece)
    except FramingError as found:
        error = str(found)
    assert bool(error) == ("error" in given)
    if not error or sizes == [1] * 64:
        # Whole frames in front of a broken one come out only if they came in a piece of their own.
        assert frames == [value(frame) for frame in given["frames"]]
    assert bool(decoder.pending) == given.get("unfinished", False) or error


@pytest.mark.parametrize("given", _FRAMES["varints"], ids=lambda given: given["name"])
def test_varints(given: dict[str, Any]) -> None:
    if "value" in given and given.get("shortest", True):
        assert encode_varint(int(given["value"])).hex() == given["encoded"]


def test_a_stream_that_ends_within_a_frame() -> None:
    decoder = requests()
    assert decoder.feed(encode_frame(Request(upload=data(0, b"abc")))[:-1]) == []
    with pytest.raises(FramingError, match="inside a frame"):
        decoder.finish()


@pytest.mark.parametrize("given", vectors("handshakes")["proofs"], ids=lambda given: given["name"])
def test_proofs(given: dict[str, str]) -> None:
    secret, own, theirs = (bytes.fromhex(given[name]) for name in ("secret", "gateway_nonce", "agent_nonce"))
    assert proof(secret, AGENT, own, theirs).hex() == given["agent_proof"]
    assert proof(secret, GATEWAY, own, theirs).hex() == given["gateway_proof"]


@pytest.mark.parametrize("given", vectors("chunks")["checksums"], ids=lambda given: given["name"])
def test_checksums(given: dict[str, Any]) -> None:
    assert f"{data(0, value(given['content'])).data.crc32c:08x}" == given["crc32c"]


def test_large_messages_are_not_written_out() -> None:
    request = Request(upload=data(7, b"x" * 10_000))
    assert brief(request) == f"upload.data at 7 ({request.ByteSize()} bytes)"
    assert "xxx" in brief(Request(upload=data(7, b"x" * 10)))


def test_slugs() -> None:
    assert slug("2^64 - 1 from 9") == "2-to-the-64-1-from-9"
    assert slug("/a/.") == "slash-a-slash-dot"


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


class Supervisor:
    """The supervisor's end, by hand."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        metadata = (("authorization", f"Bearer {token}"),)
        self._metadata, self._channel = metadata, channel
        self.session: Any = self._call("ConnectSupervisor", openshell_pb2.GatewayMessage)

    def _call(self, name: str, answer: Any) -> Any:
        method: Any = self._channel.stream_stream(
            f"/openshell.v1.OpenShell/{name}",
            request_serializer=_serialized,
            response_deserializer=answer.FromString,
        )
        return method(metadata=self._metadata)

    async def hello(self) -> None:
        await self.session.write(
            openshell_pb2.SupervisorMessage(hello=openshell_pb2.SupervisorHello(sandbox_id="s"))
        )

    async def claim(self, channel_id: str) -> Any:
        call = self._call("RelayStream", openshell_pb2.RelayFrame)
        await call.write(openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=channel_id)))
        return call


@asynccontextmanager
async def connected(token: str = "right") -> AsyncGenerator[tuple[FakeGateway, Supervisor]]:
    async with fake_gateway("right") as gateway, grpc.aio.insecure_channel(gateway.endpoint) as channel:
        supervisor = Supervisor(channel, token)
        await supervisor.hello()
        yield gateway, supervisor


async def test_the_gateway_accepts_and_opens_relays() -> None:
    async with connected() as (gateway, supervisor):
        session = await gateway.session()
        assert (await supervisor.session.read()).HasField("session_accepted")
        opening = asyncio.create_task(
            gateway.open_relay(session, openshell_pb2.RelayOpen(file=file_relay_pb2.FileRelayTarget()))
        )
        opened_ = (await supervisor.session.read()).relay_open
        call = await supervisor.claim(opened_.channel_id)
        relay = FileRelay(await opening, Transcript())
        await relay.input_end()
        assert requests().feed((await call.read()).data)[0].HasField("input_end")
        answer = file_relay_pb2.FileRelayResponse(
            error=file_relay_pb2.FileRelayError(reason="FILE_NOT_FOUND")
        )
        await call.write(openshell_pb2.RelayFrame(data=encode_frame(answer)))
        assert (await relay.outcome()).reason == "FILE_NOT_FOUND"
        await call.done_writing()
        assert await relay.rest() == []
        relay.relay.end()
        assert await call.code() is grpc.StatusCode.OK


async def test_a_channel_is_claimed_once() -> None:
    async with connected() as (gateway, supervisor):
        claimed = gateway.expect("one")
        first = await supervisor.claim("one")
        second = await supervisor.claim("one")
        assert await second.code() is grpc.StatusCode.NOT_FOUND
        (await claimed).reset()
        assert await first.code() is grpc.StatusCode.UNAVAILABLE
        assert gateway.claims == ["one", "one"]


async def test_a_refused_open_is_told() -> None:
    async with connected() as (gateway, supervisor):
        session = await gateway.session()
        opening = asyncio.create_task(gateway.open_relay(session, openshell_pb2.RelayOpen()))
        await supervisor.session.read()
        channel_id = (await supervisor.session.read()).relay_open.channel_id
        result = openshell_pb2.RelayOpenResult(channel_id=channel_id, error="no such target")
        await supervisor.session.write(openshell_pb2.SupervisorMessage(relay_open_result=result))
        with pytest.raises(RelayRefusedError, match="no such target"):
            await opening


async def test_a_wrong_token_is_refused() -> None:
    async with connected("wrong") as (gateway, supervisor):
        assert await supervisor.session.code() is grpc.StatusCode.UNAUTHENTICATED
        assert gateway.wrong_tokens == ["Bearer wrong"]
        with pytest.raises(CannotGoOnError, match="did not connect"):
            await gateway.session(seconds=0.1)


async def test_a_gateway_comes_back_at_its_port() -> None:
    gateway = FakeGateway()
    await gateway.start()
    port = gateway.port
    await gateway.stop()
    await gateway.start(port)
    assert gateway.port == port
    await gateway.stop()


@pytest.fixture(params=["local", "probed"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SandboxFiles]:
    if request.param == "local":
        yield SandboxFiles(LocalRoot(tmp_path))
        return
    program = [sys.executable, "-m", "openshell_files_conformance.peers.sandbox_root", str(tmp_path)]
    async with probed(program) as root:
        yield SandboxFiles(root)


async def test_the_sandboxs_files(files: SandboxFiles) -> None:
    await files.mkdir("/a/b", 0o750)
    await files.write("/a/b/file", b"content", mode=0o640, modified_ns=5)
    await files.link("/a/link", "b/file")
    await files.link("/a/link", "other")
    await files.hard_link("/a/hard", "/a/b/file")
    assert await files.special("/a/fifo", "fifo")
    entry = await files.entry("/a/b/file")
    assert entry is not None
    assert (entry.kind, entry.size, entry.mode, entry.modified_ns, entry.links) == ("file", 7, 0o640, 5, 2)
    tree = await files.tree("/a")
    kinds = {name: found.kind for name, found in tree.items()}
    assert kinds == {
        b"b": "directory",
        b"b/file": "file",
        b"link": "link",
        b"hard": "file",
        b"fifo": "special",
    }
    assert tree[b"link"].target == b"other"
    assert await files.read("/a/hard") == b"content"
    assert await files.read("/a/link") is None
    assert await files.entry("/missing/file") is None
    await files.write("/a/.openshell-upload-x")
    assert await files.staging("/a") == [b".openshell-upload-x"]
    await files.remove("/a")
    assert not await files.exists("/a")
    with pytest.raises(CannotGoOnError, match="rename"):
        await files.rename("/a", "/b")


def test_directories_that_are_too_deep_for_a_path(tmp_path: Path) -> None:
    top = bytes(tmp_path / "top")
    Path(tmp_path, "top").mkdir()
    path = b""
    for _ in range(300):
        with opened(top, path) as directory:
            os.mkdir(b"n" * 60, dir_fd=directory)
        path = path + b"/" + b"n" * 60 if path else b"n" * 60
    assert len(list(walk(top))) == 300
    remove(top)
    assert not Path(tmp_path, "top").exists()


def test_digests() -> None:
    assert digest(b"").value.hex().startswith("e3b0c442")
