"""Operations over a relay whose agent the suite plays: what the gateway carries, and what it makes of an agent that misbehaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

from openshell_files_conformance.cases.gateway.relay_opening import NEEDS, SHORT, asked, described
from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_conformance.peers.caller import OK, SHA256, Up, chunks, crc32c, data, finish, hole
from openshell_files_conformance.peers.client import Call, Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv, SuiteSandbox
from openshell_files_conformance.peers.relay_frames import encode_frame, encode_varint
from openshell_files_conformance.peers.supervisor import Response, SupervisorRelay, accepted, failure
from openshell_files_conformance.peers.wire import framed
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import vectors

_DOWN = files_pb2.DownloadFileResponse


async def answered(sandbox: SuiteSandbox, *frames: Response, raw: bytes = b"") -> Ended[Any]:
    """Call StatFile, answer it with these frames or bytes, end the relay, and return how the call ended."""
    call = await asked(sandbox)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send_bytes(b"".join(map(encode_frame, frames)) + raw)
    await relay.half_close()
    return await call.end()


async def uploading(sandbox: SuiteSandbox, *messages: Up, **fields: Any) -> tuple[Call[Any], SupervisorRelay]:
    """Begin an upload, take its relay up, and accept it."""
    call = await sandbox.caller.begin("file", *messages, **fields)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted())
    return call, relay


async def downloading(sandbox: SuiteSandbox, **fields: Any) -> tuple[Call[Any], SupervisorRelay]:
    """Begin a download, take its relay up, and accept it."""
    call = sandbox.caller.open("DownloadFile")
    await call.send(files_pb2.DownloadFileRequest(sandbox_id=sandbox.facts.id, remote_path="file", **fields))
    await call.half_close()
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted())
    return call, relay


def down(**payload: Any) -> Response:
    """A frame with a message of a download."""
    return Response(download=_DOWN(**payload))


def header(size: int) -> Response:
    """The header of a download."""
    return down(header=files_pb2.DownloadFileHeader(size_bytes=size))


def download_end(sent: int) -> Response:
    """The last frame of a download."""
    return Response(download_end=file_relay_pb2.FileRelayDownloadEnd(bytes_sent=sent))


def published(size: int) -> Response:
    """The last frame of an upload."""
    return Response(upload=files_pb2.UploadFileResponse(bytes_written=size))


@case("gateway/frames/upload-is-carried", profile="relay", needs=NEEDS, clauses=("FRM-4", "FRM-6", "FRM-10"))
async def upload_is_carried(env: GatewayEnv) -> None:
    """The metadata is in `open`, each further message is carried as it is, and the half-close becomes input_end."""
    sandbox = await env.sandbox()
    content = content_of(300_000)
    # Extensions and wrong values are the agent's to judge.
    messages = [
        *chunks(content[:262_144]),
        hole(262_144, 99),
        data(5, b"x", 1),
        finish(content, SHA256, size=7),
    ]
    call = await sandbox.caller.begin("dir/file", explicit_finish=True, mode=0o640)
    relay = await sandbox.session.take_up()
    opened = await relay.opened()
    env.check(
        "metadata",
        (opened.upload.remote_path, opened.upload.mode, opened.upload.explicit_finish),
        equals=("dir/file", 0o640, True),
        clause="FRM-10",
    )
    await relay.send(accepted())
    await call.send(*messages)
    await call.half_close()
    carried = [await relay.next() for _ in messages]
    env.check(
        "messages", [frame and frame.upload for frame in carried] == messages, equals=True, clause="FRM-4"
    )
    last = await relay.next()
    ended = last is not None and last.HasField("input_end") and not last.input_end.cancelled
    env.check("input-end", ended, equals=True, clause="FRM-6")
    await relay.send(published(11))
    done = await call.end()
    env.check(
        "answer", (done.reason, done.answer and done.answer.bytes_written), equals=(OK, 11), clause="FRM-4"
    )


@case("gateway/frames/unknown-fields-are-carried", profile="relay", needs=NEEDS, clauses=("FRM-4",))
async def unknown_fields_are_carried(env: GatewayEnv) -> None:
    """What the gateway does not know in a message of the caller or of the agent is carried all the same."""
    sandbox = await env.sandbox()
    # Field 9999, a text, which no message has.
    unknown = b"\xfa\xf0\x04\x03new"
    message = data(0, b"x")
    message.data.MergeFromString(unknown)
    call, relay = await uploading(sandbox, message, explicit_finish=True)
    frame = await relay.next()
    env.check(
        "towards-the-agent",
        frame is not None and unknown in frame.SerializeToString(),
        equals=True,
        clause="FRM-4",
    )
    answer = published(1)
    answer.upload.MergeFromString(unknown)
    await relay.send(answer)
    done = await call.end()
    env.check(
        "towards-the-caller",
        done.ok and unknown in done.answer.SerializeToString(),
        equals=True,
        clause="FRM-4",
    )


@case("gateway/frames/cut-anywhere", profile="relay", needs=NEEDS, clauses=("FRM-1",))
async def cut_anywhere(env: GatewayEnv) -> None:
    """An answer is the same however its bytes are cut into RelayFrames, empty ones among them."""
    sandbox = await env.sandbox()
    for name, cuts in (("one-byte-each", [1] * 400), ("odd", [3, 0, 1, 7, 2, 0, 11]), ("whole", [])):
        call = await asked(sandbox)
        relay = await sandbox.session.take_up()
        await relay.opened()
        await relay.send(accepted(), described("/some/where"), cuts=cuts)
        ended = await call.end()
        env.check(
            name,
            (ended.reason, ended.answer and ended.answer.file.path),
            equals=(OK, "/some/where"),
            clause="FRM-1",
        )


@case("gateway/frames/no-frames", profile="relay", needs=NEEDS, clauses=("FRM-5", "FRM-11", "FRM-25"))
async def no_frames(env: GatewayEnv) -> None:
    """Bytes that are no frames end with AGENT_PROTOCOL_ERROR, and a length beyond the limit before its bytes come."""
    big = encode_varint((1 << 20) + 65)
    sandbox = await env.sandbox()
    for name, raw, clause in (
        ("no-message", encode_varint(3) + b"\xff\xff\xff", "FRM-5"),
        ("endless-varint", b"\xff" * 11, "FRM-5"),
        ("too-long", big, "FRM-11"),
        ("four-gib", encode_varint(1 << 32), "FRM-11"),
    ):
        call = await asked(sandbox)
        relay = await sandbox.session.take_up()
        await relay.opened()
        await relay.send_bytes(encode_frame(accepted()) + raw)
        ended = await call.end()
        env.check(
            name, (ended.code.name, ended.reason), equals=("INTERNAL", "AGENT_PROTOCOL_ERROR"), clause=clause
        )
        env.check(f"{name}-relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="FRM-25")


@case("gateway/frames/banner", profile="relay", needs=NEEDS, clauses=("FRM-15",))
async def banner(env: GatewayEnv) -> None:
    """A peer that never sent a frame, an SSH server for example, does not serve files."""
    sandbox = await env.sandbox()
    ended = await answered(sandbox, raw=b"SSH-2.0-OpenSSH_9.6\r\n")
    env.check(
        "reason",
        (ended.code.name, ended.reason),
        equals=("FAILED_PRECONDITION", "FILES_UNSUPPORTED"),
        clause="FRM-15",
    )


@case("gateway/frames/order", profile="relay", needs=NEEDS, clauses=("FRM-3",))
async def order(env: GatewayEnv) -> None:
    """A frame that is no frame of the operation breaks the protocol, and does not reach the caller."""
    sandbox = await env.sandbox()
    for name, frames in (
        ("other-operation", (accepted(), Response(get_upload=files_pb2.GetUploadResponse()))),
        ("chunk-of-a-download", (accepted(), down(chunk=b"x"))),
        ("end-of-a-download", (accepted(), download_end(0))),
        ("challenge", (accepted(), Response(challenge=file_relay_pb2.FileRelayChallenge()))),
    ):
        ended = await answered(sandbox, *frames)
        env.check(
            name, (ended.code.name, ended.reason), equals=("INTERNAL", "AGENT_PROTOCOL_ERROR"), clause="FRM-3"
        )
    call, relay = await downloading(sandbox)
    await relay.send(described())
    env.check(
        "result-in-a-download", (await call.end()).reason, equals="AGENT_PROTOCOL_ERROR", clause="FRM-3"
    )


@case("gateway/frames/relay-lost", profile="relay", needs=NEEDS, clauses=("FRM-14", "UPL-1"))
async def relay_lost(env: GatewayEnv) -> None:
    """A relay that ends before the last frame ends the call with RELAY_LOST, wherever it was and however it ended."""
    sandbox = await env.sandbox()
    for how in ("half-close", "reset"):
        for frames in ((), (accepted(),)):
            call = await asked(sandbox)
            relay = await sandbox.session.take_up()
            await relay.opened()
            await relay.send(*frames)
            await (relay.half_close() if how == "half-close" else _reset(relay))
            ended = await call.end()
            env.check(
                f"{how}-after-{len(frames)}",
                (ended.code.name, ended.reason),
                equals=("UNAVAILABLE", "RELAY_LOST"),
                clause="FRM-14",
            )
    call, relay = await uploading(sandbox, data(0, b"all"), finish(b"all"), explicit_finish=True)
    await relay.until("upload")
    relay.reset()
    ended = await call.end()
    env.check("upload", ended.reason, equals="RELAY_LOST", clause="UPL-1")
    call, relay = await downloading(sandbox)
    await relay.send(header(6), down(chunk=b"abc"))
    await relay.half_close()
    ended = await call.end()
    env.check("download", ended.reason, equals="RELAY_LOST", clause="FRM-14")


async def _reset(relay: SupervisorRelay) -> None:
    relay.reset()


@case("gateway/frames/session-lost", profile="relay", needs=NEEDS, clauses=("FRM-14", "CAP-4"))
async def session_lost(env: GatewayEnv) -> None:
    """When a supervisor's connection is lost its calls end, and do not hang."""
    sandbox = await env.sandbox()
    call, relay = await uploading(sandbox, data(0, b"x"), explicit_finish=True)
    del relay
    await sandbox.supervisor.close()
    ended = await call.end()
    env.check("running-call", ended.reason, equals="RELAY_LOST", clause="FRM-14")
    told = await sandbox.caller.capabilities()
    env.check("next-call", told.reason, equals="SUPERVISOR_NOT_CONNECTED", clause="CAP-4")


def _register_error(reason: str, code: str) -> None:
    """Errors of an agent reach the caller as they are; those that only a gateway gives are the agent's fault."""

    async def run(env: GatewayEnv) -> None:
        sandbox = await env.sandbox()
        told = failure(reason, "the agent's words", metadata={"expected_offset": "5", "path": "a"})
        told.error.retry_delay.FromSeconds(3)
        told.error.field_violations.add(field="metadata.mode", description="wrong")
        ended = await answered(sandbox, told)
        env.check("code", ended.code.name, equals=code, clause="FRM-3")
        env.check("reason", ended.reason, equals=reason, clause="FRM-3")
        env.check("words", "the agent's words" in ended.details, equals=True, clause="FRM-3")
        env.check("metadata", ended.metadata.get("expected_offset"), equals="5", clause="FRM-3")
        if code == "INVALID_ARGUMENT":
            env.check("fields", ended.fields, equals=["metadata.mode"], clause="FRM-3")
        if code == "RESOURCE_EXHAUSTED":
            env.check("retry", ended.retry_after, equals=3.0, clause="FRM-3")

    run.__doc__ = f"An agent's {reason} reaches the caller with its code, words, metadata and details."
    case(
        f"gateway/agent-errors/{reason.lower().replace('_', '-')}",
        profile="relay",
        needs=NEEDS,
        clauses=("FRM-3",),
    )(run)


#: Reasons that an agent gives, one of each code.
_OF_THE_AGENT: Final = {
    "INVALID_REQUEST", "INVALID_PATH", "ARCHIVE_UNSUPPORTED", "CHUNK_TOO_LARGE", "FILE_NOT_FOUND", "IS_A_DIRECTORY", "PATH_FORBIDDEN",
    "ACCESS_DENIED", "FILE_EXISTS", "CONDITION_FAILED", "DISK_FULL", "QUOTA_EXCEEDED", "IO_ERROR", "OFFSET_MISMATCH", "CHUNK_CHECKSUM",
    "SIZE_MISMATCH", "UPLOAD_INCOMPLETE", "UPLOAD_UNKNOWN", "SUPERSEDED", "FILE_CHANGED", "TOO_MANY_UPLOADS",
}  # fmt: skip
for _row in vectors("errors")["reasons"]:
    if _row["reason"] in _OF_THE_AGENT:
        _register_error(_row["reason"], _row["code"])


@case("gateway/frames/reasons-of-a-gateway", profile="relay", needs=NEEDS, clauses=("FRM-33",))
async def reasons_of_a_gateway(env: GatewayEnv) -> None:
    """An agent that pretends to refuse the token, the sandbox or the relay, and one whose unknown reason has no code, break the protocol."""
    sandbox = await env.sandbox()
    for reason in (
        "TOKEN_EXPIRED",
        "TOKEN_MISSING",
        "ROLE_REQUIRED",
        "SANDBOX_NOT_FOUND",
        "SUPERVISOR_NOT_CONNECTED",
        "RELAY_TIMEOUT",
        "RELAY_UNKNOWN",
        "SESSION_OUTDATED",
    ):
        ended = await answered(sandbox, failure(reason))
        env.check(
            reason.lower().replace("_", "-"),
            (ended.code.name, ended.reason),
            equals=("INTERNAL", "AGENT_PROTOCOL_ERROR"),
            clause="FRM-33",
        )
    for name, code in (("ok", 0), ("beyond", 17), ("far", 4_000_000_000)):
        ended = await answered(sandbox, failure("SOMETHING_NEW", code=code))
        env.check(f"unknown-with-{name}", ended.reason, equals="AGENT_PROTOCOL_ERROR", clause="FRM-33")
    ended = await answered(sandbox, failure("SOMETHING_NEW", code=9))
    env.check("unknown-with-a-code", ended.code.name, equals="FAILED_PRECONDITION", clause="FRM-33")


async def told_to_stop(env: GatewayEnv, relay: SupervisorRelay) -> bool:
    """Return whether the gateway says that no caller waits, before it ends the relay."""
    while (frame := await relay.until("input_end", env.scaled(5.0))) is not None:
        if frame.input_end.cancelled:
            return True
    return False


@case("gateway/frames/cancelled-caller", profile="relay", needs=NEEDS, clauses=("FRM-31", "FRM-16", "UPL-32"))
async def cancelled_caller(env: GatewayEnv) -> None:
    """When a caller leaves the agent is told that nobody waits, and the relay ends."""
    sandbox = await env.sandbox()
    for name, fields in (("rfc", {"size_bytes": 3}), ("explicit", {"explicit_finish": True})):
        first = Up(chunk=b"abc") if name == "rfc" else data(0, b"abc")
        call, relay = await uploading(sandbox, first, **fields)
        await relay.until("upload")
        call.cancel()
        env.check(f"{name}-is-told", await told_to_stop(env, relay), equals=True, clause="FRM-31")
        env.check(f"{name}-relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="FRM-16")
        if name == "rfc":
            # Its half-close would publish. With a finish, `cancelled` may follow an input_end (FRM-17).
            ends = [one for one in relay.frames if one.HasField("input_end") and not one.input_end.cancelled]
            env.check("no-half-close", ends, equals=[], clause="UPL-32")
    call, relay = await downloading(sandbox)
    await relay.send(header(1 << 20), down(chunk=bytes(1000)))
    await call.next()
    call.cancel()
    env.check("download-is-told", await told_to_stop(env, relay), equals=True, clause="FRM-31")


@case("gateway/frames/refusal-while-sending", profile="relay", needs=NEEDS, clauses=("UPL-13", "FRM-31"))
async def refusal_while_sending(env: GatewayEnv) -> None:
    """An agent's refusal reaches the caller at once, though the caller sends and never ends its stream."""
    sandbox = await env.sandbox()
    call, relay = await uploading(sandbox, explicit_finish=True)
    await relay.send(failure("DISK_FULL"))
    ended = await call.end()
    env.check("reason", ended.reason, equals="DISK_FULL", clause="UPL-13")
    env.check("relay-ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="FRM-31")


@case(
    "gateway/frames/idle",
    profile="relay",
    needs=NEEDS,
    clauses=("FRM-7", "WAI-6", "FRM-31", "RLY-13"),
    launch=SHORT,
    timeout=40,
)
async def idle(env: GatewayEnv) -> None:
    """A transfer in which neither side moves ends with TRANSFER_IDLE; `working` counts as movement."""
    sandbox = await env.sandbox()
    call, relay = await uploading(sandbox, data(0, b"x"), explicit_finish=True)
    ended = await call.end()
    env.check(
        "still-caller",
        (ended.code.name, ended.reason),
        equals=("DEADLINE_EXCEEDED", "TRANSFER_IDLE"),
        clause="WAI-6",
    )
    env.check("agent-is-told", await told_to_stop(env, relay), equals=True, clause="FRM-31")
    call, relay = await uploading(sandbox, data(0, b"x"), finish(b"x"), explicit_finish=True)
    working = Response(working=file_relay_pb2.FileRelayWorking())
    start = time.monotonic()
    while time.monotonic() - start < 3.4 and not call.over:
        await relay.send(working)
        await env.caller.capabilities()
        await _pause(0.2)
    await relay.send(published(1))
    ended = await call.end()
    env.check("working", ended.reason, equals=OK, clause="FRM-7")
    first = sandbox.caller.open("UploadFile")
    ended = await first.end()
    env.check("no-first-message", ended.reason, equals="TRANSFER_IDLE", clause="RLY-13")


async def _pause(seconds: float) -> None:
    """Let time pass between two signs of life, which is what the case is about."""
    await asyncio.sleep(seconds)


@case("gateway/frames/download-is-carried", profile="relay", needs=NEEDS, clauses=("FRM-3", "RFC-3", "DWN-9"))
async def download_is_carried(env: GatewayEnv) -> None:
    """Messages of a download reach the caller as they are; the call ends when the agent says so, and not before."""
    sandbox = await env.sandbox()
    call, relay = await downloading(sandbox)
    await relay.send(header(5), down(chunk=b"whole"))
    await call.next()
    await call.next()
    env.check("not-over-without-the-end", call.over, equals=False, clause="FRM-3")
    await relay.send(download_end(5))
    ended = await call.end()
    env.check("ok", ended.reason, equals=OK, clause="FRM-3")
    kinds = {one.WhichOneof("payload") for one in ended.answers}
    env.check("kinds", kinds, equals={"header", "chunk"}, clause="RFC-3")
    call, relay = await downloading(sandbox, checked=True)
    messages = [
        down(header=files_pb2.DownloadFileHeader(size_bytes=4, digest_algorithm=SHA256)),
        # Wrong offsets, CRCs and digests are the caller's to find (DWN-10): the gateway changes nothing.
        down(data=files_pb2.FileChunk(offset=2, data=b"ab", crc32c=7)),
        down(trailer=files_pb2.DownloadTrailer(end_offset=99, changed=True)),
    ]
    await relay.send(*messages, download_end(2))
    ended = await call.end()
    env.check("checked", ended.messages == [one.download for one in messages], equals=True, clause="DWN-9")


@case("gateway/frames/slow-caller", profile="relay", needs=NEEDS, clauses=("FRM-4",), timeout=40)
async def slow_caller(env: GatewayEnv) -> None:
    """A gateway does not take in a download that its caller does not read: it stops reading the relay."""
    sandbox = await env.sandbox()
    wire = await env.wire(reads=False)
    number = await wire.open("DownloadFile", token=sandbox.caller.token)
    request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.facts.id, remote_path="file", checked=True)
    await wire.send(number, framed(request), end=True)
    relay = await sandbox.session.take_up()
    await relay.opened()
    await relay.send(accepted(), header(1 << 30))
    piece, sent = content_of(256 << 10), 0
    blocked = False
    while sent < (64 << 20) and not blocked:
        frame = down(data=files_pb2.FileChunk(offset=sent, data=piece, crc32c=crc32c(piece)))
        blocked = not await _within(1.5, relay.send_bytes(encode_frame(frame)))
        sent += len(piece)
    env.check("stops-reading", blocked, equals=True, clause="FRM-4")
    env.check(
        "taken-in", sent, satisfies=("less than 32 MiB", lambda count: count < (32 << 20)), clause="FRM-4"
    )


async def _within(seconds: float, work: Coroutine[Any, Any, bool]) -> bool:
    """Return whether something is done in time; it goes on otherwise."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return bool(done)
