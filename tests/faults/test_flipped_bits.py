"""A bit that flips on the way, or on the disk, is never published and never shown (must hold 3)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from bit_flipper import BitFlipper, Direction, flip_in_file, marked
from conditions import until
from kill_client import content_of
from kill_scene import STAGING_PREFIX, content_now
from openshell_files import NO_RETRY, AsyncFilesClient, OidcAuth, RetryPolicy
from openshell_files.errors import IntegrityError
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIB
from own_supervisor import OwnSupervisor, own_supervisor

SIZE = 12 * MIB - 5
#: In the fifth chunk: four are staged when it is found out.
PLACE = 4 * MAX_CHUNK_BYTES + 1000
CONTENT = marked(content_of("to be damaged", SIZE), PLACE)
ALWAYS = 1_000_000
OLD = b"the file that was there"

#: Does not wait long, and tries often.
PATIENT = RetryPolicy(attempts=4, initial_delay=0.01, max_delay=0.02)

pytestmark = pytest.mark.asyncio(loop_scope="module")

hops = pytest.mark.parametrize("hop", ["client-gateway", "gateway-supervisor"])


@dataclass(frozen=True)
class Scene:
    """A stack with a damaging connection at one of its hops."""

    flipper: BitFlipper
    supervisor: OwnSupervisor
    directory: Path
    endpoint: str
    token: str

    def client(self, retry: RetryPolicy) -> AsyncFilesClient:
        return AsyncFilesClient(self.endpoint, auth=OidcAuth(self.token), retry=retry)

    def staged(self) -> list[Path]:
        return list(self.directory.glob(f"{STAGING_PREFIX}*"))


class Workshop:
    """Makes scenes, one after the other, in one stack."""

    def __init__(self, stack: DevelopmentStack) -> None:
        self._stack = stack
        self._made = 0

    @asynccontextmanager
    async def scene(self, hop: str, *faults: str) -> AsyncGenerator[Scene, None]:
        """Let the client or the supervisor connect through a damaging connection."""
        stack, sandbox = self._stack, self._stack.sandboxes[0]
        directory = Path(sandbox.root) / "sandbox"
        self._made += 1
        async with BitFlipper(lambda: stack.endpoint) as flipper:
            inner = flipper.endpoint if hop == "gateway-supervisor" else None
            outer = flipper.endpoint if hop == "client-gateway" else stack.endpoint
            async with own_supervisor(
                stack, sandbox, name=f"supervisor-{self._made}", endpoint=inner, faults=faults
            ) as supervisor:
                yield Scene(flipper, supervisor, directory, outer, stack.describe().token)
        for path in directory.iterdir():
            path.unlink()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workshop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Workshop, None]:
    async with DevelopmentStack(StackSettings(root=tmp_path_factory.mktemp("flipped"))) as stack:
        await stack.supervisors[0].stop()
        yield Workshop(stack)


def direction(hop: str, *, upload: bool) -> Direction:
    """Return which way content goes: the supervisor opens its connection to the gateway itself."""
    there = upload == (hop == "client-gateway")
    return Direction.THERE if there else Direction.BACK


@hops
async def test_in_an_upload(workshop: Workshop, hop: str) -> None:
    """UPL-7, UPL-25: found before the bytes are staged; the chunk is sent again and not the file."""
    async with workshop.scene(hop) as scene:
        destination = scene.directory / "file"
        destination.write_bytes(OLD)
        scene.flipper.flip(direction(hop, upload=True))
        async with scene.client(NO_RETRY) as client:
            with pytest.raises(IntegrityError) as caught:
                await client.sandbox("demo").upload(CONTENT, "file")
        assert scene.flipper.flips == 1
        assert caught.value.reason == "CHUNK_CHECKSUM"
        assert caught.value.upload_id
        assert destination.read_bytes() == OLD
        (staging,) = scene.staged()
        assert staging.read_bytes() == CONTENT[: 4 * MAX_CHUNK_BYTES], "the wrong chunk is not staged"

        scene.flipper.flip(direction(hop, upload=True))
        async with scene.client(PATIENT) as client:
            await client.sandbox("demo").abort_upload(caught.value.upload_id)
            result = await client.sandbox("demo").upload(CONTENT, "file")
        assert scene.flipper.flips == 2
        assert result.attempts == 2
        assert result.resumed_from == 4 * MAX_CHUNK_BYTES
        assert destination.read_bytes() == CONTENT
        assert scene.staged() == []


@hops
async def test_in_an_upload_again_and_again(workshop: Workshop, hop: str) -> None:
    """UPL-7: a connection that damages everything ends with the reason, and publishes nothing."""
    content = marked(content_of("small", 200_000), 1000)
    async with workshop.scene(hop) as scene, scene.client(PATIENT) as client:
        scene.flipper.flip(direction(hop, upload=True), times=ALWAYS)
        with pytest.raises(IntegrityError) as caught:
            await client.sandbox("demo").upload(content, "file")
        assert caught.value.reason == "CHUNK_CHECKSUM"
        assert scene.flipper.flips >= PATIENT.attempts
        assert not (scene.directory / "file").exists()


@hops
async def test_in_a_download(workshop: Workshop, tmp_path: Path, hop: str) -> None:
    """DWN-10: found before the file is shown; what was right before is not fetched again."""
    async with workshop.scene(hop) as scene:
        (scene.directory / "file").write_bytes(CONTENT)
        local = tmp_path / "local"
        local.mkdir()
        target = local / "file"
        scene.flipper.flip(direction(hop, upload=False))
        async with scene.client(NO_RETRY) as client:
            with pytest.raises(IntegrityError) as caught:
                await client.sandbox("demo").download_path("file", target)
        assert scene.flipper.flips == 1
        assert caught.value.reason == "CHUNK_CHECKSUM"
        assert os.listdir(local) == []

        target.write_bytes(OLD)
        scene.flipper.flip(direction(hop, upload=False))
        async with scene.client(PATIENT) as client:
            result = await client.sandbox("demo").download_path("file", target)
        assert scene.flipper.flips == 2
        assert result.attempts == 2
        assert result.resumed_from == 4 * MAX_CHUNK_BYTES
        assert result.digest_verified
        assert target.read_bytes() == CONTENT

        scene.flipper.flip(direction(hop, upload=False), times=ALWAYS)
        target.write_bytes(OLD)
        async with scene.client(PATIENT) as client:
            with pytest.raises(IntegrityError):
                await client.sandbox("demo").download_path("file", target)
        assert target.read_bytes() == OLD
        assert os.listdir(local) == ["file"]


@pytest.mark.parametrize("point", ["upload.chunk_staged#6", "upload.finish_received", "upload.verifying"])
async def test_on_the_staging_file(workshop: Workshop, point: str) -> None:
    """UPL-37: the file is read once more before it gets its name; the SDK begins a new upload."""
    async with (
        workshop.scene("none", f"pause@{point}") as scene,
        scene.client(PATIENT) as client,
    ):
        destination = scene.directory / "file"
        destination.write_bytes(OLD)
        uploading = asyncio.create_task(client.sandbox("demo").upload(CONTENT, "file"))
        await scene.supervisor.wait_for_pause()
        (staging,) = scene.staged()
        flip_in_file(staging, PLACE)
        assert content_now(destination) == OLD
        scene.supervisor.release()
        result = await uploading
        assert result.attempts == 2, "the damaged file was published"
        assert staging.name != f"{STAGING_PREFIX}{result.upload_id}"
        assert result.resumed_from == 0
        assert destination.read_bytes() == CONTENT
        assert scene.staged() == []


async def test_on_the_staging_file_without_another_try(workshop: Workshop) -> None:
    """UPL-37: nothing is published, and what is damaged is not kept."""
    async with (
        workshop.scene("none", "pause@upload.verifying") as scene,
        scene.client(NO_RETRY) as client,
    ):
        uploading = asyncio.create_task(client.sandbox("demo").upload(CONTENT, "file"))
        await scene.supervisor.wait_for_pause()
        flip_in_file(scene.staged()[0], SIZE - 1)
        scene.supervisor.release()
        with pytest.raises(IntegrityError) as caught:
            await uploading
        assert caught.value.reason == "DIGEST_MISMATCH"
        assert os.listdir(scene.directory) == []
        assert await client.sandbox("demo").uploads() == []


async def test_on_the_staging_file_of_a_dead_agent(workshop: Workshop) -> None:
    """RSM-15: after a restart the digest is that of the disk, so a damaged prefix is not gone on with."""
    async with (
        workshop.scene("none", "pause@upload.chunk_staged#6") as scene,
        scene.client(PATIENT) as client,
    ):
        uploading = asyncio.create_task(client.sandbox("demo").upload(CONTENT, "file"))
        await scene.supervisor.wait_for_pause()
        (staging,) = scene.staged()
        flip_in_file(staging, 7)
        killed = scene.supervisor.child.pid
        scene.supervisor.signal(signal.SIGKILL)
        await until(lambda: scene.supervisor.child.pid != killed, "the supervisor runs again")
        result = await uploading
        assert result.resumed_from == 0
        assert staging.name != f"{STAGING_PREFIX}{result.upload_id}"
        assert (scene.directory / "file").read_bytes() == CONTENT
        assert scene.staged() == []
