"""Transfers that stand still at every point of their way, ready for somebody to be killed.

Four sandboxes, one for each kind of upload: it can be found again or not,
and it replaces a file or not. In each sandbox one upload stands at every
point, and one download at each of its points; all of them at once, so that
one kill is a kill at each point.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import threading
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from conditions import until
from digest_values import digest_of
from kill_client import CHUNKS, DownloadOrder, UploadOrder, content_of
from openshell_files_gateway.dev.stack import DevelopmentStack, StackDescription, StackSandbox, StackSettings
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import CHUNK_BYTES, StackClient

#: What the agent's staging files are called; a clause of nobody, but of the journal.
STAGING_PREFIX = ".openshell-upload-"


@dataclass(frozen=True)
class Point:
    """A place on the way of an upload.

    Attributes:
        name: for people and file names.
        trace: the agent's trace point.
        stop_after: chunks that the caller has sent by then; None: all, and the finish.
        staged_chunks: so many have been staged by then.
        renamed: the destination is the new file by then.
    """

    name: str
    trace: str
    stop_after: int | None
    staged_chunks: int
    renamed: bool = False

    @property
    def finished(self) -> bool:
        """Whether the caller's finish has been taken by then."""
        return self.stop_after is None


MIDDLE = 5

POINTS = (
    Point("admitted", "upload.admitted", 1, 0),
    Point("first-chunk", "upload.first_chunk_staged", 1, 1),
    Point("middle", "upload.chunk_staged", MIDDLE, MIDDLE),
    Point("last-chunk", "upload.chunk_staged", CHUNKS, CHUNKS),
    Point("finish-received", "upload.finish_received", None, CHUNKS),
    Point("verifying", "upload.verifying", None, CHUNKS),
    Point("flushed", "upload.flushed", None, CHUNKS),
    Point("renamed", "upload.renamed", None, CHUNKS, renamed=True),
    Point("before-reply", "upload.before_reply", None, CHUNKS, renamed=True),
)

DOWNLOAD_TRACES = ("download.opened", "download.first_chunk", "download.chunk", "download.before_trailer")

#: Each transfer stops at the first fault that nobody before it used up. Those
#: stopped at the first chunk have not been counted as chunks yet.
FAULTS = (
    "pause@upload.admitted",
    "pause@upload.first_chunk_staged",
    f"pause@upload.chunk_staged#{MIDDLE}",
    f"pause@upload.chunk_staged#{MIDDLE + CHUNKS}",
    *(f"pause@{point.trace}" for point in POINTS[4:]),
    "pause@download.opened",
    "pause@download.first_chunk",
    "pause@download.chunk#3",
    "pause@download.before_trailer",
)

#: Name of the tenth point. Nothing of the agent's is reached there: the
#: supervisor is stopped, and does not answer the request for a relay.
BEFORE_ADMISSION = "before-admission"


@dataclass(frozen=True)
class Place:
    """A sandbox and the kind of upload that goes there."""

    sandbox: StackSandbox
    log: Path
    resumable: bool
    replaces: bool

    @property
    def directory(self) -> Path:
        return Path(self.sandbox.root) / "sandbox"

    async def wait_for_pauses(self, count: int, what: str) -> None:
        await until(lambda: self.log.read_bytes().count(b"fault: pause at ") == count, what)

    async def wait_for_staging_files(self, count: int) -> None:
        """Wait until nothing is staged but what is known to be."""
        what = f"{self.sandbox.name} has as many staging files as unfinished uploads, {count}"
        await until(lambda: len(self.staging_names()) == count, what)

    def staging_names(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name.startswith(STAGING_PREFIX)]

    def journal_rows(self) -> tuple[int, int]:
        """Return how many names and unfinished uploads the journal of an ended agent has."""
        path = self.directory.parents[1] / "state" / "uploads.sqlite3"
        with sqlite3.connect(path) as database:
            (names,) = database.execute("SELECT count(*) FROM names").fetchone()
            (unfinished,) = database.execute(
                "SELECT count(*) FROM uploads WHERE state IN (?, ?)",
                (files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING),
            ).fetchone()
        database.close()
        return names, unfinished


@dataclass(frozen=True)
class UploadCase:
    """One upload that stands at a point; `point` is None before admission."""

    place: Place
    point: Point | None
    order: UploadOrder

    @property
    def destination(self) -> Path:
        return self.place.directory / self.order.remote

    @property
    def old(self) -> bytes | None:
        return content_of(f"old {self.order.label}", 1 << 20) if self.place.replaces else None

    @property
    def new(self) -> bytes:
        return content_of(self.order.label)

    async def wait_until_published(self) -> None:
        await until(lambda: content_now(self.destination) == self.new, f"{self} is published")

    def __str__(self) -> str:
        kind = "resumable" if self.place.resumable else "transient"
        over = "over a file" if self.place.replaces else "to a new name"
        return f"{kind} upload {over} at {self.point.name if self.point else BEFORE_ADMISSION}"


@dataclass(frozen=True)
class DownloadCase:
    """One download that stands at a point."""

    place: Place
    trace: str
    order: DownloadOrder

    @property
    def old(self) -> bytes | None:
        return content_of(f"old {self.order.local}", 1000) if self.place.replaces else None


class Launcher(Protocol):
    """Starts transfers in whatever process."""

    async def upload(self, order: UploadOrder) -> None:
        """Start an upload."""
        ...

    async def download(self, order: DownloadOrder) -> None:
        """Start a download."""
        ...

    async def metadata_sent(self, transfer_id: str) -> None:
        """Wait until the first message of an upload is on its way."""
        ...


def content_now(path: Path) -> bytes | None:
    """Return what a reader sees."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class Onlooker:
    """A thread that reads all destinations again and again (UPL-8)."""

    def __init__(self, cases: Sequence[UploadCase]) -> None:
        self._allowed = {
            case.destination: ({_digest(case.old), _digest(case.new)}, str(case)) for case in cases
        }
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="onlooker")
        self.rounds = 0
        self.violations: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.is_set():
            for path, (allowed, name) in self._allowed.items():
                content = content_now(path)
                if _digest(content) not in allowed:
                    size = "no" if content is None else len(content)
                    self.violations.append(f"{name}: a reader saw {size} bytes of neither file")
            self.rounds += 1


def _digest(content: bytes | None) -> str:
    return "absent" if content is None else hashlib.sha256(content).hexdigest()


def gateway_log(root: Path) -> list[dict[str, object]]:
    """Return what the gateway of a stack has logged, whole lines only."""
    return process_log(root, "gateway")


def process_log(root: Path, name: str) -> list[dict[str, object]]:
    """Return what a process of a stack has logged: the gateway, or the supervisor of a sandbox's name."""
    lines = (root / f"{name}.log").read_text("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


@dataclass
class KillScene:
    """The stack, and what stands still in it."""

    stack: DevelopmentStack
    description: StackDescription
    places: list[Place]
    uploads: list[UploadCase] = field(default_factory=list[UploadCase])
    downloads: list[DownloadCase] = field(default_factory=list[DownloadCase])

    def supervisor_pids(self) -> list[int]:
        return [child.pid for child in self.stack.supervisors]

    def signal_supervisors(self, number: signal.Signals) -> None:
        for pid in self.supervisor_pids():
            os.kill(pid, number)

    async def arrange(self, launcher: Launcher, local: Path) -> None:
        """Start everything, and wait until each transfer stands at its point."""
        self._lay_out(local)
        await asyncio.gather(*(self._arrange_in(place, launcher) for place in self.places))
        # The tenth point: the request for a relay reaches a supervisor that stands still.
        self.signal_supervisors(signal.SIGSTOP)
        for case in self.uploads:
            if case.point is None:
                await launcher.upload(case.order)
                await launcher.metadata_sent(case.order.transfer_id)

    def _lay_out(self, local: Path) -> None:
        for place in self.places:
            for point in (*POINTS, None):
                name = point.name if point is not None else BEFORE_ADMISSION
                order = UploadOrder(
                    sandbox_id=place.sandbox.id,
                    remote=f"{name}.bin",
                    label=f"{place.sandbox.name} {name}",
                    transfer_id=f"{place.sandbox.name}-{name}",
                    request_id=str(uuid.uuid4()) if place.resumable else "",
                    stop_after=None if point is None else point.stop_after,
                )
                case = UploadCase(place, point, order)
                if case.old is not None:
                    case.destination.write_bytes(case.old)
                self.uploads.append(case)
            (place.directory / "source.bin").write_bytes(content_of("source"))
            for trace in DOWNLOAD_TRACES:
                target = local / f"{place.sandbox.name}-{trace}"
                download = DownloadCase(
                    place, trace, DownloadOrder(place.sandbox.id, "source.bin", str(target))
                )
                if download.old is not None:
                    target.write_bytes(download.old)
                self.downloads.append(download)

    async def _arrange_in(self, place: Place, launcher: Launcher) -> None:
        uploads = [case for case in self.uploads if case.place is place and case.point is not None]
        for count, upload in enumerate(uploads, start=1):
            await launcher.upload(upload.order)
            await place.wait_for_pauses(count, f"the {upload} stands still")
        downloads = [case for case in self.downloads if case.place is place]
        for count, download in enumerate(downloads, start=len(uploads) + 1):
            await launcher.download(download.order)
            await place.wait_for_pauses(count, f"{download.trace} is reached")

    async def check_destinations(self, published: Sequence[UploadCase]) -> None:
        """Each destination comes to be the new file if published, and is the old one otherwise (UPL-8)."""
        for case in published:
            await case.wait_until_published()
        for case in self.uploads:
            if case not in published:
                assert content_now(case.destination) == case.old, f"{case}: not the old file"

    async def check_states(self, client: StackClient, published: Sequence[UploadCase]) -> None:
        """RSM-3, RSM-7: what can be found again is what it should be; nothing else is left."""
        for case in self.uploads:
            if not case.place.resumable:
                continue
            status = await client.status(case.order.sandbox_id, case.order.request_id)
            state = files_pb2.UploadState.Name(status.state)
            if case in published:
                assert state == "UPLOAD_STATE_PUBLISHED", case
                assert status.result.file.digest == digest_of(case.new), case
            elif case.point is None:
                assert state == "UPLOAD_STATE_UNSPECIFIED", case
            else:
                assert state == "UPLOAD_STATE_RECEIVING", case
                least = min(case.point.staged_chunks * CHUNK_BYTES, len(case.new))
                assert least <= status.staged_bytes <= len(case.new), case
        for place in self.places:
            unfinished = await client.unfinished(place.sandbox.id)
            await place.wait_for_staging_files(len(unfinished))
            for upload in unfinished:
                await client.abort(place.sandbox.id, upload.upload_id)
            assert place.staging_names() == [], place

    async def check_next_transfers(self, client: StackClient) -> None:
        """What was killed works again: each destination takes another file and gives it back."""
        for case in self.uploads:
            content = self.next_content(case)
            metadata = files_pb2.UploadFileMetadata(
                sandbox_id=case.order.sandbox_id, remote_path=case.order.remote, size_bytes=len(content)
            )
            answer = await client.upload(metadata, content)
            assert answer.bytes_written == len(content), case
        for place in self.places:
            request = files_pb2.DownloadFileRequest(sandbox_id=place.sandbox.id, remote_path="source.bin")
            got = await client.download(request)
            assert got.content == content_of("source"), place

    @staticmethod
    def next_content(case: UploadCase) -> bytes:
        return content_of(f"next {case.order.label}", 300_000)

    def check_after_the_end(self) -> None:
        """Nobody changed a destination late, and the journals are empty."""
        for case in self.uploads:
            assert content_now(case.destination) == self.next_content(case), case
        for place in self.places:
            assert place.journal_rows() == (0, 0), place
            assert place.staging_names() == [], place


@asynccontextmanager
async def kill_scene(root: Path) -> AsyncGenerator[KillScene, None]:
    """Run the stack; at the end everything in it is checked a last time."""
    names = ["demo", "demo-2", "demo-3", "demo-4"]
    settings = StackSettings(
        root=root,
        sandboxes=len(names),
        faults=dict.fromkeys(names, FAULTS),
        relay={"claim_timeout": 30.0, "session_wait_timeout": 30.0},
        max_backoff=0.2,
    )
    async with DevelopmentStack(settings) as stack:
        kinds = [(resumable, replaces) for resumable in (False, True) for replaces in (False, True)]
        places = [
            Place(sandbox, root / f"{sandbox.name}.log", resumable, replaces)
            for sandbox, (resumable, replaces) in zip(stack.sandboxes, kinds, strict=True)
        ]
        scene = KillScene(stack, stack.describe(), places)
        yield scene
    scene.check_after_the_end()
