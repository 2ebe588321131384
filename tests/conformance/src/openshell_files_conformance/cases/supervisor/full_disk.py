"""A sandbox without room."""

from __future__ import annotations

from openshell_files_conformance.cases.supervisor.directories import copy
from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.cases.supervisor.tree_uploads import begin
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, data, finish, hole
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, SupervisorEnv
from openshell_files_conformance.peers.tree_stream import content, directory, end, manifest, part, regular
from openshell_files_conformance.registry import case

_SIZE = 6 << 20
_LARGE = bytes([7]) * (8 << 20)
_SMALL = {"root_bytes": _SIZE, "exec": False}
_FULL = ("DISK_FULL", "QUOTA_EXCEEDED")


@case("supervisor/full-disk/upload", profile="core", clauses=("RSM-36", "UPL-8"), launch=_SMALL, alone=True)
async def upload(env: SupervisorEnv) -> None:
    """An upload that finds no room ends with the reason, keeps nothing, and leaves the old file; the next small one fits."""
    await env.files.write(env.path(), b"old")
    done = await env.upload(env.path(), _LARGE)
    env.check("reason", done.reason, one_of=_FULL, clause="RSM-36")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="RSM-36")
    env.check("old-file", await env.files.read(env.path()), equals=b"old", clause="UPL-8")
    again = await env.upload(env.path(), b"new")
    env.check("room-again", again.reason, equals=OK, clause="RSM-36")


@case(
    "supervisor/full-disk/resumable",
    profile="resume",
    clauses=("RSM-35", "RSM-34"),
    launch=_SMALL,
    alone=True,
)
async def resumable(env: SupervisorEnv) -> None:
    """An upload that finds no room is ABORTED, with the reason, and its bytes are freed."""
    started = await env.start_upload(env.path())
    env.require("started", started.reason, equals=OK, clause="RSM-35")
    status = started.answer.upload
    relay = await env.begin_upload(env.path(), upload_id=status.upload_id, epoch=status.epoch)
    for offset in range(0, len(_LARGE), CHUNK_BYTES):
        await relay.upload(data(offset, _LARGE[offset : offset + CHUNK_BYTES]))
    done = await relay.outcome()
    env.check("reason", done.reason, one_of=_FULL, clause="RSM-35")
    asked = await env.get_upload(upload_id=status.upload_id)
    told = asked.answer.upload if asked.ok else files_pb2.UploadStatus()
    env.check("state", told.state, equals=files_pb2.UPLOAD_STATE_ABORTED, clause="RSM-35")
    env.check("failure-reason", told.failure_reason, equals=done.reason, clause="RSM-35")
    env.check("freed", await nothing_staged(env), equals=True, clause="RSM-34")


@case(
    "supervisor/full-disk/write-file-and-copy",
    profile="core",
    clauses=("UPL-59", "DIR-23"),
    launch=_SMALL,
    alone=True,
    needs=("directories",),
)
async def write_file_and_copy(env: SupervisorEnv) -> None:
    """WriteFile and CopyPath end with the reason as well, and leave nothing."""
    await env.files.write(env.path("large"), _LARGE[: _SIZE - (1 << 20)])
    written = await env.write_file(env.path("small"), b"x" * 1_030_000, request_id=env.fresh_name("request"))
    again = await env.write_file(env.path("other"), b"x" * 1_030_000)
    reasons = {written.reason, again.reason}
    env.check("write-file", bool(reasons & set(_FULL)), equals=True, clause="UPL-59")
    await env.files.remove(env.path("small"))
    await env.files.remove(env.path("other"))
    copied = await copy(env, env.path("large"), env.path("copy"))
    env.check("copy", copied.reason, one_of=_FULL, clause="DIR-23")
    env.check("copy-not-there", await env.files.exists(env.path("copy")), equals=False, clause="DIR-23")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="DIR-23")


@case(
    "supervisor/full-disk/tree",
    profile="trees",
    clauses=("TRE-59", "TRE-54"),
    launch=_SMALL,
    alone=True,
    needs=("trees",),
)
async def tree(env: SupervisorEnv) -> None:
    """A tree that finds no room ends; what is in place stays, and nothing staged does."""
    up = await begin(env, env.path("top"))
    await up.send_all(
        [manifest(directory(), regular(b"a", 3), regular(b"b", len(_LARGE))), content(part(1, b"abc"))]
    )
    for offset in range(0, len(_LARGE), CHUNK_BYTES):
        await up.send_all(
            [content(part(2, _LARGE[offset : offset + CHUNK_BYTES], offset=offset, last=False, digest=b""))]
        )
    await up.send_all([end(3)])
    done = await up.outcome()
    env.check("reason", done.reason, one_of=_FULL, clause="TRE-59")
    env.check("in-place", await env.files.read(env.path("top/a")), equals=b"abc", clause="TRE-54")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="TRE-54")


@case(
    "supervisor/full-disk/holes-take-no-room", profile="core", clauses=("UPL-18",), launch=_SMALL, alone=True
)
async def holes_take_no_room(env: SupervisorEnv) -> None:
    """A hole that is larger than the disk fits, since it takes no storage."""
    size = 16 << 20
    relay = await env.begin_upload(env.path())
    await relay.upload(hole(0, size), finish(bytes(size)))
    await relay.input_end()
    env.check("reason", (await relay.outcome()).reason, equals=OK, clause="UPL-18")
