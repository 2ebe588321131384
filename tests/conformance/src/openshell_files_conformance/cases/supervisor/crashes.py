"""What is known after the agent was killed, and after a gateway is gone."""

from __future__ import annotations

from openshell_files_conformance.cases.supervisor.resume_upload import started
from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import directories_pb2, files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import OK, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, SupervisorEnv
from openshell_files_conformance.peers.tree_stream import (
    TreeUpload,
    content,
    directory,
    manifest,
    part,
    regular,
)
from openshell_files_conformance.peers.waiting import until
from openshell_files_conformance.registry import case

_CONTENT = bytes(range(256)) * (16 << 10)
_HALF = 8 * CHUNK_BYTES


async def _staged(env: SupervisorEnv, upload_id: str, size: int) -> bool:
    asked = await env.get_upload(upload_id=upload_id)
    return asked.ok and asked.answer.upload.staged_bytes == size


async def _send(env: SupervisorEnv, status: files_pb2.UploadStatus, *, end: int) -> None:
    """Send the bytes up to `end`, and wait until they are staged; the stream stays open."""
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    for offset in range(0, end, CHUNK_BYTES):
        await relay.upload(data(offset, _CONTENT[offset : min(end, offset + CHUNK_BYTES)]))
    await until(lambda: _staged(env, status.upload_id, end), "the content is staged", env.scaled(10))


@case(
    "supervisor/crashes/killed-while-receiving",
    profile="resume",
    clauses=("RSM-3", "CRS-1", "CRS-3", "RSM-10", "UPL-1"),
    needs=("relaunch",),
    alone=True,
    timeout=40,
)
async def killed_while_receiving(env: SupervisorEnv) -> None:
    """Uploads survive the death of the agent: found by id and by request_id, with a prefix and its digest, and resumed."""
    name = env.fresh_name("request")
    empty = await env.start_upload(env.path("empty"), request_id=name)
    status = await started(env)
    await _send(env, status, end=_HALF)
    await env.target.kill()
    await env.target.relaunch()
    await env.new_session()
    found = await env.get_upload(request_id=name)
    seen = found.ok and (found.answer.upload.upload_id, found.answer.upload.state)
    env.check(
        "by-request-id",
        seen,
        equals=(empty.answer.upload.upload_id, files_pb2.UPLOAD_STATE_RECEIVING),
        clause="CRS-1",
    )
    again = await env.start_upload(env.path(), upload_id=status.upload_id)
    env.require("survives", again.reason, equals=OK, clause="RSM-3")
    told = again.answer.upload
    # What was not flushed may be lost with the machine, but not with the agent.
    env.check("staged", told.staged_bytes, equals=_HALF, clause="RSM-10")
    env.check("digest", told.staged_digest, equals=digest(_CONTENT[: told.staged_bytes]), clause="CRS-3")
    env.check("not-published", await env.files.exists(env.path()), equals=False, clause="UPL-1")
    relay = await env.begin_upload(env.path(), upload_id=told.upload_id, epoch=told.epoch)
    for offset in range(told.staged_bytes, len(_CONTENT), CHUNK_BYTES):
        await relay.upload(data(offset, _CONTENT[offset : offset + CHUNK_BYTES]))
    await relay.upload(finish(_CONTENT))
    await relay.input_end()
    env.check("resumed", (await relay.outcome()).reason, equals=OK, clause="CRS-3")
    env.check("content", await env.files.read(env.path()) == _CONTENT, equals=True, clause="CRS-3")


@case(
    "supervisor/crashes/killed-at-the-finish",
    profile="resume",
    clauses=("CRS-4", "CRS-5", "CRS-6", "CRS-7", "UPL-8"),
    needs=("relaunch",),
    alone=True,
    timeout=40,
)
async def killed_at_the_finish(env: SupervisorEnv) -> None:
    """An agent that is killed behind the finish knows afterwards whether it published, and the file is the old or the new one."""
    await env.files.write(env.path(), b"the old file")
    status = await started(env)
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    for offset in range(0, len(_CONTENT), CHUNK_BYTES):
        await relay.upload(data(offset, _CONTENT[offset : offset + CHUNK_BYTES]))
    await until(lambda: _staged(env, status.upload_id, len(_CONTENT)), "everything is staged", env.scaled(10))
    await relay.upload(finish(_CONTENT))
    await env.target.kill()
    await env.target.relaunch()
    await env.new_session()
    there = await env.files.read(env.path())
    env.check("old-or-new", there in {b"the old file", _CONTENT}, equals=True, clause="UPL-8")
    asked = await env.get_upload(upload_id=status.upload_id)
    env.require("known", asked.reason, equals=OK, clause="CRS-5")
    told = asked.answer.upload
    published = told.state == files_pb2.UPLOAD_STATE_PUBLISHED
    env.check("state-is-true", published, equals=there == _CONTENT, clause="CRS-7")
    env.check("everything-staged", told.staged_bytes, equals=len(_CONTENT), clause="CRS-6")
    again = await started(env, upload_id=status.upload_id)
    relay = await env.begin_upload(env.path(), upload_id=again.upload_id, epoch=again.epoch)
    await relay.upload(finish(_CONTENT))
    await relay.input_end()
    done = await relay.outcome()
    env.check("finish-again", done.reason, equals=OK, clause="CRS-4")
    env.check("replayed", done.ok and done.answer.replayed, equals=published, clause="CRS-7")
    env.check("new", await env.files.read(env.path()) == _CONTENT, equals=True, clause="CRS-4")


@case(
    "supervisor/crashes/killed-after-the-answer",
    profile="resume",
    clauses=("CRS-8", "RSM-3", "RSM-6", "RSM-22"),
    needs=("relaunch",),
    alone=True,
    timeout=40,
)
async def killed_after_the_answer(env: SupervisorEnv) -> None:
    """The outcome of a published upload survives the agent."""
    name = env.fresh_name("request")
    first = await env.upload(env.path(), b"content", request_id=name)
    env.require("published", first.reason, equals=OK, clause="RSM-6")
    await env.target.kill()
    await env.target.relaunch()
    await env.new_session()
    asked = await env.get_upload(request_id=name)
    env.require("known", asked.reason, equals=OK, clause="RSM-22")
    env.check("state", asked.answer.upload.state, equals=files_pb2.UPLOAD_STATE_PUBLISHED, clause="CRS-8")
    env.check("result", asked.answer.upload.result.file, equals=first.answer.file, clause="CRS-8")
    again = await env.upload(env.path(), b"content", request_id=name)
    env.check(
        "replayed", (again.reason, again.ok and again.answer.replayed), equals=(OK, True), clause="RSM-3"
    )


@case(
    "supervisor/crashes/leftovers",
    profile="trees",
    clauses=("TRE-57", "RSM-36"),
    needs=("relaunch", "trees"),
    alone=True,
    timeout=40,
)
async def leftovers(env: SupervisorEnv) -> None:
    """The next agent removes what a killed one staged: of a tree, of an atomic tree, and of an upload that cannot be resumed."""
    for name, atomic in (("tree", False), ("atomic", True)):
        relay = await env.relay()
        start = trees_pb2.UploadTreeStart(path=env.path(name).encode(), atomic=atomic)
        await relay.begin(env.opening(upload_tree=start))
        tree = TreeUpload(relay)
        await tree.send(manifest(directory(), regular(b"a", 10), regular(b"b", 10)))
        await tree.needs(2)
        await tree.send(content(part(1, b"0123456789"), part(2, b"01234", last=False, digest=b"")))
    upload = await env.begin_upload(env.path("upload"))
    await upload.until("accepted")
    await upload.upload(data(0, _CONTENT[:1000]))
    staged = await nothing_staged(env, wanted=False)
    if not staged:
        env.untestable("staged", "nothing is staged while trees are received", clause="TRE-57")
    await env.target.kill()
    await env.target.relaunch()
    await env.new_session()
    env.check("trees", await nothing_staged(env, seconds=10), equals=True, clause="TRE-57")
    env.check(
        "atomic-not-published", await env.files.exists(env.path("atomic")), equals=False, clause="TRE-57"
    )
    env.check(
        "upload-not-published", await env.files.exists(env.path("upload")), equals=False, clause="RSM-36"
    )


@case(
    "supervisor/crashes/killed-while-copying",
    profile="core",
    clauses=("DIR-29", "DIR-23"),
    needs=("relaunch", "directories"),
    alone=True,
    timeout=60,
)
async def killed_while_copying(env: SupervisorEnv) -> None:
    """The next agent removes what a copy had staged when the agent was killed, and publishes nothing of it."""
    await env.files.many(env.path("source"), 12_000)
    relay = await env.relay()
    request = directories_pb2.CopyPathRequest(
        source=env.path("source").encode(), destination=env.path("copy").encode(), recursive=True
    )
    await relay.begin(env.opening(copy_path=request))
    if not await nothing_staged(env, wanted=False):
        env.untestable("staged", "nothing is staged while a directory is copied", clause="DIR-23")
    await env.target.kill()
    await env.target.relaunch()
    await env.new_session()
    env.check("nothing-left", await nothing_staged(env, seconds=10), equals=True, clause="DIR-29")
    env.check("not-there", await env.files.exists(env.path("copy")), equals=False, clause="DIR-23")


@case(
    "supervisor/crashes/gateway-restarts",
    profile="resume",
    clauses=("RSM-3", "RSM-10", "UPL-1", "CRS-2", "RLY-6"),
    alone=True,
    timeout=60,
)
async def gateway_restarts(env: SupervisorEnv) -> None:
    """The supervisor connects to the next gateway at the same address, and serves uploads that the old one began."""
    status = await started(env)
    await _send(env, status, end=_HALF)
    plain = await env.begin_upload(env.path("plain"), explicit_finish=False, size_bytes=3)
    await plain.upload(files_pb2.UploadFileRequest(chunk=b"abc"))
    sessions = len(env.gateway.sessions)
    first = env.session.hello
    await env.gateway.stop()
    await env.gateway.start(env.gateway.port)
    session = await env.gateway.session(after=sessions, seconds=env.scaled(31))
    await env.new_session()
    hello = session.hello
    env.check("same-instance", hello.instance_id, equals=first.instance_id, clause="RLY-6")
    raised = hello.connection_epoch > first.connection_epoch
    env.check("next-connection", raised, equals=True, clause="RLY-6")
    again = await env.start_upload(env.path(), upload_id=status.upload_id)
    env.check("known", again.reason, equals=OK, clause="RSM-3")
    env.check("staged", again.ok and again.answer.upload.staged_bytes, equals=_HALF, clause="RSM-10")
    env.check("not-published", await env.files.exists(env.path("plain")), equals=False, clause="UPL-1")
    env.check("resumable", again.ok and again.answer.upload.epoch > status.epoch, equals=True, clause="CRS-2")


@case(
    "supervisor/crashes/damaged-record",
    profile="resume",
    clauses=("RSM-13", "RSM-10"),
    needs=("relaunch",),
    launch={"guarded_inside": True, "exec": False},
    alone=True,
    timeout=60,
)
async def damaged_record(env: SupervisorEnv) -> None:
    """An agent whose record was overwritten by other bytes starts, and serves."""
    status = await started(env)
    await _send(env, status, end=CHUNK_BYTES)
    state = str(env.target.facts["guarded"][1])
    await env.target.kill()
    files = [
        name for name, entry in (await env.files.tree(state)).items() if entry.kind == "file" and entry.size
    ]
    for name in files:
        content = await env.files.read(state.encode() + b"/" + name) or b""
        await env.files.write(state.encode() + b"/" + name, b"\xa5" * len(content), mode=0o600)
    env.check("has-a-record", bool(files), equals=True, clause="RSM-10")
    await env.target.relaunch()
    await env.new_session()
    done = await env.upload(env.path("other"), b"content", request_id=env.fresh_name("request"))
    env.check("serves", done.reason, equals=OK, clause="RSM-13")
    asked = await env.get_upload(upload_id=status.upload_id)
    env.check("does-not-invent", asked.reason, one_of=(OK, "UPLOAD_UNKNOWN"), clause="RSM-13")


@case(
    "supervisor/crashes/second-agent",
    profile="resume",
    clauses=("RSM-14",),
    needs=("relaunch",),
    alone=True,
    timeout=60,
)
async def second_agent(env: SupervisorEnv) -> None:
    """A second agent does not start on a record that another one uses, and disturbs nothing."""
    status = await started(env)
    sessions = len(env.gateway.sessions)
    started_too = await env.target.second(env.scaled(5))
    env.check("does-not-start", started_too, equals=False, clause="RSM-14")
    env.check("does-not-connect", len(env.gateway.sessions), equals=sessions, clause="RSM-14")
    asked = await env.get_upload(upload_id=status.upload_id)
    env.check("first-goes-on", asked.reason, equals=OK, clause="RSM-14")
