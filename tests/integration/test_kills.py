"""SIGKILL of client, gateway and supervisor at ten points of an upload and four of a download.

Must hold 6: the destination is the old file or the new one, never partial;
the survivors recover and the next transfer works; every pending call ends and
says what happened.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path

import grpc
import kill_client
import pytest
from conditions import PATIENCE_SECONDS, until
from kill_client import DownloadOrder, UploadOrder, carry_out_download, carry_out_upload, content_of, to_line
from kill_scene import KillScene, Onlooker, UploadCase, content_now, gateway_log, kill_scene
from openshell_files import AsyncFilesClient
from openshell_files.errors import IncompleteDownload, Unavailable
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import StackClient, reason_of, stack_client


class ClientProcess:
    """Starts transfers in a process that will be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._told: set[str] = set()

    async def upload(self, order: UploadOrder) -> None:
        await self._send(to_line(order))

    async def download(self, order: DownloadOrder) -> None:
        await self._send(to_line(order))

    async def metadata_sent(self, transfer_id: str) -> None:
        assert self._process.stdout is not None
        while transfer_id not in self._told:
            line = await self._process.stdout.readline()
            assert line, "the client process ended"
            self._told.add(line.decode().strip())

    async def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        await self._process.stdin.drain()


class OwnTransfers:
    """Starts transfers here, where their ends can be seen."""

    def __init__(self, client: StackClient, sdk: AsyncFilesClient) -> None:
        self._client = client
        self._sdk = sdk
        self._sent: dict[str, asyncio.Event] = {}
        self.uploads: dict[str, asyncio.Task[files_pb2.UploadFileResponse]] = {}
        self.downloads: dict[str, asyncio.Task[None]] = {}

    async def upload(self, order: UploadOrder) -> None:
        sent = self._sent[order.transfer_id] = asyncio.Event()
        self.uploads[order.transfer_id] = asyncio.create_task(carry_out_upload(self._client, order, sent.set))

    async def download(self, order: DownloadOrder) -> None:
        self.downloads[order.local] = asyncio.create_task(carry_out_download(self._sdk, order))

    async def metadata_sent(self, transfer_id: str) -> None:
        await self._sent[transfer_id].wait()

    async def error_of(self, case: UploadCase) -> str:
        """Wait for the end of an upload and return why it failed."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.uploads[case.order.transfer_id]
        except grpc.aio.AioRpcError as error:
            return reason_of(error) if error.details() else "a status without words"
        return "OK"

    async def check_downloads_failed(self, scene: KillScene) -> None:
        """DWN-2: none of the downloads is shown, and each says why."""
        for case in scene.downloads:
            target = Path(case.order.local)
            with pytest.raises((Unavailable, IncompleteDownload)) as caught:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self.downloads[case.order.local]
            assert caught.value.facts.code is not None, case
            assert content_now(target) == case.old, case
        expected = {Path(case.order.local).name for case in scene.downloads if case.old is not None}
        assert set(os.listdir(Path(scene.downloads[0].order.local).parent)) == expected


async def test_the_client_is_killed(tmp_path: Path) -> None:
    """UPL-1, UPL-11: what was not finished is not published; a finish that was taken is carried out."""
    local = tmp_path / "local"
    local.mkdir()
    async with kill_scene(tmp_path / "stack") as scene:
        process = await asyncio.create_subprocess_exec(
            sys.executable, kill_client.__file__, scene.description.endpoint, scene.description.token,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await scene.arrange(ClientProcess(process), local)
            with Onlooker(scene.uploads) as onlooker:
                process.kill()
                await process.wait()
                calls = {case.order.transfer_id for case in scene.uploads}
                await until(lambda: calls <= _outcomes(scene, "CANCELLED"), "the gateway noticed")
                scene.signal_supervisors(signal.SIGCONT)
                scene.signal_supervisors(signal.SIGUSR1)
                published = [case for case in scene.uploads if case.point is not None and case.point.finished]
                await scene.check_destinations(published)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            assert process.stdin is not None
            process.stdin.close()
        _check_onlooker(onlooker)
        for case in scene.downloads:
            assert content_now(Path(case.order.local)) == case.old, case
        async with stack_client(scene.description.endpoint, scene.description.token) as client:
            await scene.check_states(client, published)
            await scene.check_next_transfers(client)


async def test_the_gateway_is_killed(tmp_path: Path) -> None:
    """For the sandbox it is as if the caller had died; every caller is told UNAVAILABLE."""
    local = tmp_path / "local"
    local.mkdir()
    async with (
        kill_scene(tmp_path / "stack") as scene,
        stack_client(scene.description.endpoint, scene.description.token) as client,
        kill_client.sdk_client(scene.description.endpoint, scene.description.token) as sdk,
    ):
        transfers = OwnTransfers(client, sdk)
        await scene.arrange(transfers, local)
        assert scene.stack.gateway is not None
        killed = scene.stack.gateway.pid
        with Onlooker(scene.uploads) as onlooker:
            os.kill(killed, signal.SIGKILL)
            for case in scene.uploads:
                assert await transfers.error_of(case) == "UNAVAILABLE", case
            await transfers.check_downloads_failed(scene)
            scene.signal_supervisors(signal.SIGCONT)
            scene.signal_supervisors(signal.SIGUSR1)
            published = [case for case in scene.uploads if case.point is not None and case.point.finished]
            await scene.check_destinations(published)
        _check_onlooker(onlooker)
        await scene.check_states(client, published)
        await scene.check_next_transfers(client)
        assert scene.stack.gateway.pid != killed


async def test_the_supervisors_are_killed(tmp_path: Path) -> None:
    """RELAY_LOST for every caller; what was renamed is the new file, also for the journal (RSM-3, RSM-7, FRM-14).

    RLY-16: the request for a relay that nobody had taken up is sent to the next supervisor.
    """
    local = tmp_path / "local"
    local.mkdir()
    async with (
        kill_scene(tmp_path / "stack") as scene,
        stack_client(scene.description.endpoint, scene.description.token) as client,
        kill_client.sdk_client(scene.description.endpoint, scene.description.token) as sdk,
    ):
        transfers = OwnTransfers(client, sdk)
        await scene.arrange(transfers, local)
        with Onlooker(scene.uploads) as onlooker:
            scene.signal_supervisors(signal.SIGKILL)
            for case in scene.uploads:
                expected = "OK" if case.point is None else "RELAY_LOST"
                assert await transfers.error_of(case) == expected, case
            await transfers.check_downloads_failed(scene)
            published = [case for case in scene.uploads if case.point is None or case.point.renamed]
            await scene.check_destinations(published)
        _check_onlooker(onlooker)
        await scene.check_states(client, published)
        await scene.check_next_transfers(client)


async def test_silence_ends_every_call(tmp_path: Path) -> None:
    """Must hold 6: a supervisor that stands still or stays away costs a caller the configured time."""
    settings = StackSettings(
        root=tmp_path / "stack",
        restart=False,
        faults={"demo": ["pause@upload.first_chunk_staged#3"]},
        limits={"idle_timeout": 1.0},
        relay={"claim_timeout": 1.0, "session_wait_timeout": 1.0},
    )
    async with DevelopmentStack(settings) as stack:
        description = stack.describe()
        sandbox = stack.sandboxes[0]
        content = content_of("silence")
        metadata = files_pb2.UploadFileMetadata(
            sandbox_id=sandbox.id, remote_path="f", size_bytes=len(content)
        )
        async with stack_client(description.endpoint, description.token) as client:
            first = await client.upload(metadata, content)
            assert first.bytes_written == len(content)
            supervisor = stack.supervisors[0].pid

            # The caller is silent.
            assert await _reason(client.upload(metadata, content, stop_after=3)) == "TRANSFER_IDLE"

            # The supervisor is silent: a running transfer, then a new one.
            running = asyncio.create_task(client.upload(metadata, content, stop_after=3))
            log = tmp_path / "stack" / "demo.log"
            await until(lambda: b"fault: pause" in log.read_bytes(), "the upload stands still")
            os.kill(supervisor, signal.SIGSTOP)
            assert await _reason(running) == "TRANSFER_IDLE"
            assert await _reason(client.stat(sandbox.id, "f")) == "RELAY_TIMEOUT"
            os.kill(supervisor, signal.SIGKILL)

            # It is gone.
            await until(lambda: "ConnectSupervisor" in _ended(tmp_path / "stack"), "the session has ended")
            assert await _reason(client.stat(sandbox.id, "f")) == "SUPERVISOR_NOT_CONNECTED"
        assert content_now(Path(sandbox.root) / "sandbox" / "f") == content


async def _reason(call: Awaitable[object]) -> str:
    """Wait for a call's failure and return its reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await call
    return reason_of(caught.value)


def _outcomes(scene: KillScene, outcome: str) -> set[str]:
    """Return the calls that ended in that way, by the gateway's log."""
    return {
        str(line["transfer_id"])
        for line in gateway_log(scene.stack.root)
        if line["event"] == "call ended" and line["outcome"] == outcome
    }


def _ended(root: Path) -> set[str]:
    """Return the methods of which calls have ended, by the gateway's log."""
    return {str(line["method"]) for line in gateway_log(root) if line["event"] == "call ended"}


def _check_onlooker(onlooker: Onlooker) -> None:
    assert onlooker.rounds > 0
    assert onlooker.violations == []
