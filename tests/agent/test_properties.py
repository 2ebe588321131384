"""What holds for every order of messages, every cut of the bytes and every tree of links."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent.agent_harness import (
    AgentStream,
    Pipe,
    Request,
    Response,
    data_message,
    finish_message,
    framed,
    metadata,
    opened,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.framing import FrameDecoder
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_supervisor_sim.agent import AgentSettings, FileAgent
from openshell_supervisor_sim.agent.core.upload import (
    Finish,
    Input,
    InputEnd,
    Misplaced,
    Phase,
    Publish,
    Refuse,
    Replay,
    Skip,
    Stage,
    StageHole,
    StreamLost,
    UploadCore,
    UploadTerms,
)

SHA, OTHER = bytes(32), bytes(31) + b"\1"
SHA256 = DigestAlgorithm.SHA256
MAX_CHUNK, MAX_FILE = 8, 30


@dataclass
class Model:
    """An upload's stream as docs/protocol.md tells it, without a table."""

    declared: int | None
    explicit: bool
    resumable: bool
    position: int
    published: tuple[int, bytes] | None
    kind: str = ""
    finished: bool = False

    def chunk(self, chunk: Chunk) -> str:
        kind = "plain" if chunk.offset is None else "checked"
        if self.finished or (self.kind and self.kind != kind):
            return "INVALID_REQUEST"
        self.kind = kind
        if len(chunk.data) > MAX_CHUNK:
            return "CHUNK_TOO_LARGE"
        if kind == "checked":
            if chunk.hole_bytes and chunk.data:
                return "INVALID_REQUEST"
            if chunk.hole_bytes and chunk.crc32c:
                return "CHUNK_CHECKSUM"
            if not chunk.hole_bytes and not chunk.data:
                return "INVALID_REQUEST"
        size = chunk.hole_bytes or len(chunk.data)
        if self.published is None:
            if chunk.offset is not None and chunk.offset != self.position:
                return "OFFSET_MISMATCH"
            if self.declared is not None and self.position + size > self.declared:
                return "SIZE_MISMATCH keep" if self.explicit else "SIZE_MISMATCH"
            if self.position + size > MAX_FILE:
                return "FILE_TOO_LARGE"
        self.position += size
        if self.published is not None or not size:
            return "skip"
        return "hole" if chunk.hole_bytes else "stage"

    def finish(self, size: int, algorithm: int, value: bytes) -> str:
        if self.finished or not self.explicit or len(value) != 32 or algorithm != 1:
            return "INVALID_REQUEST"
        if self.published is not None:
            return "replay" if self.published == (size, value) else "FINISH_CONFLICT"
        if size != self.position or self.declared not in {None, size}:
            return "SIZE_MISMATCH"
        self.finished = True
        return "publish"

    def end(self, *, clean: bool) -> str:
        if self.finished:
            return "skip"
        if self.explicit or not clean:
            return "UPLOAD_INCOMPLETE"
        if self.position != (self.declared or 0):
            return "SIZE_MISMATCH"
        if self.published is not None:
            return "replay"
        self.finished = True
        return "publish"


class UploadStream(RuleBasedStateMachine):
    """UPL-1 to UPL-7, UPL-11, RSM-6: the rules against the model, in every order."""

    core: UploadCore
    model: Model
    #: Content and holes that were staged, as pairs of begin and end.
    staged: list[tuple[int, int]]

    @initialize(
        explicit=st.booleans(),
        declared=st.none() | st.integers(0, 20),
        resumable=st.booleans(),
        staged=st.integers(0, 5),
        published=st.none() | st.just((3, SHA)),
    )
    def begin(
        self,
        explicit: bool,  # noqa: FBT001
        declared: int | None,
        resumable: bool,  # noqa: FBT001
        staged: int,
        published: tuple[int, bytes] | None,
    ) -> None:
        # A stream of the RFC declares its size and starts at the beginning.
        declared = declared if explicit else declared or 0
        staged = 0 if not explicit or published else min(staged, 20 if declared is None else declared)
        self.model = Model(declared, explicit, resumable, staged, published)
        self.staged = []
        self.core = UploadCore(
            UploadTerms(
                declared_size=declared,
                explicit_finish=explicit,
                resumable=resumable,
                staged=staged,
                max_chunk_bytes=MAX_CHUNK,
                max_file_bytes=MAX_FILE,
                published=published and (published[0], Digest(SHA256, published[1])),
            )
        )

    @precondition(lambda self: not self.going_on())
    @rule(
        explicit=st.booleans(),
        declared=st.none() | st.integers(0, 20),
        resumable=st.booleans(),
        staged=st.integers(0, 5),
        published=st.none() | st.just((3, SHA)),
    )
    def next_stream(
        self,
        explicit: bool,  # noqa: FBT001
        declared: int | None,
        resumable: bool,  # noqa: FBT001
        staged: int,
        published: tuple[int, bytes] | None,
    ) -> None:
        with pytest.raises(RuntimeError):
            self.core.receive(StreamLost())
        self.begin(explicit, declared, resumable, staged, published)

    def going_on(self) -> bool:
        return self.core.phase is not Phase.OVER

    def feed(self, event: Input, expected: str) -> None:
        action = self.core.receive(event)
        outcome = ""
        match action:
            case Stage(offset, data, _):
                self.staged.append((offset, offset + len(data)))
                outcome = "stage"
            case StageHole(offset, length):
                self.staged.append((offset, offset + length))
                outcome = "hole"
            case Skip():
                outcome = "skip"
            case Replay():
                outcome = "replay"
            case Publish(size, _):
                outcome = "publish"
                assert size == self.model.position
            case Refuse(error, keep):
                outcome = error.reason.name
                freed = outcome == "SIZE_MISMATCH" and expected != "SIZE_MISMATCH keep"
                assert keep is (self.model.resumable and not freed)
        assert outcome == expected.partition(" ")[0]
        # Whatever happens, what is staged has no gap and no overlap.
        ends = [end for _, end in self.staged]
        assert [begin for begin, _ in self.staged][1:] == ends[:-1]

    @precondition(going_on)
    @rule(
        offset=st.sampled_from([-1, 0, 1, None]),
        size=st.integers(0, MAX_CHUNK + 1),
        hole=st.sampled_from([0, 0, 5]),
    )
    def chunk(self, offset: int | None, size: int, hole: int) -> None:
        at = None if offset is None else max(0, self.model.position + offset)
        chunk = Chunk(at, bytes(size), hole_bytes=0 if at is None else hole, crc32c=0)
        self.feed(chunk, self.model.chunk(chunk))

    @precondition(going_on)
    @rule(size=st.integers(0, MAX_CHUNK))
    def next_piece(self, size: int) -> None:
        chunk = Chunk(None, bytes(size))
        if self.model.kind == "checked":
            chunk = Chunk(self.model.position, bytes(max(size, 1)), 0)
        self.feed(chunk, self.model.chunk(chunk))

    @precondition(going_on)
    @rule(
        off=st.sampled_from([0, 0, 1]),
        algorithm=st.sampled_from([1, 1, 1, 0, 2]),
        value=st.sampled_from([SHA, SHA, OTHER, b""]),
    )
    def finish(self, off: int, algorithm: int, value: bytes) -> None:
        size = self.model.position + off
        self.feed(Finish(size, algorithm, value), self.model.finish(size, algorithm, value))

    @precondition(going_on)
    @rule(event=st.sampled_from([InputEnd(cancelled=False), InputEnd(cancelled=True), StreamLost()]))
    def end(self, event: InputEnd | StreamLost) -> None:
        self.feed(event, self.model.end(clean=event == InputEnd(cancelled=False)))

    @precondition(going_on)
    @rule()
    def misplaced(self) -> None:
        self.feed(Misplaced("metadata", "again"), "INVALID_REQUEST")


def test_upload_stream_against_the_model() -> None:
    """UPL-1 to UPL-7, UPL-11, RSM-6"""
    run_state_machine_as_test(
        UploadStream, settings=settings(max_examples=50, stateful_step_count=20, deadline=None)
    )


@pytest.mark.long
def test_upload_stream_against_the_model_at_length() -> None:
    """UPL-1 to UPL-7, UPL-11, RSM-6: more than 10 000 steps."""
    run_state_machine_as_test(
        UploadStream, settings=settings(max_examples=500, stateful_step_count=50, deadline=None)
    )


@st.composite
def conversations(draw: st.DrawFn) -> list[Request]:
    """Frames of an upload: mostly in order, sometimes not, sometimes not to the end."""
    content = draw(st.binary(max_size=40))
    explicit = draw(st.booleans())
    resumable = {"request_id": "r"} if draw(st.booleans()) else {}
    declared = len(content) if not explicit or draw(st.booleans()) else 0
    declared += draw(st.sampled_from([0, 0, 0, 1]))
    frames = [opened(upload=metadata("/file", declared, explicit=explicit, **resumable))]
    position = 0
    checked = draw(st.booleans())
    while position < len(content):
        size = draw(st.integers(1, 16))
        piece = content[position : position + size]
        if checked:
            offset = position + draw(st.sampled_from([0] * 9 + [1]))
            crc = draw(st.sampled_from([None] * 9 + [1]))
            frames.append(Request(upload=data_message(offset, piece, crc=crc)))
        else:
            frames.append(Request(upload=files_pb2.UploadFileRequest(chunk=piece)))
        position += size
    if explicit and draw(st.booleans()):
        finish = (
            finish_message(content)
            if draw(st.booleans())
            else finish_message(size=position, digest=files_pb2.Digest(algorithm=SHA256.wire, value=SHA))
        )
        frames.append(Request(upload=finish))
    if draw(st.booleans()):
        cancelled = draw(st.booleans())
        frames.append(Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)))
    return frames


async def converse(cuts: list[bytes]) -> tuple[object, ...]:
    """Send bytes in these pieces to a new agent, and tell everything that can be seen."""
    directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
    root = directory / "sandbox-root"
    root.mkdir()
    agent = FileAgent(AgentSettings(root=root, state_dir=directory / "sandbox-state"), clock=lambda: 1e9)
    try:
        await agent.start()
        to_agent, from_agent = Pipe(), Pipe()
        for cut in cuts:
            await to_agent.put(cut)
        to_agent.end()
        await agent.serve(AgentStream(to_agent, from_agent))
        from_agent.end()
        decoder = FrameDecoder()
        said: list[object] = []
        while data := await from_agent.get():
            for frame in decoder.feed(data):
                message = Response.FromString(bytes(frame))
                said.append((message.WhichOneof("frame"), message.error.reason, message.upload.bytes_written))
        kept = sorted(path.read_bytes() for path in root.iterdir())
        return said, kept, (root / "file").exists(), agent.statistics().staged_bytes
    finally:
        await agent.aclose()
        shutil.rmtree(directory)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames=conversations(), data=st.data())
def test_cuts_change_nothing(frames: list[Request], data: st.DataObject) -> None:
    """FRM-1: byte by byte, at random places or whole: the same answers and the same files."""
    whole = b"".join(map(framed, frames))
    places = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=10)))
    cuts = [whole[begin:end] for begin, end in zip([0, *places], [*places, len(whole)], strict=True)]
    bytewise = [bytes([byte]) for byte in whole]
    outcomes = [asyncio.run(converse(way)) for way in ([whole], cuts, bytewise)]
    assert outcomes[0] == outcomes[1] == outcomes[2]
