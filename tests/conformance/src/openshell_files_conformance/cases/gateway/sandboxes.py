"""Sandboxes that the gateway makes: their life, and what a call into them gives at each time of it."""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_conformance.pb.openshell.v1 import files_pb2, sandboxes_pb2
from openshell_files_conformance.peers.caller import OK
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import ONE, GatewayEnv, Sandbox
from openshell_files_conformance.registry import case

_NEEDS: Final = ("compute",)
_LAUNCH: Final = {"compute": True}
_SCOPE: Final = datamodel_pb2.WorkspaceSelector(workspace="default")
READY: Final = sandboxes_pb2.SANDBOX_PHASE_READY
STOPPED: Final = sandboxes_pb2.SANDBOX_PHASE_STOPPED
_STARTING: Final = (sandboxes_pb2.SANDBOX_PHASE_PROVISIONING, sandboxes_pb2.SANDBOX_PHASE_STARTING)


async def create(env: GatewayEnv, name: str, **fields: Any) -> Ended[Any]:
    """Make a sandbox."""
    request = sandboxes_pb2.CreateSandboxRequest(name=name, workspace_scope=_SCOPE, **fields)
    return await env.caller.call("CreateSandbox", request)


async def _phase(env: GatewayEnv, name: str, wanted: int) -> bool:
    """Wait for a phase; return whether it came."""

    async def there() -> bool:
        request = sandboxes_pb2.GetSandboxRequest(name=name, workspace_scope=_SCOPE)
        told = await env.caller.call("GetSandbox", request)
        return told.ok and told.answer.sandbox.status.phase == wanted

    return await env.eventually(there, 20)


def _made(ended: Ended[Any], name: str) -> Sandbox:
    if not ended.ok:
        raise CannotGoOnError(f"CreateSandbox: {ended}")
    return Sandbox(name, ended.answer.sandbox.metadata.id, "")


@case(
    "gateway/sandboxes/life",
    profile="core",
    needs=_NEEDS,
    clauses=("SBX-7", "SBX-8", "SBX-1", "SBX-4", "SBX-9", "SBX-3", "SBX-10"),
    launch=_LAUNCH,
    timeout=90,
)
async def life(env: GatewayEnv) -> None:
    """A sandbox is made at once, becomes ready, keeps its files over a stop, and nothing of it is left after its deletion."""
    name, start = env.fresh_name("box"), time.monotonic()
    ended = await create(env, name)
    env.require("created", ended.reason, equals=OK, clause="SBX-7")
    env.check(
        "at-once",
        time.monotonic() - start,
        satisfies=("less than 3 s", lambda one: one < env.scaled(3.0)),
        clause="SBX-7",
    )
    env.check("phase", ended.answer.sandbox.status.phase, equals=_STARTING[0], clause="SBX-7")
    caller = env.user(ONE, _made(ended, name))
    early = await caller.call("StatFile", _stat(caller, "."), seconds=env.scaled(30.0))
    env.check("waits-while-starting", early.reason, equals=OK, clause="SBX-10")
    env.check("ready", await _phase(env, name, READY), equals=True, clause="SBX-8")
    other = _made(await create(env, f"{name}-2"), f"{name}-2")
    env.check("upload", (await caller.rfc_upload("file", b"mine")).reason, equals=OK, clause="SBX-1")
    await _phase(env, other.name, READY)
    env.check("own-root", await env.user(ONE, other).content("file"), equals="FILE_NOT_FOUND", clause="SBX-1")
    by_name: dict[str, Any] = {"name": name, "workspace_scope": _SCOPE}
    stopped = await env.caller.call(
        "StopSandbox", sandboxes_pb2.StopSandboxRequest(**by_name), seconds=env.scaled(20.0)
    )
    env.check("stop", stopped.reason, equals=OK, clause="SBX-9")
    refused = await caller.stat("file")
    env.check(
        "stopped",
        (refused.code.name, refused.reason),
        equals=("FAILED_PRECONDITION", "SANDBOX_NOT_READY"),
        clause="SBX-4",
    )
    await _phase(env, name, STOPPED)
    await env.caller.call("StartSandbox", sandboxes_pb2.StartSandboxRequest(**by_name))
    env.check("ready-again", await _phase(env, name, READY), equals=True, clause="SBX-8")
    env.check("files-kept", await caller.content("file"), equals=b"mine", clause="SBX-9")
    gone = await env.caller.call(
        "DeleteSandbox", sandboxes_pb2.DeleteSandboxRequest(**by_name), seconds=env.scaled(20.0)
    )
    env.check(
        "deleted",
        gone.ok and gone.answer.outcome,
        equals=sandboxes_pb2.DELETION_OUTCOME_COMPLETED,
        clause="SBX-3",
    )
    after = await caller.stat("file")
    env.check("unknown", after.reason, equals="SANDBOX_NOT_FOUND", clause="SBX-3")
    again = _made(await create(env, name), name)
    await _phase(env, name, READY)
    env.check(
        "nothing-left", await env.user(ONE, again).content("file"), equals="FILE_NOT_FOUND", clause="SBX-3"
    )


def _stat(caller: Any, path: str) -> Any:
    return files_pb2.StatFileRequest(sandbox=caller.sandbox, remote_path=path)


@case(
    "gateway/sandboxes/request-ids",
    profile="core",
    needs=_NEEDS,
    clauses=("SBX-5", "SBX-11"),
    launch=_LAUNCH,
    timeout=60,
)
async def request_ids(env: GatewayEnv) -> None:
    """A request that is repeated by its request_id is not carried out again; with other content it is refused."""
    name, request_id = env.fresh_name("box"), str(uuid.uuid4())
    first = await create(env, name, request_id=request_id)
    env.require("first", first.reason, equals=OK, clause="SBX-5")
    again = await create(env, name, request_id=request_id)
    same = again.ok and again.answer.sandbox.metadata.id == first.answer.sandbox.metadata.id
    env.check("again", same, equals=True, clause="SBX-5")
    other = await create(env, f"{name}-2", request_id=request_id)
    env.check(
        "other-content",
        (other.code.name, other.reason),
        equals=("INVALID_ARGUMENT", "REQUEST_ID_PAYLOAD_MISMATCH"),
        clause="SBX-11",
    )
    taken = await create(env, name)
    env.check(
        "taken-name",
        (taken.code.name, taken.reason),
        equals=("ALREADY_EXISTS", "SANDBOX_EXISTS"),
        clause="SBX-5",
    )
    request = sandboxes_pb2.DeleteSandboxRequest(name=name, workspace_scope=_SCOPE)
    await env.caller.call("DeleteSandbox", request, seconds=env.scaled(20.0))
