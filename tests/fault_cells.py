"""One cell of the fault matrix: a transfer stands at a point, somebody is killed, and it goes on.

The transfer is the command `openshell-files`, the SDK in a process of its own.
When gateway or supervisor is killed, the client is stopped (SIGSTOP) first.
So there is time to compare what GetUpload says with the disk before the SDK
goes on, by itself and within the same call. When the client is killed, a new
process goes on, with `--resume`.

The chunk window is what the SDK can have sent and the sandbox not staged. The
SDK does not wait for anything between two chunks, so the window is what fits
into the buffers of the way (see "Where bytes wait" in ARCHITECTURE.md): flow
control of two hops, the gateway's batch, the agent's pipeline, 16 chunks of
1020 KiB.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bit_flipper import BitFlipper
from conditions import PATIENCE_SECONDS, until
from digest_values import digest_of, words_of
from kill_client import content_of
from kill_scene import STAGING_PREFIX, content_now
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSandbox, StackSettings
from openshell_files_gateway.installed import command
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from own_supervisor import OwnSupervisor, own_supervisor
from rename_watch import RenameWatch
from stack_client import StackClient, stack_client

CHUNKS = 49
FILE_BYTES = CHUNKS * MAX_CHUNK_BYTES - 77
MIDDLE = 20

CHUNK_WINDOW = 16 * MAX_CHUNK_BYTES
RESENT_LIMIT = 2 * CHUNK_WINDOW

RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING
PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED


class Victim(StrEnum):
    """Who is killed."""

    CLIENT = "client"
    GATEWAY = "gateway"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class Point:
    """Where a transfer stands when somebody is killed.

    Attributes:
        name: for people and file names.
        fault: where the agent stands still; None: the supervisor is stopped
            and takes up nothing.
        staged_chunks: staged by then, at least.
        finished: the caller's finish has been taken by then.
        renamed: the destination is the new file by then.
    """

    name: str
    fault: str | None
    staged_chunks: int = 0
    finished: bool = False
    renamed: bool = False


UPLOAD_POINTS = (
    Point("before admission", None),
    Point("admitted", "upload.admitted"),
    Point("first chunk", "upload.first_chunk_staged", 1),
    Point("middle", f"upload.chunk_staged#{MIDDLE}", MIDDLE),
    Point("last chunk sent", f"upload.chunk_staged#{CHUNKS}", CHUNKS),
    Point("finish sent", "upload.finish_received", CHUNKS, finished=True),
    Point("verifying", "upload.verifying", CHUNKS, finished=True),
    Point("after rename", "upload.renamed", CHUNKS, finished=True, renamed=True),
    Point("before reply", "upload.before_reply", CHUNKS, finished=True, renamed=True),
)

DOWNLOAD_POINTS = (
    Point("before admission", None),
    Point("first chunk", "download.first_chunk"),
    Point("middle", f"download.chunk#{MIDDLE}"),
    Point("last chunk sent", f"download.chunk#{CHUNKS}"),
    Point("before trailer", "download.before_trailer"),
)


@dataclass(frozen=True)
class Outcome:
    """What a cell showed.

    Attributes:
        state: what GetUpload said before anybody went on; empty for downloads.
        resumed_from: where it went on, in bytes.
        sent_again: bytes that were sent twice; None if the one who knew is dead.
    """

    state: str
    resumed_from: int
    sent_again: int | None


class FaultScene:
    """A stack in which one transfer after the other is disturbed."""

    def __init__(self, stack: DevelopmentStack, proxy: BitFlipper, client: StackClient, local: Path) -> None:
        self._stack = stack
        self._proxy = proxy
        self._client = client
        self.local = local
        self._token = stack.describe().token
        self._sandbox: StackSandbox = stack.sandboxes[0]
        self.directory = Path(self._sandbox.root) / "sandbox"

    async def upload(self, victim: Victim, point: Point) -> Outcome:
        """Disturb an upload over an older file.

        Raises:
            AssertionError: something that must hold did not.
        """
        name = f"up-{victim}-{point.name}.bin".replace(" ", "-")
        new, old = content_of(name, FILE_BYTES), content_of(f"old {name}", 1 << 20)
        source, destination = self.local / name, self.directory / name
        source.write_bytes(new)
        destination.write_bytes(old)
        arguments = ["upload", "demo", str(source), name, "--json"]
        with RenameWatch(self.directory) as watch:
            async with self.standing_supervisor(name, point) as supervisor:
                client = await self.start(*arguments)
                try:
                    await self.stands(supervisor, point, name)
                    assert content_now(destination) == (new if point.renamed else old), "torn at the point"
                    upload_id = await self._upload_id(supervisor, point, name)
                    await self.kill(victim, supervisor, client)
                    await self.go_on(victim, supervisor, point)
                    carried_out = point.renamed or (point.finished and victim is not Victim.SUPERVISOR)
                    status = await self._truth(destination, upload_id, old, new, published=carried_out)
                    self._check_state(victim, point, status)
                    if victim is Victim.CLIENT:
                        client = await self.start(*arguments, "--resume")
                    else:
                        client.send_signal(signal.SIGCONT)
                    result = await self.result(client)
                finally:
                    await end_client(client)
                assert content_now(destination) == new, "the file is not in place"
                assert result["digest"] == words_of(new)
                times = len(watch.published(name))
                assert times == 1, f"published {times} times"
                await self._check_rest(victim)
                end = await self._status(result["upload_id"])
                assert end.state == PUBLISHED, "GetUpload does not know the end"
        source.unlink()
        destination.unlink()
        return _upload_outcome(victim, status, result)

    async def download(self, victim: Victim, point: Point) -> Outcome:
        """Disturb a download over an older file.

        Raises:
            AssertionError: something that must hold did not.
        """
        name = f"down-{victim}-{point.name}.bin".replace(" ", "-")
        new, old = content_of(name, FILE_BYTES), content_of(f"old {name}", 1 << 20)
        remote, target = self.directory / name, self.local / name
        remote.write_bytes(new)
        target.write_bytes(old)
        arguments = ["download", "demo", name, str(target), "--json"]
        with RenameWatch(self.local) as watch:
            async with self.standing_supervisor(name, point) as supervisor:
                client = await self.start(*arguments)
                try:
                    await self.stands(supervisor, point, name)
                    assert content_now(target) == old, "shown before it was verified"
                    await self.kill(victim, supervisor, client)
                    await self.go_on(victim, supervisor, point)
                    assert content_now(target) == old, "shown before it was verified"
                    if victim is Victim.CLIENT:
                        client = await self.start(*arguments)
                    else:
                        client.send_signal(signal.SIGCONT)
                    result = await self.result(client)
                finally:
                    await end_client(client)
            times = len(watch.published(name))
            assert times == 1, f"shown {times} times"
        assert content_now(target) == new, "the file is not in place"
        assert content_now(remote) == new, "the source was changed"
        sent_again = result["bytes_received"] - FILE_BYTES
        assert 0 <= sent_again <= RESENT_LIMIT, f"{sent_again} bytes came twice"
        # What nobody has taken up yet is taken up by the next supervisor (RLY-16).
        once = victim is Victim.CLIENT or (victim is Victim.SUPERVISOR and point.fault is None)
        assert (result["attempts"] == 1) == once, f"{result['attempts']} attempts"
        target.unlink()
        remote.unlink()
        return Outcome("", result["resumed_from"], sent_again)

    @asynccontextmanager
    async def standing_supervisor(self, name: str, point: Point) -> AsyncGenerator[OwnSupervisor, None]:
        faults = [] if point.fault is None else [f"pause@{point.fault}"]
        async with own_supervisor(self._stack, self._sandbox, name=name, faults=faults) as supervisor:
            if point.fault is None:
                supervisor.signal(signal.SIGSTOP)
            try:
                yield supervisor
            finally:
                supervisor.signal(signal.SIGCONT)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        environment = os.environ | {
            "OPENSHELL_FILES_ENDPOINT": self._proxy.endpoint,
            "OPENSHELL_FILES_TOKEN": self._token,
            "OPENSHELL_FILES_WORKSPACE": "default",
            "XDG_STATE_HOME": str(self.local / "state"),
        }
        return await asyncio.create_subprocess_exec(
            command("openshell-files"), *arguments,
            env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def stands(self, supervisor: OwnSupervisor, point: Point, name: str) -> None:
        if point.fault is not None:
            await supervisor.wait_for_pause()
            return
        # The request names the file; behind the gateway nobody takes it up.
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._proxy.seen(name.encode()).wait()

    async def _upload_id(self, supervisor: OwnSupervisor, point: Point, name: str) -> str:
        """Return how the upload can be asked for; empty before admission."""
        if point.fault is None:
            return ""
        kept = self.local / "state" / "openshell-files" / "uploads"
        for entry in kept.glob("*.json"):
            remembered = json.loads(entry.read_bytes())
            if name in remembered["key"]:
                return str(remembered["upload_id"])
        # The client has not had the answer to StartUpload yet.
        found = [
            upload
            for upload in await self._client.unfinished(self._sandbox.id)
            if upload.path.endswith(f"/{name}")
        ]
        assert len(found) == 1, supervisor.log
        return found[0].upload_id

    async def kill(
        self, victim: Victim, supervisor: OwnSupervisor, client: asyncio.subprocess.Process
    ) -> None:
        if victim is Victim.CLIENT:
            client.kill()
            assert await client.wait() == -signal.SIGKILL
            return
        child = supervisor.child if victim is Victim.SUPERVISOR else self._stack.gateway
        assert child is not None
        client.send_signal(signal.SIGSTOP)
        killed = child.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: child.pid != killed, f"the {victim} runs again")

    async def go_on(self, victim: Victim, supervisor: OwnSupervisor, point: Point) -> None:
        """Let the sandbox go on, if it is still the one that stands still; wait until it can be reached."""
        if victim is not Victim.SUPERVISOR:
            if point.fault is None:
                supervisor.signal(signal.SIGCONT)
            else:
                supervisor.release()
        await self._client.unfinished(self._sandbox.id)

    async def _status(self, upload_id: str) -> files_pb2.UploadStatus:
        return await self._client.status(self._sandbox.id, upload_id=upload_id, digest=True)

    async def _truth(
        self, destination: Path, upload_id: str, old: bytes, new: bytes, *, published: bool
    ) -> files_pb2.UploadStatus:
        """Return what GetUpload says, and compare it with the disk (RSM-7).

        Args:
            destination: of the upload.
            upload_id: of it; empty before admission.
            old: what was there.
            new: what is uploaded.
            published: a finish that was taken is carried out; wait for that.
        """
        if not upload_id:
            assert content_now(destination) == old, "published before it was admitted"
            return files_pb2.UploadStatus()
        staging = destination.with_name(f"{STAGING_PREFIX}{upload_id}")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                status = await self._status(upload_id)
                shown, staged = content_now(destination), content_now(staging)
                again = await self._status(upload_id)
                # What was on its way is still written: look while nothing changes.
                same = (status.state, status.staged_bytes) == (again.state, again.staged_bytes)
                if same and (status.state == PUBLISHED or (status.state == RECEIVING and not published)):
                    break
        assert shown in (old, new), "torn"
        if status.state == PUBLISHED:
            assert shown == new, "GetUpload says published, and the file is not there"
            assert status.result.file.digest == digest_of(new, status.digest_algorithm)
            assert staged is None
        else:
            assert shown == old, "GetUpload says receiving, and the file is there"
            assert staged == new[: status.staged_bytes], "GetUpload and the staging file differ"
            assert status.staged_digest == digest_of(staged or b"", status.digest_algorithm)
            assert status.durable_bytes <= status.staged_bytes
        return status

    @staticmethod
    def _check_state(victim: Victim, point: Point, status: files_pb2.UploadStatus) -> None:
        """What no finish was taken for is not published; what was staged is kept."""
        if point.fault is None or status.state == PUBLISHED:
            assert not (victim is Victim.SUPERVISOR and status.state == PUBLISHED and not point.renamed)
            assert status.state != PUBLISHED or point.staged_chunks == CHUNKS
        else:
            least = min(point.staged_chunks * MAX_CHUNK_BYTES, FILE_BYTES)
            assert least <= status.staged_bytes <= FILE_BYTES, status.staged_bytes

    async def result(self, client: asyncio.subprocess.Process) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, _ = await client.communicate()
        assert client.returncode == 0, output.decode()
        result: dict[str, Any] = json.loads(output)
        return result

    async def _check_rest(self, victim: Victim) -> None:
        """Nothing is left but what a dead client never learnt the name of (CRS-1)."""
        left = await self._client.unfinished(self._sandbox.id)
        assert len(left) <= (victim is Victim.CLIENT), f"{len(left)} uploads are left"
        for upload in left:
            assert upload.staged_bytes == 0
            await self._client.abort(self._sandbox.id, upload.upload_id)
        rest = [entry for entry in os.listdir(self.directory) if entry.startswith(STAGING_PREFIX)]
        assert rest == [], "staging files are left"


def _upload_outcome(victim: Victim, status: files_pb2.UploadStatus, result: dict[str, Any]) -> Outcome:
    """Check what the SDK says it sent.

    Raises:
        AssertionError: more than it had to.
    """
    state = files_pb2.UploadState.Name(status.state).removeprefix("UPLOAD_STATE_").lower()
    sent: int = result["bytes_sent"]
    kept: int = FILE_BYTES if result["replayed"] or status.state == PUBLISHED else result["resumed_from"]
    if status.state == RECEIVING:
        assert kept >= status.staged_bytes, f"went on at {kept}, {status.staged_bytes} were staged"
        if victim is Victim.SUPERVISOR:
            # Nobody can have staged more since.
            assert kept == status.staged_bytes, f"went on at {kept}, {status.staged_bytes} were staged"
    if victim is Victim.CLIENT:
        # A new process: it sends what is not there, and nothing else.
        assert sent == FILE_BYTES - kept, f"{sent} bytes were sent, {kept} were there"
        return Outcome(state, kept, None)
    assert result["attempts"] > 0
    sent_again = sent - FILE_BYTES
    assert 0 <= sent_again <= RESENT_LIMIT, f"{sent_again} bytes were sent again"
    return Outcome(state, kept, sent_again)


async def end_client(client: asyncio.subprocess.Process) -> None:
    """Kill the client unless it has ended."""
    if client.returncode is None:
        client.kill()
        await client.wait()


@asynccontextmanager
async def fault_scene(root: Path) -> AsyncGenerator[FaultScene, None]:
    """Run the stack; every cell brings a supervisor of its own."""
    local = root / "local"
    local.mkdir(parents=True)
    settings = StackSettings(root=root / "stack", relay={"claim_timeout": 30.0, "session_wait_timeout": 30.0})
    async with DevelopmentStack(settings) as stack, BitFlipper(lambda: stack.endpoint) as proxy:
        await stack.supervisors[0].stop()
        async with stack_client(stack.endpoint, stack.describe().token) as client:
            yield FaultScene(stack, proxy, client, local)
