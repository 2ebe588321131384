"""Uploads over several streams, which come to the agent as one; and pauses."""

from __future__ import annotations

import asyncio

from openshell_files_conformance.cases.supervisor.resume_upload import started
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_conformance.peers.operation import OK, data, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_CONTENT = b"0123456789" * 100_000


@case("supervisor/lanes/as-one-stream", profile="lanes", clauses=("LAN-12", "LAN-17"))
async def as_one_stream(env: SupervisorEnv) -> None:
    """An upload with lanes is to the agent one stream in order; broken off, it is resumed like every other."""
    status, reasons = await started(env), list[str]()
    for attempt, end in enumerate((400_000, len(_CONTENT))):
        relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch, lanes=4)
        for offset in range(status.staged_bytes, end, 100_000):
            await relay.upload(data(offset, _CONTENT[offset : offset + 100_000]))
        if attempt:
            await relay.upload(finish(_CONTENT))
        await relay.input_end()
        reasons.append((await relay.outcome()).reason)
        if not attempt:
            env.check("broken-off", reasons[-1], equals="UPLOAD_INCOMPLETE", clause="LAN-17")
            env.check("not-published", await env.files.exists(env.path()), equals=False, clause="LAN-17")
            status = await started(env, upload_id=status.upload_id)
            env.check("resumes", status.staged_bytes, equals=400_000, clause="LAN-17")
    env.check("published", reasons[-1], equals=OK, clause="LAN-12")
    env.check("content", await env.files.read(env.path()) == _CONTENT, equals=True, clause="LAN-12")


@case("supervisor/lanes/ignored-at-the-start", profile="lanes", clauses=("LAN-2",))
async def ignored_at_the_start(env: SupervisorEnv) -> None:
    """StartUpload ignores `lanes`, and the number may differ between attempts."""
    status = await started(env, lanes=7)
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch, lanes=3)
    await relay.upload(data(0, b"content"), finish(b"content"))
    await relay.input_end()
    env.check("reason", (await relay.outcome()).reason, equals=OK, clause="LAN-2")


@case(
    "supervisor/waiting/keeps-the-stream",
    profile="core",
    clauses=("WAI-6", "WAI-3"),
    needs=("waiting",),
    timeout=30,
)
async def keeps_the_stream(env: SupervisorEnv) -> None:
    """`waiting` counts as movement: a stream that sends nothing else for two idle timeouts goes on."""
    idle = env.scaled(1.5)
    relay = await env.begin_upload(env.path(), opening={"idle_timeout": idle})
    await relay.upload(data(0, b"before"))
    pause = files_pb2.UploadFileRequest(waiting=file_options_pb2.UploadWaiting())
    for _ in range(7):
        # Three times in each idle timeout, as a caller does.
        await asyncio.sleep(idle / 3)
        await relay.upload(pause)
    await relay.upload(data(6, b"after"), finish(b"beforeafter"))
    await relay.input_end()
    env.check("reason", (await relay.outcome()).reason, equals=OK, clause="WAI-6")
    env.check("content", await env.files.read(env.path()), equals=b"beforeafter", clause="WAI-3")
