"""A thousand sandboxes' supervisors come, are superseded and die while two hundred transfers run."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import threading
from collections import Counter

import grpc
import psutil
from conditions import until
from gateway_harness import FakeSupervisor, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings, RelaySettings
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream

SANDBOXES = 1000
TRANSFERS = 200
#: Sandboxes that have transfers; each keeps one session through all of it.
SERVING = 20
PIECE = 16 * 1024
#: Supervisors that come and go at the same time.
AT_ONCE = 50
#: What the process may grow by in the second half; pytest alone keeps some MiB of log lines.
KEPT_BYTES = 12 * 1024 * 1024


class Footprint:
    """What this process holds: everything but memory is compared exactly."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
        self.threads = {thread.name for thread in threading.enumerate()}
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.resident: int = psutil.Process().memory_info().rss


class Transfer:
    """One download: the agent sends a piece whenever the test says so."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pieces = 0
        self.go_on: asyncio.Queue[bool] = asyncio.Queue()

    def piece(self, index: int) -> bytes:
        return f"{self.number}/{index} ".encode().ljust(PIECE, b".")

    async def serve(self, supervisor: FakeSupervisor, channel_id: str) -> None:
        relay = await supervisor.claim(channel_id)
        opened = await relay.next_frame()
        assert opened is not None
        assert opened.open.download.remote_path == str(self.number)
        await relay.answer(
            file_relay_pb2.FileRelayResponse(
                download=files_pb2.DownloadFileResponse(header=files_pb2.DownloadFileHeader())
            )
        )
        while await self.go_on.get():
            chunk = files_pb2.DownloadFileResponse(chunk=self.piece(self.pieces))
            await relay.answer(file_relay_pb2.FileRelayResponse(download=chunk))
            self.pieces += 1
        end = file_relay_pb2.FileRelayDownloadEnd(bytes_sent=self.pieces * PIECE)
        await relay.answer(file_relay_pb2.FileRelayResponse(download_end=end))
        assert await relay.next_frame() is None

    async def receive(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> int:
        request = files_pb2.DownloadFileRequest(
            sandbox_id=serving_id(self.number % SERVING), remote_path=str(self.number)
        )
        call = channel.unary_stream(
            methods.DOWNLOAD_FILE,
            request_serializer=files_pb2.DownloadFileRequest.SerializeToString,
            response_deserializer=files_pb2.DownloadFileResponse.FromString,
        )(request, metadata=metadata)
        received = -1
        async for message in call:
            if received >= 0:
                assert message.chunk == self.piece(received)
            received += 1
        return received


def serving_id(number: int) -> str:
    return f"serving-{number}"


def churning_id(number: int) -> str:
    return f"churning-{number}"


async def churn(
    harness: GatewayHarness, channels: list[grpc.aio.Channel], number: int, dice: random.Random
) -> None:
    """Let one sandbox's supervisor live: connect, perhaps be superseded, perhaps ask and answer, and die in some way."""

    def supervisor() -> FakeSupervisor:
        sandbox_id = churning_id(number)
        token = harness.access.sandbox_tokens.mint(sandbox_id).token
        return FakeSupervisor(dice.choice(channels), token, sandbox_id)

    lives = [supervisor() for _ in range(dice.randint(1, 3))]
    for life in lives:
        await life.connect()
        if dice.random() < 0.3:
            await life.say(openshell_pb2.SupervisorMessage(heartbeat=openshell_pb2.SupervisorHeartbeat()))
        if dice.random() < 0.2:
            life.call.cancel()
    last = lives[-1]
    match dice.randint(0, 2):
        case 0:
            last.call.cancel()
        case 1:
            await last.call.done_writing()
        case _:
            unclaimed = openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="made up"))
            stray = open_stream(last.channel, methods.RELAY_STREAM, last.metadata)
            await stray.write(unclaimed.SerializeToString())
            assert await stray.code() is grpc.StatusCode.NOT_FOUND
            last.call.cancel()
    for life in lives:
        # Whatever became of it, it ends.
        await life.call.code()


async def transfers_while_others_churn(
    harness: GatewayHarness, channels: list[grpc.aio.Channel], dice: random.Random, numbers: range
) -> None:
    """Run all transfers from before the first of these sandboxes comes until after the last is gone."""
    transfers = [Transfer(number) for number in range(TRANSFERS)]
    user = harness.user()
    async with asyncio.TaskGroup() as serving:
        supervisors: list[FakeSupervisor] = []
        for number in range(SERVING):
            token = harness.access.sandbox_tokens.mint(serving_id(number)).token
            supervisor = FakeSupervisor(channels[number % len(channels)], token, serving_id(number))
            await supervisor.connect()
            supervisors.append(supervisor)
        receiving: list[asyncio.Task[int]] = []
        for transfer in transfers:
            # One after the other, so that the supervisor knows which open is whose.
            channel = channels[transfer.number % len(channels)]
            receiving.append(asyncio.create_task(transfer.receive(channel, user)))
            supervisor = supervisors[transfer.number % SERVING]
            channel_id = (await supervisor.next_open()).channel_id
            serving.create_task(transfer.serve(supervisor, channel_id))
        assert harness.gateway.statistics().transfers.active == TRANSFERS
        for first in range(numbers.start, numbers.stop, AT_ONCE):
            for transfer in transfers:
                transfer.go_on.put_nowait(True)
            now = range(first, min(first + AT_ONCE, numbers.stop))
            await asyncio.gather(*(churn(harness, channels, number, dice) for number in now))
        for transfer in transfers:
            transfer.go_on.put_nowait(False)
        received = await asyncio.gather(*receiving)
    assert received == [transfer.pieces for transfer in transfers]
    assert set(received) == {len(numbers) // AT_ONCE}
    for supervisor in supervisors:
        supervisor.call.cancel()
    await until(lambda: harness.gateway.statistics().idle, "the registries are empty")


async def test_churn() -> None:
    """RLY-4, RLY-9: every transfer brings its own content, and nothing is left of anybody."""
    dice = random.Random(4)
    limits = LimitSettings(
        max_transfers=TRANSFERS, max_transfers_per_sandbox=TRANSFERS // SERVING, principal_share=1
    )
    sandboxes = [*map(churning_id, range(SANDBOXES)), *map(serving_id, range(SERVING))]
    relay = RelaySettings(max_pending=TRANSFERS, claim_timeout=60)
    async with running_gateway(relay=relay, limits=limits, more_sandboxes=sandboxes) as harness:
        channels = [harness.channel() for _ in range(10)]
        # What the first calls make for good is there before the comparison begins.
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        await churn(harness, channels, 0, dice)
        await until(lambda: harness.gateway.statistics().idle, "nothing is left of the first")
        before = Footprint()
        await transfers_while_others_churn(harness, channels, dice, range(SANDBOXES // 2))
        halfway = Footprint()
        await transfers_while_others_churn(harness, channels, dice, range(SANDBOXES // 2, SANDBOXES))

        statistics = harness.gateway.statistics().broker
        assert statistics.sessions.registered > SANDBOXES + 2 * SERVING
        assert statistics.sessions.superseded > SANDBOXES // 10
        await until(
            lambda: Footprint().tasks <= before.tasks, lambda: f"tasks: {Footprint().tasks - before.tasks}"
        )
        after = Footprint()
        assert after.threads <= before.threads
        assert after.descriptors <= before.descriptors
        # Allocators keep what was needed once; the second half needs no more.
        assert after.resident - halfway.resident < KEPT_BYTES
