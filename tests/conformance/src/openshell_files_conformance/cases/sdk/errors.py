"""Errors: which an SDK repeats, how it waits, when it stops, and what it reports."""

from __future__ import annotations

import grpc

from openshell_files_conformance.peers.file_calls import Call, Fault
from openshell_files_conformance.peers.file_sandbox import KIB
from openshell_files_conformance.peers.file_status import LOST, Status, plain, refusal
from openshell_files_conformance.peers.sdk_env import Expectation, SdkEnv
from openshell_files_conformance.registry import case

CONTENT_METHODS = ("UploadFile", "WriteFile")
#: Clocks of two processes and a busy machine: so much earlier than asked for is not called too early, in seconds.
EARLY_SECONDS = 0.05


def _gap(calls: list[Call]) -> float | None:
    """Return the seconds between the first two calls; None if there are fewer."""
    return calls[1].began - calls[0].began if len(calls) > 1 else None


@case("sdk/errors/unavailable-once", profile="core", clauses=("ERR-6", "UPL-3", "DWN-10"))
async def unavailable_once(env: SdkEnv) -> None:
    """A gateway that is away for a moment is tried again, for uploads and downloads."""
    content = env.content(KIB)
    for method in CONTENT_METHODS:
        env.faults.add(method, Fault(status=LOST))
    up = await env.upload(content)
    env.check("upload", up.outcome, equals="ok", clause="ERR-6")
    env.check(
        "published", env.published("remote"), one_of=(content,) if up.ok else (None, content), clause="UPL-3"
    )
    target = env.target()
    env.serve(content, "other")
    env.faults.add("DownloadFile", Fault(status=LOST))
    down = await env.download(target, "other")
    env.check("download", down.outcome, equals="ok", clause="ERR-6")
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, equals=content if down.ok else None, clause="DWN-10")


@case("sdk/errors/retry-info-upload", profile="core", clauses=("ERR-2", "ERR-6"))
async def retry_info_upload(env: SdkEnv) -> None:
    """A full gateway says how long to wait, and an upload is not repeated before that."""
    full = refusal("TOO_MANY_TRANSFERS", "full", retry_after=0.7)
    for method in CONTENT_METHODS:
        env.faults.add(method, Fault(status=full))
    content = env.content(KIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    gap = _gap(env.book.of(*CONTENT_METHODS))
    long_enough: Expectation = (
        "0.7 s or no second call",
        lambda gap: gap is None or gap >= 0.7 - EARLY_SECONDS,
    )
    first = [call.ended for call in env.book.of(*CONTENT_METHODS)][:1]
    env.check("refused-once", first, equals=["TOO_MANY_TRANSFERS"], clause="ERR-2")
    env.check("pause", gap, satisfies=long_enough, clause="ERR-2")


@case("sdk/errors/retry-info-download", profile="core", clauses=("ERR-2", "ERR-6"))
async def retry_info_download(env: SdkEnv) -> None:
    """A supervisor that is not connected yet: the download waits as long as the gateway asks for."""
    env.faults.add("DownloadFile", Fault(status=refusal("SUPERVISOR_NOT_CONNECTED", retry_after=0.7)))
    content, target = env.content(KIB), env.target()
    env.serve(content)
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    calls = env.book.of("DownloadFile")
    env.check(
        "refused-once",
        [call.ended for call in calls][:1],
        equals=["SUPERVISOR_NOT_CONNECTED"],
        clause="ERR-2",
    )
    long_enough: Expectation = (
        "0.7 s or no second call",
        lambda gap: gap is None or gap >= 0.7 - EARLY_SECONDS,
    )
    env.check("pause", _gap(calls), satisfies=long_enough, clause="ERR-2")


@case("sdk/errors/never-again", profile="core", clauses=("ERR-1", "ERR-7"), timeout=60.0)
async def never_again(env: SdkEnv) -> None:
    """An error of the class *never* is reported as it is, and the call is not repeated."""
    env.serve(env.content(KIB))
    for reason in (
        "ROLE_REQUIRED",
        "PATH_FORBIDDEN",
        "IS_A_DIRECTORY",
        "LEAF_IS_LINK",
        "ACCESS_DENIED",
        "FILES_UNSUPPORTED",
        "AGENT_PROTOCOL_ERROR",
        "INTERNAL",
    ):
        before = len(env.book.of("DownloadFile"))
        env.faults.add("DownloadFile", Fault(status=refusal(reason)))
        answered = await env.download(env.target())
        env.check(f"reason-{reason.lower()}", answered.reason, equals=reason, clause="ERR-7")
        calls = len(env.book.of("DownloadFile")) - before
        env.check(f"calls-{reason.lower()}", calls, equals=1, clause="ERR-1")


@case("sdk/errors/never-again-upload", profile="core", clauses=("ERR-1", "ERR-7"))
async def never_again_upload(env: SdkEnv) -> None:
    """A refused upload is not repeated, neither a small nor a large one."""
    for method in (*CONTENT_METHODS, "StartUpload"):
        env.faults.always(method, Fault(status=refusal("ACCESS_DENIED", "read the directory's mode")))
    for size in (KIB, 600 * KIB):
        before = len(env.book.of(*CONTENT_METHODS, "StartUpload"))
        answered = await env.upload(env.content(size), f"file-{size}")
        env.check(f"reason-{size}", answered.reason, equals="ACCESS_DENIED", clause="ERR-7")
        calls = len(env.book.of(*CONTENT_METHODS, "StartUpload")) - before
        env.check(f"calls-{size}", calls, equals=1, clause="ERR-1")


@case("sdk/errors/bounded", profile="core", clauses=("ERR-3",))
async def bounded(env: SdkEnv) -> None:
    """A gateway that is always away ends the transfer after a few tries, with that error."""
    for method in (*CONTENT_METHODS, "StartUpload", "DownloadFile", "GetTransferCapabilities"):
        env.faults.always(method, Fault(status=LOST))
    up = await env.upload(env.content(KIB), attempts=3)
    few: Expectation = ("1 to 12", lambda calls: 1 <= calls <= 12)
    env.check("upload", up.outcome, equals="error", clause="ERR-3")
    env.check("upload-calls", len(env.book.calls), satisfies=few, clause="ERR-3")
    before = len(env.book.calls)
    down = await env.download(env.target(), attempts=3)
    env.check("download", (down.outcome, down.code), equals=("error", "UNAVAILABLE"), clause="ERR-3")
    env.check("download-calls", len(env.book.calls) - before, satisfies=few, clause="ERR-3")


@case("sdk/errors/time-limit", profile="core", clauses=("ERR-3", "DWN-18"))
async def time_limit(env: SdkEnv) -> None:
    """A gateway that says nothing does not hold a transfer for longer than its time limit."""
    target = env.target()
    env.serve(env.content(KIB))
    env.faults.always("DownloadFile", Fault(hang=True))
    answered = await env.download(target, timeout_ms=600)
    codes = ("DEADLINE_EXCEEDED", "TIMEOUT", "TRANSFER_IDLE")
    env.check("called", len(env.book.of("DownloadFile")), satisfies=("a call", bool), clause="ERR-3")
    env.refused(answered, clause="ERR-3")
    env.check("why", answered.reason, one_of=codes, clause="ERR-3")
    env.check("left-the-call", await env.gateway.gone(env.scaled(3)), equals=True, clause="ERR-3")
    env.nothing_left(target, clause="DWN-18")


@case("sdk/errors/unknown-reason", profile="core", clauses=("ERR-5", "ERR-1"))
async def unknown_reason(env: SdkEnv) -> None:
    """A reason of a later revision counts as its code, and so do details of another domain and details that are no details."""
    strange = (
        Status(grpc.StatusCode.PERMISSION_DENIED, "REASON_OF_TOMORROW", "made by the suite"),
        plain(grpc.StatusCode.PERMISSION_DENIED),
        Status(
            grpc.StatusCode.PERMISSION_DENIED,
            message="made by the suite",
            raw_details=b"\xff\xff no details",
        ),
    )
    env.serve(env.content(KIB))
    for number, status in enumerate(strange):
        env.faults.add("DownloadFile", Fault(status=status))
        before = len(env.book.of("DownloadFile"))
        answered = await env.download(env.target())
        env.check(f"outcome-{number}", answered.outcome, equals="error", clause="ERR-5")
        env.check(f"code-{number}", answered.code, equals="PERMISSION_DENIED", clause="ERR-5")
        env.check(f"calls-{number}", len(env.book.of("DownloadFile")) - before, equals=1, clause="ERR-1")


@case("sdk/errors/much-metadata", profile="core", clauses=("DWN-10", "DWN-18", "ERR-5"))
async def much_metadata(env: SdkEnv) -> None:
    """64 KiB of metadata, before the content or with an error, lead to an error or to the content, and to nothing else."""
    much = (("x-much", "m" * 64 * KIB),)
    content = env.content(KIB)
    env.serve(content)
    for name, fault in (
        ("initial", Fault(metadata=much)),
        ("trailing", Fault(status=Status(grpc.StatusCode.PERMISSION_DENIED, message="no", trailing=much))),
    ):
        target = env.target()
        env.faults.always("DownloadFile", fault)
        answered = await env.download(target, attempts=2)
        wanted = ("ok", "error") if name == "initial" else ("error",)
        env.check(f"outcome-{name}", answered.outcome, one_of=wanted, clause="ERR-5")
        seen = target.read_bytes() if target.exists() else None
        env.check(f"content-{name}", seen, equals=content if answered.ok else None, clause="DWN-10")
        if not answered.ok:
            env.nothing_left(target, name=f"nothing-left-{name}", clause="DWN-18")
    env.check(
        "called",
        len(env.book.of("DownloadFile")),
        satisfies=("both", lambda calls: calls >= 2),
        clause="ERR-5",
    )


@case("sdk/errors/lost-change", profile="core", needs=("directories",), clauses=("DIR-16",))
async def lost_change(env: SdkEnv) -> None:
    """A removal or a move whose answer is lost is not repeated: it may have happened."""
    env.serve(b"one", "removed")
    env.serve(b"two", "moved")
    for op, method, fields in (
        ("remove", "RemovePath", {"remote": "removed"}),
        ("move", "MovePath", {"remote": "moved", "destination": "there"}),
    ):
        env.faults.add(method, Fault(at="answer", status=LOST))
        answered = await env.ask(op, **fields)
        env.check(f"calls-{op}", len(env.book.of(method)), equals=1, clause="DIR-16")
        seen = answered.outcome, answered.outcome_unknown
        env.check(f"unknown-{op}", seen, equals=("error", True), clause="DIR-16")
