"""The record of a sandbox as callers receive it, and its changes by events."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.phases import Event

_READY_CONDITION: Final = "Ready"


def new_message(sandbox_id: str, name: str, workspace: str, now: float) -> sandboxes_pb2.Sandbox:
    """Return the record of a new sandbox."""
    message = sandboxes_pb2.Sandbox()
    meta = message.metadata
    meta.id, meta.name, meta.workspace, meta.resource_version = sandbox_id, name, workspace, 1
    meta.created_time.FromNanoseconds(int(now * 1e9))
    message.spec.SetInParent()
    _enter(message, phases.PROVISIONING, "", now)
    return message


def add_ignored_fields(message: sandboxes_pb2.Sandbox, fields: list[str]) -> None:
    """Add a condition that names the requested fields without effect in the simulation."""
    condition = message.status.conditions.add(
        type="SpecHeeded",
        status="False",
        reason="Simulated",
        message=f"Without effect in a simulated sandbox: {', '.join(fields)}",
    )
    condition.transition_time.CopyFrom(message.metadata.created_time)


def changed_by(
    message: sandboxes_pb2.Sandbox, event: Event, why: str, now: float
) -> sandboxes_pb2.Sandbox | None:
    """Return the record after an event; None if the event changes nothing."""
    phase = phases.after(message.status.phase, event)
    if phase is None:
        return None
    changed = sandboxes_pb2.Sandbox()
    changed.CopyFrom(message)
    changed.metadata.resource_version += 1
    if event is Event.DELETE:
        changed.metadata.deletion_time.FromNanoseconds(int(now * 1e9))
    if phase != message.status.phase:
        _enter(changed, phase, why, now)
    return changed


def _enter(message: sandboxes_pb2.Sandbox, phase: phases.Phase, why: str, now: float) -> None:
    readiness = phases.READINESS[phase]
    message.status.phase = phase
    others = [condition for condition in message.status.conditions if condition.type != _READY_CONDITION]
    ready = sandboxes_pb2.SandboxCondition(
        type=_READY_CONDITION,
        status="True" if readiness.ready else "False",
        reason=readiness.reason,
        message=why or readiness.message,
    )
    ready.transition_time.FromNanoseconds(int(now * 1e9))
    del message.status.conditions[:]
    message.status.conditions.extend([*others, ready])
