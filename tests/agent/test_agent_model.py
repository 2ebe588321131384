"""The agent against a model: files, uploads, streams, time, restarts and kills, in every order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from agent.agent_comparison import PATHS, PRINCIPALS, AgentComparison
from agent.agent_harness import (
    Peer,
    call,
    get,
    opened,
    stat,
)
from agent.model_values import (
    EXPIRY,
    MAX_FILE,
    TOMBSTONE,
    Condition,
    Died,
    Entry,
    Refusal,
    Stop,
    Upload,
    Wish,
)
from agent.mortal_agent import BEFORE_RENAME
from digest_values import BLAKE3, SHA256, Algorithm, digest_of, finish_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import TracePoint

#: How far an upload with one chunk comes before the agent is killed there.
POINTS: dict[str, tuple[str, Stop]] = {
    TracePoint.UPLOAD_ADMITTED: ("attach", ""),
    TracePoint.UPLOAD_FIRST_CHUNK_STAGED: ("chunk", ""),
    TracePoint.UPLOAD_CHUNK_STAGED: ("chunk", ""),
    TracePoint.UPLOAD_FINISH_RECEIVED: ("finish", "received"),
    TracePoint.UPLOAD_VERIFYING: ("finish", "received"),
    TracePoint.UPLOAD_FLUSHED: ("finish", "flushed"),
    BEFORE_RENAME: ("finish", "renaming"),
    TracePoint.UPLOAD_RENAMED: ("finish", ""),
    TracePoint.UPLOAD_BEFORE_REPLY: ("finish", ""),
}

#: What callers take, best first.
LISTS: list[tuple[Algorithm, ...]] = [(), (SHA256,), (BLAKE3,), (BLAKE3, SHA256)]

contents = st.binary(max_size=20)
paths = st.sampled_from(PATHS)
which = st.integers(0, 15)


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    """Metadata; the values that conditions compare with are filled in later."""
    kinds = st.sampled_from(["absent", "present", "digest", "version"])
    condition = draw(st.none() | st.none() | st.builds(Condition, kinds))
    explicit = draw(st.sampled_from([True, True, False]))
    return Wish(
        path=draw(paths),
        principal=draw(st.sampled_from(PRINCIPALS)),
        size=draw(st.sampled_from([0, 0, 4, 10, MAX_FILE + 1])) if explicit else draw(st.integers(0, 4)),
        explicit=explicit,
        mode=draw(st.sampled_from([0, 0, 0o600, 0o755])),
        condition=condition,
        request_id=draw(st.sampled_from(["", "r", "s", "t"])),
        digests=draw(st.sampled_from(LISTS)),
    )


class AgentAgainstModel(RuleBasedStateMachine, AgentComparison):
    """Callers, programs in the sandbox, time and death, in every order."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        AgentComparison.__init__(self)

    def teardown(self) -> None:
        self.close()

    # -- callers

    @rule(
        wish=wishes(),
        again=st.booleans(),
        number=which,
        fresh=st.booleans(),
        digest=st.sampled_from([None, None, SHA256, BLAKE3]),
    )
    def start(self, wish: Wish, again: bool, number: int, fresh: bool, digest: Algorithm | None) -> None:  # noqa: FBT001
        """RSM-1, RSM-9: StartUpload, new or repeated."""
        wish = self._known(number).wish if again and self.world.uploads else self._filled(wish, fresh=fresh)
        wish = replace(wish, explicit=True)
        entry = self.world.files.get(wish.path)
        content = entry.content if entry is not None else b""
        self.run(self._start(wish, digest_of(content, digest) if digest else None))

    async def _start(self, wish: Wish, digest: files_pb2.Digest | None) -> None:
        request = files_pb2.StartUploadRequest(metadata=self._message(wish), digest=digest)
        real = call(self.mortal.agent, wish.principal, start_upload=request)
        agreed = await self._agree(lambda: self.world.start(wish, digest), real)
        if agreed is not None:
            upload, status = agreed[0], agreed[1].start_upload.upload
            upload.upload_id = upload.upload_id or status.upload_id
            self._check_status(status, upload, digest=True)

    @precondition(lambda self: self.world.uploads)
    @rule(number=which, principal=st.sampled_from(PRINCIPALS))
    def take_over(self, number: int, principal: str) -> None:
        """RSM-2, RSM-5: StartUpload with an upload_id."""
        upload = self._known(number)
        wish = replace(upload.wish, explicit=True, principal=principal)
        self.run(self._take_over(wish, upload.upload_id))

    async def _take_over(self, wish: Wish, upload_id: str) -> None:
        request = files_pb2.StartUploadRequest(metadata=self._message(wish, upload_id))
        real = call(self.mortal.agent, wish.principal, start_upload=request)
        agreed = await self._agree(lambda: self.world.take_over(wish, upload_id), real)
        if agreed is not None:
            self._check_status(agreed[1].start_upload.upload, agreed[0], digest=True)

    @rule(wish=wishes(), again=st.booleans(), number=which, fresh=st.booleans())
    def open(self, wish: Wish, again: bool, number: int, fresh: bool) -> None:  # noqa: FBT001
        """UPL-1, RSM-1, RSM-17: UploadFile; its stream stays open."""
        wish = self._known(number).wish if again and self.world.uploads else self._filled(wish, fresh=fresh)
        if len(self.streams) < 4:
            self.run(self._attach(wish))

    @precondition(lambda self: self.world.uploads and len(self.streams) < 4)
    @rule(number=which, off=st.sampled_from([0, 0, 0, 0, -1, -1, 1]))
    def go_on(self, number: int, off: int) -> None:
        """RSM-4, RSM-5: UploadFile with an upload_id and an epoch."""
        upload = self._known(number)
        epoch = max(1, upload.epoch + off)
        self.run(self._attach(replace(upload.wish, explicit=True), upload.upload_id, epoch))

    @precondition(lambda self: self.streams)
    @rule(
        number=which,
        data=st.binary(min_size=1, max_size=20),
        checked=st.sampled_from([True, True, False]),
        wrong=st.sampled_from(["", "", "", "", "", "offset", "crc", "hole"]),
    )
    def send(self, number: int, data: bytes, checked: bool, wrong: str) -> None:  # noqa: FBT001
        """UPL-5, UPL-7: one more chunk."""
        stream, _ = self._open(number)
        if stream.kind and wrong:
            checked = stream.kind == "data"
        if not checked:
            self.run(self._chunk(stream, data))
            return
        offset = stream.position + (wrong == "offset")
        hole = len(data) if wrong == "hole" else 0
        data = b"" if hole else data
        self.run(self._chunk(stream, data, offset=offset, hole=hole, crc_ok=wrong != "crc"))

    @precondition(lambda self: self.streams)
    @rule(number=which, wrong=st.sampled_from(["", "", "", "", "", "size", "digest", "kind"]))
    def finish(self, number: int, wrong: str) -> None:
        """UPL-3, RSM-6, RSM-34, DIG-5."""
        stream, _ = self._open(number)
        content = stream.upload.result if stream.replay else stream.upload.staged
        algorithm = stream.upload.algorithm or SHA256
        if wrong == "kind":
            algorithm = BLAKE3 if algorithm == SHA256 else SHA256
        digest = digest_of(content + b"?" if wrong == "digest" else content, algorithm)
        self.run(self._finish(stream, len(content) + (wrong == "size"), digest))

    @precondition(lambda self: self.streams)
    @rule(number=which, how=st.sampled_from(["end", "end", "eof", "cancel", "break"]))
    def end(self, number: int, how: str) -> None:
        """UPL-1, UPL-2, UPL-11."""
        stream, _ = self._open(number)
        self.run(self._end(stream, how))

    @rule(wish=wishes(), content=contents, fresh=st.booleans(), cut=st.integers(1, 20))
    def upload(self, wish: Wish, content: bytes, fresh: bool, cut: int) -> None:  # noqa: FBT001
        """UPL-2, UPL-3: a whole upload in a stream of its own."""
        size = len(content) if wish.size or not wish.explicit else 0
        self.run(self._upload(self._filled(replace(wish, size=size), fresh=fresh), content, cut))

    async def _upload(self, wish: Wish, content: bytes, cut: int) -> None:
        attached = await self._attach(wish)
        if attached is None:
            return
        stream, _ = attached
        for begin in range(0, len(content), cut):
            piece = content[begin : begin + cut]
            if not await self._chunk(stream, piece, offset=begin if wish.explicit else None):
                return
        if wish.explicit:
            await self._finish(stream, len(content), digest_of(content, wish.accepted[0]))
        else:
            await self._end(stream, "end")

    @precondition(lambda self: self._published())
    @rule(number=which, same=st.booleans(), epoch=st.integers(1, 9))
    def finish_again(self, number: int, same: bool, epoch: int) -> None:  # noqa: FBT001
        """RSM-6, RSM-21, CRS-8: the answer was lost; FINISH_CONFLICT for another digest."""
        published = self._published()
        self.run(self._finish_again(published[number % len(published)], epoch, same=same))

    def _published(self) -> list[Upload]:
        return [upload for upload in self.world.uploads if upload.state == "PUBLISHED"]

    async def _finish_again(self, upload: Upload, epoch: int, *, same: bool) -> None:
        attached = await self._attach(replace(upload.wish, explicit=True), upload.upload_id, epoch)
        if attached is not None:
            content = upload.result if same else upload.result + b"?"
            await self._finish(attached[0], len(content), digest_of(content, upload.algorithm or SHA256))

    @precondition(lambda self: self.world.uploads)
    @rule(number=which, principal=st.sampled_from(PRINCIPALS))
    def abort(self, number: int, principal: str) -> None:
        """RSM-2, RSM-34."""
        self.run(self._abort(principal, self._known(number).upload_id))

    async def _abort(self, principal: str, upload_id: str) -> None:
        request = files_pb2.AbortUploadRequest(upload_id=upload_id)
        real = call(self.mortal.agent, principal, abort_upload=request)
        agreed = await self._agree(lambda: self.world.abort(principal, upload_id), real)
        if agreed is not None:
            self._check_status(agreed[1].abort_upload.upload, agreed[0], digest=False)

    @precondition(lambda self: self.steps % 4 == 1)
    @rule(path=paths, offset=st.integers(0, 5), length=st.none() | st.integers(0, 30), checked=st.booleans())
    def download(self, path: str, offset: int, length: int | None, checked: bool) -> None:  # noqa: FBT001
        """DWN-1 to DWN-4: whole, or a range."""

        def expected() -> bytes:
            entry = self.world.files.get(path)
            if entry is None or entry.kind != "file":
                kinds = {"directory": Reason.IS_A_DIRECTORY, "link": Reason.LEAF_IS_LINK}
                raise Refusal(Reason.FILE_NOT_FOUND if entry is None else kinds[entry.kind])
            if offset > len(entry.content):
                raise Refusal(Reason.RANGE_INVALID)
            return entry.content[offset:] if length is None else entry.content[offset : offset + length]

        fields: dict[str, Any] = {} if length is None else {"length": length}
        real = get(self.mortal.agent, path, checked=checked, offset=offset, **fields)
        agreed = self.run(self._agree(expected, real))
        if agreed is not None:
            content, got = agreed
            assert got.content == content
            assert got.header.file.version == self._version(path)

    @precondition(lambda self: self.steps % 4 == 2)
    @rule(path=paths, digest=st.booleans(), digests=st.sampled_from(LISTS))
    def look(self, path: str, digest: bool, digests: tuple[Algorithm, ...]) -> None:  # noqa: FBT001
        """PTH-4, PTH-6, DIG-2: StatFile."""

        def expected() -> Entry:
            entry = self.world.files.get(path)
            if entry is None:
                raise Refusal(Reason.FILE_NOT_FOUND)
            if entry.kind == "link" or (digest and entry.kind == "directory"):
                raise Refusal(Reason.LEAF_IS_LINK if entry.kind == "link" else Reason.IS_A_DIRECTORY)
            return entry

        looked = stat(self.mortal.agent, path, include_digest=digest, accepted_digests=digests)
        agreed = self.run(self._agree(expected, looked))
        if agreed is not None and agreed[0].kind == "file":
            entry, info = agreed
            assert (info.size_bytes, info.mode) == (len(entry.content), entry.mode)
            assert info.HasField("digest") is digest
            if digest:
                assert info.digest == digest_of(entry.content, [*digests, SHA256][0])

    # -- programs in the sandbox

    @rule(
        path=paths,
        kind=st.sampled_from(["file", "file", "file", "in place", "nothing", "directory", "link"]),
        content=contents,
    )
    def change(self, path: str, kind: str, content: bytes) -> None:
        """CND-2: a program in the sandbox changes a destination, in the middle of whatever goes on."""
        target, entry = self._on_disk(path), self.world.files.pop(path, None)
        if kind == "in place" and entry is not None and entry.kind == "file":
            target.write_bytes(content)
            self.world.files[path] = Entry("file", content, entry.mode)
            return
        if entry is not None:
            target.rmdir() if entry.kind == "directory" else target.unlink()
        match kind:
            case "file":
                target.write_bytes(content)
                target.chmod(0o640)
                self.world.files[path] = Entry("file", content, 0o640)
            case "directory":
                target.mkdir()
                self.world.files[path] = Entry("directory")
            case "link":
                target.symlink_to("elsewhere")
                self.world.files[path] = Entry("link")
            case _:
                pass

    @precondition(lambda self: self._idle())
    @rule(number=which, how=st.sampled_from(["remove", "shorten", "lengthen", "alter"]))
    def meddle(self, number: int, how: str) -> None:
        """UPL-3, RSM-4, RSM-7: a program in the sandbox changes what is staged."""
        idle = self._idle()
        upload = idle[number % len(idle)]
        path = self._staging(upload)
        disk = upload.disk or b""
        if how == "remove":
            path.unlink()
            upload.disk = None
            return
        match how:
            case "shorten":
                upload.disk = disk[: len(disk) // 2]
            case "lengthen":
                upload.disk = disk + b"!"
            case _:
                upload.disk = bytes(255 - byte for byte in disk)
        path.write_bytes(upload.disk)

    def _idle(self) -> list[Upload]:
        unfinished = self.world.unfinished
        return [upload for upload in unfinished if upload.holder is None and upload.disk is not None]

    # -- time and death

    @rule(seconds=st.sampled_from([1, 1, 1, 50, EXPIRY, EXPIRY + 1, TOMBSTONE + 1]))
    def wait(self, seconds: int) -> None:
        """RSM-8, RSM-22: time goes on."""
        self.world.now += seconds
        self.run(self._sweep())

    async def _sweep(self) -> None:
        expired = self.world.sweep()
        assert await self.mortal.agent.sweep() == expired
        await self._displaced()

    @precondition(lambda self: self.steps % 4 == 3)
    @rule(killed=st.booleans())
    def next_agent(self, killed: bool) -> None:  # noqa: FBT001
        """RSM-3, RSM-10: the agent is closed or killed, and another takes its place."""
        if killed:
            self.mortal.die()
        self.run(self._next_agent())

    async def _next_agent(self) -> None:
        await self.mortal.close()
        await self._vanish()
        self.world.displaced.clear()
        await self.mortal.start()
        for upload in self.world.uploads:
            await self._learn(upload)
        self.world.restarted()

    @rule(
        wish=wishes(),
        known=st.booleans(),
        number=which,
        content=st.binary(min_size=1, max_size=20),
        point=st.sampled_from(sorted(POINTS)),
    )
    def kill_in_an_upload(
        self,
        wish: Wish,
        known: bool,  # noqa: FBT001
        number: int,
        content: bytes,
        point: str,
    ) -> None:
        """UPL-8, RSM-7, CRS-2 to CRS-7: the agent is killed at each point of an upload."""
        upload_id, epoch = "", 0
        if known and self.world.unfinished:
            upload = self.world.unfinished[number % len(self.world.unfinished)]
            wish, upload_id, epoch = replace(upload.wish, explicit=True), upload.upload_id, upload.epoch
        else:
            size = len(content) if wish.size else 0
            wish = self._filled(replace(wish, size=size, explicit=True), fresh=True)
        self.run(self._kill_in_an_upload(wish, upload_id, epoch, content, point))

    async def _kill_in_an_upload(
        self, wish: Wish, upload_id: str, epoch: int, content: bytes, point: str
    ) -> None:
        stage, stop = POINTS[point]
        staged, algorithm = b"", SHA256

        def predict() -> None:
            nonlocal staged, algorithm
            stream = self.world.attach(wish, upload_id, epoch)
            staged = b"" if stream.replay else stream.upload.staged
            if stage == "attach" and not stream.replay:
                raise Died
            self.world.chunk(stream, content, offset=stream.position)
            if stage == "chunk" and not stream.replay:
                raise Died
            algorithm = stream.upload.algorithm or SHA256
            digest = digest_of(staged + content, algorithm)
            self.world.finish(stream, len(staged + content), digest, stop=stop)
            if not stream.replay:
                raise Died

        reason: Reason | None = None
        died = False
        try:
            predict()
        except Refusal as refusal:
            reason = refusal.reason
        except Died:
            died = True
        self.mortal.die_at(point)
        peer = Peer(self.mortal.agent)
        await peer.send(opened(wish.principal, upload=self._message(wish, upload_id, epoch)))
        await peer.data(len(staged), content)
        finish = finish_of(staged + content, algorithm)
        await peer.upload_message(files_pb2.UploadFileRequest(finish=finish))
        await self._first(self.mortal.killed, peer)
        if died:
            # The agent may end its stream before the loop hears of the kill.
            await self.mortal.killed.wait()
            await peer.vanish()
            await self._next_agent()
            return
        self.mortal.die_at("")
        if reason is not None:
            assert (await peer.error()).reason is reason
        else:
            assert (await peer.answer()).upload.replayed
        # Refused behind its admission, it is kept, and nobody was told its id.
        for upload in self.world.uploads:
            await self._learn(upload)
        await self._displaced()

    # -- what holds always

    @invariant()
    def everything_agrees(self) -> None:
        self.steps += 1
        with self._time_passes():
            self._check_files()
            self.run(self._check_uploads())


def test_agent_against_the_model() -> None:
    """UPL-1, UPL-2, UPL-3, UPL-5, UPL-7, UPL-8, UPL-11, RSM-1, RSM-2, RSM-3, RSM-4, RSM-5, RSM-6, RSM-7,
    RSM-8, RSM-9, RSM-10, CND-1, CND-2, CRS-2, CRS-3, CRS-4, CRS-5, CRS-6, CRS-7, CRS-8: 12 runs of 25 steps."""
    run_state_machine_as_test(
        AgentAgainstModel, settings=settings(max_examples=12, stateful_step_count=25, deadline=None)
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_agent_against_the_model_at_length() -> None:
    """UPL-8, RSM-3, RSM-7, RSM-10: the same; 400 runs of 50 steps are up to 20 000 steps."""
    run_state_machine_as_test(
        AgentAgainstModel, settings=settings(max_examples=400, stateful_step_count=50, deadline=None)
    )
