"""Ports of the sandbox as targets, as upstream serves them; upstream's names are in the docstrings."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.relay.tcp_target import loopback_address, open_tcp_target
from supervisor_scene import SandboxPlaces, Scene, connected

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler, host: str = "127.0.0.1") -> AsyncGenerator[int]:
    server = await asyncio.start_server(handler, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def scene(places: SandboxPlaces) -> AsyncGenerator[Scene]:
    async with connected(places.token, RelayTargets()) as running:
        yield running


def tcp(port: int, host: str = "127.0.0.1") -> Any:
    return openshell_pb2.TcpRelayTarget(host=host, port=port)


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("127.8.9.1", "127.8.9.1"), ("::1", "::1")]
)
def test_loopback_is_allowed(host: str, address: str) -> None:
    """tcp_target_allows_loopback_hosts."""
    assert loopback_address(host, 1) == (address, 1)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", " localhost "])
def test_localhost_is_no_name(host: str) -> None:
    """tcp_target_normalizes_localhost_before_dialing."""
    assert loopback_address(host, 65535) == ("127.0.0.1", 65535)


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "example.com",
        "localhost.example.com",
        "::",
        "127.1",
        "::1%lo",
    ],
)
def test_anything_else_is_not(host: str) -> None:
    """tcp_target_rejects_non_loopback_hosts: also names, which the sandbox could resolve as it likes."""
    with pytest.raises(ValueError, match="must be loopback"):
        loopback_address(host, 80)


def test_a_host_is_required() -> None:
    with pytest.raises(ValueError, match="host is required"):
        loopback_address("", 80)


@pytest.mark.parametrize("port", [0, 65536, 1 << 31])
def test_ports(port: int) -> None:
    """tcp_target_rejects_invalid_ports."""
    with pytest.raises(ValueError, match="between 1 and 65535"):
        loopback_address("127.0.0.1", port)


async def test_small_pieces_are_sent_at_once() -> None:
    """connect_tcp_target_sets_tcp_nodelay."""

    async def idle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(idle) as port:
        with await open_tcp_target("localhost", port) as target:
            assert target.nodelay


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"tcp": openshell_pb2.TcpRelayTarget(host="10.1.1.1", port=80)}, "must be loopback"),
        ({"tcp": openshell_pb2.TcpRelayTarget(host="localhost")}, "between 1 and 65535"),
        ({"tcp": openshell_pb2.TcpRelayTarget(port=80)}, "host is required"),
        ({"ssh": openshell_pb2.SshRelayTarget()}, "serves no ssh target"),
        ({}, "serves no ssh target"),
    ],
)
async def test_a_target_that_cannot_be_opened(scene: Scene, target: dict[str, Any], words: str) -> None:
    """RLY-5: the target comes first; if it fails, there is a result and no claim."""
    await scene.session.say(relay_open=openshell_pb2.RelayOpen(channel_id="c", **target))
    result = await scene.session.result("c")
    assert not result.success
    assert words in result.error
    assert scene.gateway.claims == []


async def test_nobody_listens(scene: Scene) -> None:
    """RLY-5: as above; the words are the kernel's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        await scene.session.say(relay_open=openshell_pb2.RelayOpen(channel_id="c", tcp=tcp(port)))
        result = await scene.session.result("c")
    assert not result.success
    assert "refused" in result.error.lower()
    assert scene.gateway.claims == []


async def test_a_hello_announces_what_is_served(scene: Scene) -> None:
    """RLY-1: a supervisor that serves neither files nor commands announces neither, and refuses both."""
    assert not scene.session.hello.HasField("file_transfer")
    assert not scene.session.hello.HasField("exec")
    opened = openshell_pb2.RelayOpen(channel_id="c")
    opened.file.transfer_id = "t"
    await scene.session.say(relay_open=opened)
    assert "serves no file target" in (await scene.session.result("c")).error


async def test_bytes_both_ways(scene: Scene) -> None:
    content = os.urandom(3_000_000)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with listening(echo) as port:
        relay = await scene.gateway.open_relay(scene.session, tcp=tcp(port, "localhost"))
        result = await scene.session.result("channel-1")
        assert result.success

        async def send() -> None:
            for start in range(0, len(content), 50_000):
                await relay.send(content[start : start + 50_000])
            await relay.context.write(b"\x12\x00")  # empty data is legal and means nothing

        sending = asyncio.create_task(send())
        received = bytearray()
        while len(received) < len(content):
            received += await relay.receive()
        await sending
        assert bytes(received) == content
        relay.end()


async def test_the_target_ends_first(scene: Scene) -> None:
    """Its end is passed on, and what the gateway still says arrives."""
    heard = asyncio.get_running_loop().create_future()

    async def speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all I have to say")
        writer.write_eof()
        heard.set_result(await reader.readexactly(5))
        writer.close()

    async with listening(speaks_first) as port:
        relay = await scene.gateway.open_relay(scene.session, tcp=tcp(port))
        assert await relay.rest() == b"all I have to say"
        await relay.send(b"later")
        assert await heard == b"later"
        relay.end()


async def test_the_gateway_ends_first(scene: Scene) -> None:
    """The end of its stream reaches the target."""
    heard = asyncio.get_running_loop().create_future()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    async with listening(listens) as port:
        relay = await scene.gateway.open_relay(scene.session, tcp=tcp(port))
        await relay.send(b"all")
        relay.end()
        assert await heard == b"all"


async def test_the_target_resets(scene: Scene) -> None:
    """For the gateway that is an end like any other; the session lives."""

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    async with listening(resets) as port:
        relay = await scene.gateway.open_relay(scene.session, tcp=tcp(port))
        await relay.send(b"xy")
        assert await relay.rest() == b""
        relay.end()
    await scene.session.say(relay_open=openshell_pb2.RelayOpen(channel_id="after"))
    assert not (await scene.session.result("after")).success


async def test_a_frame_that_is_no_data(scene: Scene) -> None:
    """Upstream: an error, and the target is closed."""
    ended = asyncio.Event()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()
            writer.close()

    async with listening(listens) as port:
        relay = await scene.gateway.open_relay(scene.session, tcp=tcp(port))
        again = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="x"))
        await relay.context.write(again.SerializeToString())
        await ended.wait()
        relay.end()
