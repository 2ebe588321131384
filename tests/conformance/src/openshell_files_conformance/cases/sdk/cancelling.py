"""Transfers that the program cancels."""

from __future__ import annotations

from pathlib import Path

from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import KIB, MIB
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.registry import case


def _hanging(flag: Path, after_bytes: int) -> Fault:
    """Return a fault that stands still in the middle, and has the adapter cancel."""
    return Fault(at="content", after_bytes=after_bytes, then=lambda _: flag.touch(), hang=True)


@case("sdk/cancel/upload", profile="core", needs=("cancel",), clauses=("UPL-61", "RSM-37"))
async def upload(env: SdkEnv) -> None:
    """A cancelled upload ends its call without a finish, and frees what nobody can resume."""
    flag = env.directory / "cancel-now"
    slow = Fault(at="content", after_bytes=300 * KIB, then=lambda _: flag.touch(), slow=0.05)
    env.faults.always("UploadFile", slow)
    # A client that stays open: its end must not be what ends the call.
    answered = await env.upload(env.content(48 * MIB), cancel={"when_exists": str(flag)}, client="one")
    env.check("outcome", answered.outcome, one_of=("cancelled", "error"), clause="UPL-61")
    await env.settled()
    streams = env.book.of("UploadFile")
    env.check("ended", [call.ended for call in streams], equals=["left"], clause="UPL-61")
    env.check("finishes", sum(len(call.payloads("finish")) for call in streams), equals=0, clause="UPL-61")
    env.check("not-published", env.published("remote"), equals=None, clause="UPL-61")
    resumable = any(one.started for one in env.gateway.sandbox.uploads.values())
    known = bool(answered.fields.get("upload_id")) or not resumable
    # It may be freed behind the answer.
    freed = known or await env.gateway.called("AbortUpload", env.scaled(3))
    env.check("freed-or-named", freed, equals=True, clause="RSM-37")


@case("sdk/cancel/upload-behind-the-finish", profile="core", needs=("cancel",), clauses=("RSM-25",))
async def upload_behind_the_finish(env: SdkEnv) -> None:
    """An upload that is cancelled behind its finish may be published: the SDK does not say that it is not."""
    flag = env.directory / "cancel-now"
    hang = Fault(at="answer", then=lambda _: flag.touch(), hang=True)
    env.faults.add("UploadFile", hang)
    answered = await env.upload(env.content(MIB), cancel={"when_exists": str(flag)})
    env.check("published", env.published("remote"), satisfies=("the file", bool), clause="RSM-25")
    known = answered.outcome in {"ok", "cancelled"} or answered.outcome_unknown
    env.check("conclusion", known, equals=True, clause="RSM-25")


@case("sdk/cancel/download", profile="core", needs=("cancel",), clauses=("DWN-18",))
async def download(env: SdkEnv) -> None:
    """A cancelled download ends its call, leaves what was there, and nothing beside it."""
    flag, target = env.directory / "cancel-now", env.target()
    target.write_bytes(b"what was there")
    env.serve(env.content(4 * MIB))
    env.faults.always("DownloadFile", _hanging(flag, 300 * KIB))
    answered = await env.download(target, cancel={"when_exists": str(flag)})
    env.check("outcome", answered.outcome, one_of=("cancelled", "error"), clause="DWN-18")
    env.check("left-the-call", await env.gateway.gone(env.scaled(3)), equals=True, clause="DWN-18")
    env.check("called-once", len(env.book.of("DownloadFile")), equals=1, clause="DWN-18")
    env.check("kept", target.read_bytes(), equals=b"what was there", clause="DWN-18")
    env.check(
        "alone", sorted(one.name for one in target.parent.iterdir()), equals=["target"], clause="DWN-18"
    )
