"""Uploads that end without a finish: at each step, and in each way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import RELAY_ENDED, FileRelay, data
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_CONTENT = b"conformance" * 1000


async def _opened(relay: FileRelay) -> None:
    del relay


async def _accepted(relay: FileRelay) -> None:
    await relay.until("accepted")


async def _half(relay: FileRelay) -> None:
    await relay.until("accepted")
    await relay.upload(data(0, _CONTENT[:5000]))


async def _all(relay: FileRelay) -> None:
    await relay.until("accepted")
    await relay.upload(data(0, _CONTENT))


async def _half_a_frame(relay: FileRelay) -> None:
    await relay.until("accepted")
    # The length of a frame, and a part of it.
    await relay.relay.send(b"\x80\x08\x12\x10")


STEPS: dict[str, Callable[[FileRelay], Awaitable[None]]] = {
    "at the open": _opened,
    "before content": _accepted,
    "within the content": _half,
    "with all content": _all,
    "within a frame": _half_a_frame,
}


async def _cancel(relay: FileRelay) -> None:
    await relay.input_end(cancelled=True)


async def _half_close(relay: FileRelay) -> None:
    await relay.input_end()


async def _end(relay: FileRelay) -> None:
    relay.relay.end()


async def _reset(relay: FileRelay) -> None:
    relay.relay.reset()


WAYS: dict[str, tuple[Callable[[FileRelay], Awaitable[None]], tuple[str, ...]]] = {
    "cancelled": (_cancel, ("UPL-1", "UPL-11", "FRM-16", "RSM-36")),
    "half-closed": (_half_close, ("UPL-11", "UPL-1", "RSM-36")),
    "relay-ended": (_end, ("UPL-1", "FRM-14", "RSM-36")),
    "relay-reset": (_reset, ("UPL-1", "FRM-14", "RSM-36")),
}


def _register(step: str, way: str, *, explicit: bool) -> None:
    reach, (leave, clauses) = STEPS[step], WAYS[way]
    known: dict[str, Any] = {} if explicit else {"explicit_finish": False, "size_bytes": len(_CONTENT)}
    silent = way.startswith("relay") or step == "within a frame"

    async def run(env: SupervisorEnv) -> None:
        relay = await env.begin_upload(env.path(), **known)
        await reach(relay)
        await leave(relay)
        if silent:
            relay.relay.end()
            relay.relay.hold()
        else:
            done = await relay.outcome()
            allowed = ("UPLOAD_INCOMPLETE",) if way == "half-closed" else ("UPLOAD_INCOMPLETE", RELAY_ENDED)
            env.check("reason", done.reason, one_of=allowed, clause="UPL-11")
        if "FRM-16" in clauses:
            env.check("stops", await nothing_staged(env), equals=True, clause="FRM-16")
        env.check("nothing-left", await nothing_staged(env), equals=True, clause="RSM-36")
        env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-1")
        if "FRM-14" in clauses:
            # The agent is there for the next operation.
            told = await env.stat(env.home)
            env.check("still-serves", told.reason, equals="OK", clause="FRM-14")

    kind = "with a finish" if explicit else "of the RFC"
    run.__doc__ = f"An upload {kind} is {way.replace('-', ' ')} {step}: nothing is published, nothing stays."
    name = f"{way}-{step.replace(' ', '-')}" + ("" if explicit else "-rfc")
    named = tuple(clause for clause in clauses if clause != "UPL-11" or not silent)
    case(f"supervisor/upload-ends/{name}", profile="core" if explicit else "rfc", clauses=named)(run)


for _step in STEPS:
    for _way in WAYS:
        # Behind half a frame the gateway can send nothing that is understood.
        if _step != "within a frame" or _way.startswith("relay"):
            _register(_step, _way, explicit=True)
for _way in ("cancelled", "relay-ended", "relay-reset"):
    # Content of another kind than `data` comes in the vectors; what is common to both is the end.
    _register("with all content", _way, explicit=False)


@case("supervisor/upload-ends/silence", profile="core", clauses=("UPL-1", "RSM-36"), timeout=30)
async def silence(env: SupervisorEnv) -> None:
    """A relay that falls silent with all content staged ends after the idle timeout, and publishes nothing."""
    relay = await env.begin_upload(
        env.path(), opening={"idle_timeout": 1.0}, explicit_finish=False, size_bytes=len(_CONTENT)
    )
    await relay.upload(files_pb2.UploadFileRequest(chunk=_CONTENT))
    done = await relay.outcome(env.scaled(10))
    env.check(
        "reason", done.reason, one_of=("TRANSFER_IDLE", "UPLOAD_INCOMPLETE", RELAY_ENDED), clause="UPL-1"
    )
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="RSM-36")
    env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-1")
