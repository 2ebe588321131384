"""The supervisor's session when things fail in an order that nobody planned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from gateway_harness import SANDBOX, running_gateway
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import RelayByteStream
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.session import control_stream as session_module
from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.control_stream import SupervisorSession
from openshell_supervisor_sim.session.token_file import TokenFile, TokenFileError


class NoFiles:
    async def serve(self, stream: RelayByteStream, /) -> None:
        raise AssertionError(f"nobody should ask {stream}")

    capability = file_relay_pb2.FileTransferCapability(protocol_version=1, max_file_bytes=77)

    def finish(self) -> None:
        """There is nothing to wait for."""


class DyingCall:
    """A control stream on which reader and writer fail in the same turn of the loop."""

    def __init__(self) -> None:
        self._answers = [
            openshell_pb2.GatewayMessage(session_accepted=openshell_pb2.SessionAccepted(session_id="s")),
            # Refused, so there is something to write.
            openshell_pb2.GatewayMessage(relay_open=openshell_pb2.RelayOpen(channel_id="c")),
        ]
        self._dead = asyncio.Event()
        self._said = 0

    async def write(self, _message: bytes) -> None:
        self._said += 1
        if self._said > 1:
            self._dead.set()
            await asyncio.sleep(0)
            raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> object:
        if self._answers:
            return self._answers.pop(0).SerializeToString()
        await self._dead.wait()
        return grpc.aio.EOF

    def done(self) -> bool:
        return False

    def cancel(self) -> None:
        self._dead.set()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("token\n", "ascii")
    return path


async def test_reader_and_writer_fail_together(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor connects again; it ended with an ExceptionGroup that nobody expected."""
    calls: list[DyingCall] = []
    twice = asyncio.Event()

    def open_stream(*_: object) -> DyingCall:
        calls.append(DyingCall())
        if len(calls) > 1:
            twice.set()
        return calls[-1]

    monkeypatch.setattr(session_module, "open_stream", open_stream)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        session = SupervisorSession(
            channel=channel, sandbox_id=SANDBOX, token=TokenFile(token), targets=RelayTargets(files=NoFiles()),
            backoff=Backoff(initial=0.001, maximum=0.001),
        )  # fmt: skip
        running = asyncio.create_task(session.run())
        again = asyncio.create_task(twice.wait())
        await asyncio.wait({running, again}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert not running.done(), running.exception()
        assert again.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_relay_for_which_there_is_no_token(token: Path) -> None:
    """RLY-5: refused at once, and not left to the claim timeout."""
    async with running_gateway() as harness:
        await asyncio.to_thread(token.write_text, harness.access.sandbox_tokens.mint(SANDBOX).token, "ascii")
        session = SupervisorSession(
            channel=harness.channel(), sandbox_id=SANDBOX, token=TokenFile(token), targets=RelayTargets(files=NoFiles())
        )  # fmt: skip
        running = asyncio.create_task(session.run())
        await session.connected.wait()
        await asyncio.to_thread(token.unlink)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.stat()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "refused the relay: --token-file" in str(caught.value.details())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def empty(path: Path) -> None:
    path.write_text("", "ascii")


def two_lines(path: Path) -> None:
    path.write_text("one\ntwo\n", "ascii")


def control_character(path: Path) -> None:
    path.write_text("one\0", "ascii")


@pytest.mark.parametrize("spoil", [Path.unlink, empty, two_lines, control_character])
def test_a_file_without_a_token_is_refused_before_grpc_sees_it(
    token: Path, spoil: Callable[[Path], None]
) -> None:
    assert TokenFile(token).read() == "token"
    spoil(token)
    with pytest.raises(TokenFileError, match="--token-file"):
        TokenFile(token).read()
