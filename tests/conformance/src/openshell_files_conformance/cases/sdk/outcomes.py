"""Uploads whose answer to the finish is lost: what an SDK concludes, and what it may not conclude."""

from __future__ import annotations

from collections.abc import Callable

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Call, Fault
from openshell_files_conformance.peers.file_sandbox import MIB, Upload
from openshell_files_conformance.peers.file_status import LOST, refusal
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.registry import CannotGoOnError, case

SIZE = 2 * MIB + 7
QUERIES = ("GetUpload", "StartUpload")


def _after_finish(env: SdkEnv) -> list[Call]:
    """Return the calls that came after the first stream that had a finish.

    Raises:
        CannotGoOnError: there is none.
    """
    for index, call in enumerate(env.book.calls):
        if call.method == "UploadFile" and call.payloads("finish"):
            return env.book.calls[index + 1 :]
    raise CannotGoOnError("no stream had a finish")


def _only_asks(env: SdkEnv) -> None:
    """Check that nothing behind the finish admits another upload."""
    admitting = [
        call.name
        for call in _after_finish(env)
        if call.method == "StartUpload" and call.messages and not call.request.metadata.upload_id
    ]
    env.check("only-asks", admitting, equals=[], clause="RSM-38")


@case("sdk/outcome/lost-answer", profile="resume", needs=("resume",), clauses=("CRS-8", "RSM-38"))
async def lost_answer(env: SdkEnv) -> None:
    """The file was published and the answer is lost: the SDK finds that out, and does not send the content again."""
    env.faults.add("UploadFile", Fault(at="answer", status=LOST))
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="CRS-8")
    env.check("published", env.published("remote"), equals=content, clause="CRS-8")
    sent = sum(call.content_bytes for call in env.book.of("UploadFile"))
    env.check("sent-once", sent, equals=SIZE, clause="CRS-8")
    _only_asks(env)


@case("sdk/outcome/lost-finish", profile="resume", needs=("resume",), clauses=("CRS-4", "RSM-38"))
async def lost_finish(env: SdkEnv) -> None:
    """The finish was lost before it was carried out: everything is staged, and only the finish is sent again."""
    env.faults.add("UploadFile", Fault(at="finish", status=LOST))
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="CRS-4")
    env.check("published", env.published("remote"), equals=content, clause="CRS-4")
    sent = sum(call.content_bytes for call in env.book.of("UploadFile"))
    env.check("sent-once", sent, equals=SIZE, clause="CRS-4")
    _only_asks(env)


def _verifying(then: Callable[[Upload], object], env: SdkEnv) -> None:
    """Plan a lost finish after which the sandbox verifies, until it was asked three times."""
    asked = 0

    def begin(upload: Upload) -> None:
        upload.state = files_pb2.UPLOAD_STATE_VERIFYING

        def tick(_: object) -> None:
            nonlocal asked
            asked += 1
            if asked == 3:
                then(upload)

        for method in QUERIES:
            env.faults.always(method, Fault(then=tick))

    env.faults.add("UploadFile", Fault(at="finish", then=begin, status=LOST))


@case("sdk/outcome/verifying", profile="resume", needs=("resume",), clauses=("RSM-25", "CRS-5"))
async def verifying(env: SdkEnv) -> None:
    """The sandbox is still verifying when it is asked: the SDK waits for the verdict."""
    _verifying(lambda upload: env.gateway.sandbox.publish(upload, with_digest=True), env)
    content = env.content(SIZE)
    answered = await env.upload(content)
    env.check("published", env.published("remote"), equals=content, clause="CRS-5")
    env.check(
        "ok",
        (answered.outcome, answered.outcome_unknown),
        one_of=(("ok", False), ("error", True)),
        clause="RSM-25",
    )
    sent = sum(call.content_bytes for call in env.book.of("UploadFile"))
    env.check("sent-once", sent, equals=SIZE, clause="RSM-25")


@case("sdk/outcome/verifying-and-aborted", profile="resume", needs=("resume",), clauses=("RSM-25", "RSM-7"))
async def verifying_and_aborted(env: SdkEnv) -> None:
    """The sandbox was still verifying, and then aborted: that is a verdict, so the SDK sends the file anew or says why not."""

    def abort(upload: Upload) -> None:
        upload.state, upload.failure = files_pb2.UPLOAD_STATE_ABORTED, "CONDITION_FAILED"
        upload.staged.clear()

    _verifying(abort, env)
    content = env.content(SIZE)
    answered = await env.upload(content, attempts=2)
    right = (content,) if answered.ok else (None,)
    env.check("published", env.published("remote"), one_of=right, clause="RSM-7")
    env.check("verdict", answered.outcome_unknown, equals=False, clause="RSM-25")
    reached = [call for call in env.book.of(*QUERIES) if call.number]
    env.check("asked", len(reached), satisfies=("three times", lambda n: n >= 3), clause="RSM-25")


@case("sdk/outcome/unknown", profile="resume", needs=("resume",), clauses=("RSM-25", "RSM-38"))
async def unknown(env: SdkEnv) -> None:
    """The file was published, and from then on the gateway is away: the SDK says that it does not know, not that it failed."""

    def away(_: object) -> None:
        for method in (*QUERIES, "AbortUpload", "UploadFile", "WriteFile", "StatFile"):
            env.faults.always(method, Fault(status=LOST))

    env.faults.add("UploadFile", Fault(at="answer", then=away, status=LOST))
    answered = await env.upload(env.content(SIZE), attempts=2)
    env.check("published", env.published("remote"), satisfies=("the file", bool), clause="RSM-25")
    env.check(
        "unknown", (answered.outcome, answered.outcome_unknown), equals=("error", True), clause="RSM-25"
    )
    _only_asks(env)


@case("sdk/outcome/refused-question", profile="resume", needs=("resume",), clauses=("RSM-25",))
async def refused_question(env: SdkEnv) -> None:
    """The question about the finish is refused: that says nothing about the finish."""

    def refuse(_: object) -> None:
        for method in (*QUERIES, "AbortUpload", "UploadFile", "WriteFile"):
            env.faults.always(method, Fault(status=refusal("ROLE_REQUIRED")))

    env.faults.add("UploadFile", Fault(at="answer", then=refuse, status=LOST))
    answered = await env.upload(env.content(SIZE), attempts=2)
    env.check("published", env.published("remote"), satisfies=("the file", bool), clause="RSM-25")
    env.check(
        "unknown", (answered.outcome, answered.outcome_unknown), equals=("error", True), clause="RSM-25"
    )


@case("sdk/outcome/forgotten", profile="resume", needs=("resume",), clauses=("RSM-25",))
async def forgotten(env: SdkEnv) -> None:
    """The sandbox does not know the upload any more after the finish: that does not mean that nothing was published."""

    def forget(upload: Upload) -> None:
        del env.gateway.sandbox.uploads[upload.upload_id]

    env.faults.add("UploadFile", Fault(at="finish", then=forget, status=LOST))
    content = env.content(SIZE)
    answered = await env.upload(content, attempts=2)
    concluded = answered.outcome, answered.outcome_unknown
    env.check("finished", len(_after_finish(env)), satisfies=("a question", bool), clause="RSM-25")
    env.check("conclusion", concluded, one_of=(("ok", False), ("error", True)), clause="RSM-25")
    right = (content,) if answered.ok else (None, content)
    env.check("published-right", env.published("remote"), one_of=right, clause="RSM-25")


@case("sdk/outcome/refused-finish", profile="resume", needs=("resume",), clauses=("RSM-25", "ERR-7"))
async def refused_finish(env: SdkEnv) -> None:
    """A finish that is refused was not carried out, and the SDK reports why."""
    env.faults.always("UploadFile", Fault(at="finish", status=refusal("CONDITION_FAILED")))
    answered = await env.upload(env.content(SIZE), attempts=2)
    env.check("known", answered.outcome_unknown, equals=False, clause="RSM-25")
    env.refused(answered, reasons=("CONDITION_FAILED", "FAILED_PRECONDITION"), clause="ERR-7")
