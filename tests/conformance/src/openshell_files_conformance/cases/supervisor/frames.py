"""Frames in a relay: cut anywhere, broken, unknown, in a wrong order, and one operation behind another."""

from __future__ import annotations

from contextlib import suppress

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.cases.supervisor.vector_names import every_clause, slug
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2, trees_pb2
from openshell_files_conformance.peers.operation import OK, RELAY_ENDED, Request, data, finish
from openshell_files_conformance.peers.relay_frames import encode_varint
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

_BROKEN = "AGENT_PROTOCOL_ERROR"
_END = Request(input_end=file_relay_pb2.FileRelayInputEnd())
_CANCELLED = Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=True))


@case("supervisor/frames/cut-anywhere", profile="rfc", clauses=("FRM-1", "FRM-10"))
async def cut_anywhere(env: SupervisorEnv) -> None:
    """The bytes of an upload give the same, whole, byte by byte, and with an empty piece between."""
    content = bytes(range(256))
    for name, cuts in (("bytes", [1] * 2000), ("odd", [0, 7, 0, 300, 1, 2]), ("whole", [])):
        relay = await env.relay()
        metadata = env.metadata(env.path(name), explicit_finish=False, size_bytes=len(content))
        await relay.send(
            Request(open=env.opening(upload=metadata)),
            Request(upload=files_pb2.UploadFileRequest(chunk=content)),
            _END,
            cuts=cuts,
        )
        done = await relay.outcome()
        env.check(name, done.reason, equals=OK, clause="FRM-1")
        env.check(f"{name}-content", await env.files.read(env.path(name)), equals=content, clause="FRM-10")


@case("supervisor/frames/long-lengths", profile="relay", clauses=("FRM-10",))
async def long_lengths(env: SupervisorEnv) -> None:
    """A length that takes more bytes than it needs, up to ten, is a length."""
    for size in (2, 5, 9, 10):
        relay = await env.relay()
        body = Request(
            open=env.opening(stat_file=files_pb2.StatFileRequest(remote_path=env.home))
        ).SerializeToString()
        length = bytearray(encode_varint(len(body)))
        while len(length) < size:
            length[-1] |= 0x80
            length.append(0)
        await relay.relay.send(bytes(length) + body)
        env.check(f"of-{size}-bytes", (await relay.outcome()).reason, equals=OK, clause="FRM-10")


def _register_broken() -> None:
    for given in vectors("frames")["streams"]:
        if given.get("error") not in {"too long", "no length"} or given["frames"]:
            continue
        clauses = tuple(dict.fromkeys([*given.get("clauses", ()), "FRM-5", "FRM-25"]))
        _register_stream(given["name"], value(given["stream"]), clauses)


def _register_stream(name: str, stream: bytes, clauses: tuple[str, ...]) -> None:
    async def run(env: SupervisorEnv) -> None:
        relay = await env.relay()
        await relay.relay.send(stream)
        done = await relay.outcome()
        env.check("reason", done.reason, equals=_BROKEN, clause=clauses[0])
        with suppress(CannotGoOnError):
            await relay.rest()
        env.check("relay-ends", relay.relay.ended.is_set(), equals=True, clause="FRM-25")
        env.check("still-serves", (await env.stat(env.home)).reason, equals=OK, clause="FRM-5")
        every_clause(env, [clause for clause in clauses if clause not in {"FRM-5", "FRM-25"}])

    run.__doc__ = (
        f"Vector of frames: {name}; the relay ends with AGENT_PROTOCOL_ERROR, and the agent serves the next."
    )
    case(f"supervisor/frame-vectors/{slug(name)}", profile="relay", clauses=clauses)(run)


_register_broken()
_register_stream("bytes that are no message", b"\x05\xff\xff\xff\xff\xff", ("FRM-5", "FRM-25"))


@case("supervisor/frames/broken-within-an-upload", profile="relay", clauses=("FRM-5", "FRM-11", "UPL-1"))
async def broken_within_an_upload(env: SupervisorEnv) -> None:
    """A frame that is too long, or no message, within an upload ends it, and nothing is published or left."""
    for name, junk, clause in (
        ("too-long", encode_varint((1 << 20) + 65), "FRM-11"),
        ("no-message", b"\x03\x0a\xff\xff", "FRM-5"),
    ):
        relay = await env.begin_upload(env.path(name))
        await relay.upload(data(0, b"content"))
        await relay.relay.send(junk)
        done = await relay.outcome()
        env.check(name, done.reason, equals=_BROKEN, clause=clause)
        env.check(
            f"{name}-not-published", await env.files.exists(env.path(name)), equals=False, clause="UPL-1"
        )
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="UPL-1")


@case("supervisor/frames/largest", profile="relay", clauses=("FRM-11",))
async def largest(env: SupervisorEnv) -> None:
    """A frame of 1 MiB and 64 bytes is taken for a frame: what is wrong with it is its content."""
    relay = await env.relay()
    request = Request(open=env.opening(stat_file=files_pb2.StatFileRequest(remote_path="x")))
    missing = (1 << 20) + 64 - request.ByteSize()
    request.open.stat_file.remote_path = "x" * (missing - 8)
    while request.ByteSize() < (1 << 20) + 64:
        request.open.stat_file.remote_path += "x"
    await relay.send(request)
    env.check("reason", (await relay.outcome()).reason, equals="INVALID_PATH", clause="FRM-11")


@case("supervisor/frames/first-frame", profile="relay", clauses=("FRM-2",))
async def first_frame(env: SupervisorEnv) -> None:
    """Anything but `open` first, a second `open`, and an `open` without an operation, are refused."""
    stat = env.opening(stat_file=files_pb2.StatFileRequest(remote_path=env.home))
    for name, requests in (
        ("input-end", [_END]),
        ("content", [Request(upload=data(0, b"x"))]),
        ("empty-frame", [Request()]),
        ("no-operation", [Request(open=env.opening())]),
    ):
        relay = await env.relay()
        await relay.send(*requests)
        done = await relay.outcome()
        # What an agent without the operation would call it, it does not know either.
        allowed = ("INVALID_REQUEST", _BROKEN, "METHOD_UNSUPPORTED")
        env.check(name, done.reason, one_of=allowed, clause="FRM-2")
    relay = await env.begin_upload(env.path())
    await relay.send(Request(upload=data(0, b"x")), Request(open=stat))
    done = await relay.outcome()
    env.check("second-open", done.reason, one_of=("INVALID_REQUEST", _BROKEN), clause="FRM-2")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="FRM-2")


@case("supervisor/frames/unknown-frame", profile="relay", clauses=("FRM-2", "FRM-34"))
async def unknown_frame(env: SupervisorEnv) -> None:
    """A frame of a type that the agent does not know, and a tree's message in an upload, do not publish it."""
    for name, frame, clause in (
        ("unknown", Request.FromString(bytes.fromhex("c23e00")), "FRM-2"),
        ("tree", Request(upload_tree=trees_pb2.UploadTreeRequest()), "FRM-34"),
    ):
        relay = await env.begin_upload(env.path(name))
        with suppress(CannotGoOnError):
            await relay.send(Request(upload=data(0, b"content")), frame, Request(upload=finish(b"content")))
            await relay.input_end()
        done = await relay.outcome()
        env.check(name, done.reason, one_of=("INVALID_REQUEST", _BROKEN), clause=clause)
        env.check(
            f"{name}-not-published", await env.files.exists(env.path(name)), equals=False, clause=clause
        )


@case("supervisor/frames/relay-frame-without-data", profile="relay", clauses=("FRM-14",))
async def relay_frame_without_data(env: SupervisorEnv) -> None:
    """A second `init` in the relay ends it, and nothing is published."""
    relay = await env.begin_upload(env.path(), explicit_finish=False, size_bytes=1)
    await relay.upload(files_pb2.UploadFileRequest(chunk=b"x"))
    await relay.relay.send_frame(openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="other")))
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="FRM-14")
    relay.relay.end()
    env.check("not-published", await env.files.exists(env.path()), equals=False, clause="FRM-14")
    env.check("still-serves", (await env.stat(env.home)).reason, equals=OK, clause="FRM-14")


@case("supervisor/frames/all-at-once", profile="rfc", clauses=("FRM-12", "FRM-13", "FRM-3", "FRM-32"))
async def all_at_once(env: SupervisorEnv) -> None:
    """The gateway need not wait for `accepted`; the agent sends it, the result last, and then ends the relay."""
    relay = await env.relay()
    metadata = env.metadata(env.path(), explicit_finish=False, size_bytes=3)
    content = Request(upload=files_pb2.UploadFileRequest(chunk=b"abc"))
    await relay.send(Request(open=env.opening(upload=metadata)), content, _END)
    done = await relay.outcome()
    env.check("frames", done.kinds, equals=["accepted", "upload"], clause="FRM-13")
    env.check("without-waiting", done.reason, equals=OK, clause="FRM-12")
    behind = await relay.rest()
    env.check("nothing-behind", len(behind), equals=0, clause="FRM-3")
    env.check("relay-ends", relay.relay.ended.is_set(), equals=True, clause="FRM-32")


@case("supervisor/frames/late-cancellation", profile="rfc", clauses=("FRM-17", "UPL-34", "FRM-16"))
async def late_cancellation(env: SupervisorEnv) -> None:
    """A cancellation behind the end of the input, in one piece with it, keeps an upload of the RFC from being published."""
    relay = await env.relay()
    metadata = env.metadata(env.path(), explicit_finish=False, size_bytes=3)
    content = Request(upload=files_pb2.UploadFileRequest(chunk=b"abc"))
    await relay.send(Request(open=env.opening(upload=metadata)), content, _END, _CANCELLED)
    done = await relay.outcome()
    env.check("reason", done.reason, one_of=("UPLOAD_INCOMPLETE", RELAY_ENDED), clause="FRM-17")
    env.check("not-published", await env.files.exists(env.path()), equals=False, clause="UPL-34")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="FRM-16")


@case("supervisor/frames/working", profile="relay", clauses=("FRM-7",), timeout=30)
async def working(env: SupervisorEnv) -> None:
    """While the agent reads a large file for its digest it sends `working`, three times per idle timeout at least."""
    size = 4 << 30
    metadata = env.metadata(env.path(), explicit_finish=False, size_bytes=size)
    relay = await env.relay()
    # A hole takes no storage, and its digest as long as that of content.
    await relay.send(
        Request(open=env.opening(upload=metadata)),
        Request(upload=files_pb2.UploadFileRequest(data=files_pb2.FileChunk(hole_bytes=size))),
        _END,
    )
    done = await relay.outcome(env.scaled(20))
    if not done.ok:
        raise CannotGoOnError(f"a file of 4 GiB of zeros cannot be made: {done}")
    relay, idle = await env.relay(), env.scaled(1.5)
    request = files_pb2.StatFileRequest(remote_path=env.path(), include_digest=True)
    await relay.begin(env.opening(stat_file=request, idle_timeout=idle), _END)
    silent = False
    with suppress(CannotGoOnError):
        while (frame := await relay.next(idle)) is not None:
            if frame.WhichOneof("frame") in {"stat_file", "error"} or len(relay.frames) > 6:
                break
    silent = relay.frames[-1].WhichOneof("frame") not in {"stat_file", "error"} and len(relay.frames) <= 6
    kinds = [frame.WhichOneof("frame") for frame in relay.frames]
    env.check("not-silent", silent, equals=False, clause="FRM-7")
    env.check(
        "working", kinds, satisfies=("`working` among them", lambda kinds: "working" in kinds), clause="FRM-7"
    )
    await relay.send(_CANCELLED)


@case(
    "supervisor/frames/working-on-a-tree", profile="trees", clauses=("TRE-16",), needs=("trees",), timeout=40
)
async def working_on_a_tree(env: SupervisorEnv) -> None:
    """While the agent reads a large file for the digest in its entry it sends signs of life, three times per idle timeout at least."""
    size = 3 << 30
    await env.files.mkdir(env.path("top"))
    metadata = env.metadata(env.path("top/large"), explicit_finish=False, size_bytes=size)
    relay = await env.relay()
    await relay.send(
        Request(open=env.opening(upload=metadata)),
        Request(upload=files_pb2.UploadFileRequest(data=files_pb2.FileChunk(hole_bytes=size))),
        _END,
    )
    done = await relay.outcome(env.scaled(20))
    if not done.ok:
        raise CannotGoOnError(f"a file of 3 GiB of zeros cannot be made: {done}")
    relay, idle = await env.relay(), env.scaled(1.5)
    start = trees_pb2.DownloadTreeStart(path=env.path("top").encode(), compare_content=True)
    await relay.begin(env.opening(download_tree=start, idle_timeout=idle))
    kinds, silent = list[str](), False
    try:
        while len(kinds) < 10 and "manifest" not in kinds and (frame := await relay.next(idle)) is not None:
            kinds.append(str(frame.download_tree.WhichOneof("payload") or frame.WhichOneof("frame")))
    except CannotGoOnError:
        silent = True
    env.check("not-silent", silent, equals=False, clause="TRE-16")
    env.check("working", "working" in kinds, equals=True, clause="TRE-16")
    await relay.send(_CANCELLED)


@case(
    "supervisor/reuse/operations",
    profile="relay",
    clauses=("FRM-9", "FRM-24", "FRM-32"),
    needs=("keeps-relays",),
)
async def operations(env: SupervisorEnv) -> None:
    """One relay carries several operations of different callers, also after an error; without keep_relay it ends."""
    await env.files.write(env.path(), b"content")
    relay = await env.relay()
    for turn in range(3):
        request = files_pb2.StatFileRequest(remote_path=env.path())
        await relay.begin(
            env.opening(stat_file=request, keep_relay=True, principal=f"{env.principal}-{turn}"), _END
        )
        env.check(f"stat-{turn}", (await relay.outcome()).reason, equals=OK, clause="FRM-9")
    missing = files_pb2.StatFileRequest(remote_path=env.path("missing"))
    await relay.begin(env.opening(stat_file=missing, keep_relay=True), _END)
    env.check("error", (await relay.outcome()).reason, equals="FILE_NOT_FOUND", clause="FRM-9")
    metadata = env.metadata(env.path("upload"))
    await relay.begin(env.opening(upload=metadata, keep_relay=True))
    await relay.upload(data(0, b"new"), finish(b"new"))
    await relay.input_end()
    env.check("upload", (await relay.outcome()).reason, equals=OK, clause="FRM-9")
    env.check("stays", relay.relay.ended.is_set(), equals=False, clause="FRM-24")
    await relay.begin(
        env.opening(download=files_pb2.DownloadFileRequest(remote_path=env.path("upload"))), _END
    )
    env.check("download", (await relay.outcome()).reason, equals=OK, clause="FRM-9")
    await relay.rest()
    env.check("ends", relay.relay.ended.is_set(), equals=True, clause="FRM-32")


@case(
    "supervisor/reuse/input-left-over", profile="relay", clauses=("FRM-24", "FRM-9"), needs=("keeps-relays",)
)
async def input_left_over(env: SupervisorEnv) -> None:
    """What a refused upload still sends is discarded, and the next operation is carried out."""
    relay = await env.relay()
    await relay.begin(env.opening(upload=env.metadata(env.path()), keep_relay=True))
    await relay.upload(data(0, b"a" * 10), data(99, b"refused"))
    refused = await relay.outcome()
    env.check("refused", refused.reason, equals="OFFSET_MISMATCH", clause="FRM-24")
    await relay.upload(data(10, b"more" * 1000), finish(b"more"))
    await relay.input_end()
    await relay.input_end(cancelled=True)
    request = files_pb2.StatFileRequest(remote_path=env.home)
    await relay.begin(env.opening(stat_file=request, keep_relay=True), _END)
    done = await relay.outcome()
    env.check("next", (done.reason, done.kind), equals=(OK, "stat_file"), clause="FRM-9")
    env.check("not-published", await env.files.exists(env.path()), equals=False, clause="FRM-24")


@case(
    "supervisor/reuse/ends-after-a-broken-frame",
    profile="relay",
    clauses=("FRM-25",),
    needs=("keeps-relays",),
)
async def ends_after_a_broken_frame(env: SupervisorEnv) -> None:
    """After AGENT_PROTOCOL_ERROR the agent ends the relay, even if it was to be kept."""
    relay = await env.relay()
    await relay.begin(env.opening(upload=env.metadata(env.path()), keep_relay=True))
    await relay.relay.send(b"\x05\xff\xff\xff\xff\xff")
    env.check("reason", (await relay.outcome()).reason, equals=_BROKEN, clause="FRM-25")
    with suppress(CannotGoOnError):
        await relay.rest()
    env.check("ends", relay.relay.ended.is_set(), equals=True, clause="FRM-25")


@case("supervisor/reuse/idle-relay-ends", profile="relay", clauses=("FRM-28",), needs=("keeps-relays",))
async def idle_relay_ends(env: SupervisorEnv) -> None:
    """A gateway may end an idle relay; the agent goes on to serve."""
    relay = await env.relay()
    request = files_pb2.StatFileRequest(remote_path=env.home)
    await relay.begin(env.opening(stat_file=request, keep_relay=True), _END)
    await relay.outcome()
    relay.relay.end()
    env.check("serves", (await env.stat(env.home)).reason, equals=OK, clause="FRM-28")


@case(
    "supervisor/reuse/cancelled-operation",
    profile="relay",
    clauses=("FRM-16", "FRM-24"),
    needs=("keeps-relays",),
)
async def cancelled_operation(env: SupervisorEnv) -> None:
    """An operation that is cancelled on a kept relay ends, with or without an answer, and the relay is of use or ends."""
    relay = await env.relay()
    await relay.begin(env.opening(upload=env.metadata(env.path()), keep_relay=True))
    await relay.until("accepted")
    await relay.upload(data(0, b"content"))
    await relay.input_end(cancelled=True)
    done = await relay.outcome()
    env.check("reason", done.reason, one_of=("UPLOAD_INCOMPLETE", RELAY_ENDED), clause="FRM-16")
    if done.kind:
        request = files_pb2.StatFileRequest(remote_path=env.home)
        await relay.begin(env.opening(stat_file=request, keep_relay=True), _END)
        env.check("next", (await relay.outcome()).reason, one_of=(OK, RELAY_ENDED), clause="FRM-24")
    else:
        env.check("next", relay.relay.ended.is_set(), equals=True, clause="FRM-24")


@case("supervisor/frames/unknown-operation", profile="relay", clauses=("DIR-1", "FRM-3"))
async def unknown_operation(env: SupervisorEnv) -> None:
    """An operation of a later protocol is answered by an error, and changes nothing."""
    before = await env.files.tree(env.home)
    opened = env.opening()
    opened.MergeFromString(bytes.fromhex("c23e00"))
    relay = await env.relay()
    await relay.begin(opened, _END)
    done = await relay.outcome()
    env.check("error", done.kind, equals="error", clause="FRM-3")
    env.check("nothing-changed", await env.files.tree(env.home), equals=before, clause="DIR-1")
