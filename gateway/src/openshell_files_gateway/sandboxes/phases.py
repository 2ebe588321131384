"""The phases of a sandbox, and the events between them.

| phase        | connected | disconnected | failed | stop     | stopped | start    | delete   |
|--------------|-----------|--------------|--------|----------|---------|----------|----------|
| PROVISIONING | READY     | -            | ERROR  | STOPPING | -       | -        | DELETING |
| STARTING     | READY     | -            | ERROR  | STOPPING | -       | -        | DELETING |
| READY        | READY     | PROVISIONING | ERROR  | STOPPING | -       | -        | DELETING |
| STOPPING     | -         | -            | -      | -        | STOPPED | -        | DELETING |
| STOPPED      | -         | -            | -      | -        | -       | STARTING | DELETING |
| ERROR        | -         | -            | -      | STOPPING | -       | STARTING | DELETING |
| DELETING     | -         | -            | -      | -        | -       | -        | -        |

`-` changes nothing. If one supervisor supersedes another, the sandbox stays
READY and its record gets the new supervisor's id. As in upstream, a supervisor
that connects does not make a sandbox ready that is stopping, stopped, failed or
being deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

Phase: TypeAlias = "sandboxes_pb2.SandboxPhase.ValueType"

PROVISIONING: Final = sandboxes_pb2.SANDBOX_PHASE_PROVISIONING
READY: Final = sandboxes_pb2.SANDBOX_PHASE_READY
ERROR: Final = sandboxes_pb2.SANDBOX_PHASE_ERROR
DELETING: Final = sandboxes_pb2.SANDBOX_PHASE_DELETING
STOPPING: Final = sandboxes_pb2.SANDBOX_PHASE_STOPPING
STOPPED: Final = sandboxes_pb2.SANDBOX_PHASE_STOPPED
STARTING: Final = sandboxes_pb2.SANDBOX_PHASE_STARTING

#: Phases in which the supervisor is connected or starting, so that a call may
#: wait for it.
RUNNING: Final = frozenset({PROVISIONING, STARTING, READY})


class Event(Enum):
    """Event that may change a sandbox's phase."""

    CONNECTED = auto()
    DISCONNECTED = auto()
    FAILED = auto()
    STOP = auto()
    STOPPED = auto()
    START = auto()
    DELETE = auto()


@dataclass(frozen=True, slots=True)
class Readiness:
    """The condition "Ready" of a phase.

    Attributes:
        ready: value of the condition.
        reason: cause as one word, for programs.
        message: cause as a sentence, unless the event has its own.
    """

    ready: bool
    reason: str
    message: str


READINESS: Final = {
    PROVISIONING: Readiness(ready=False, reason="DependenciesNotReady", message="Waiting for the supervisor"),
    STARTING: Readiness(ready=False, reason="Starting", message="Waiting for the supervisor"),
    READY: Readiness(ready=True, reason="SupervisorConnected", message="Supervisor session connected"),
    STOPPING: Readiness(ready=False, reason="Stopping", message="The supervisor is being stopped"),
    STOPPED: Readiness(ready=False, reason="Stopped", message="Stopped by request"),
    ERROR: Readiness(ready=False, reason="SupervisorFailed", message="The supervisor cannot be started"),
    DELETING: Readiness(ready=False, reason="Deleting", message="Being deleted"),
}

_TABLE: Final[dict[Event, dict[Phase, Phase]]] = {
    Event.CONNECTED: dict.fromkeys((PROVISIONING, STARTING, READY), READY),
    Event.DISCONNECTED: {READY: PROVISIONING},
    Event.FAILED: dict.fromkeys((PROVISIONING, STARTING, READY), ERROR),
    Event.STOP: dict.fromkeys((PROVISIONING, STARTING, READY, ERROR), STOPPING),
    Event.STOPPED: {STOPPING: STOPPED},
    Event.START: {STOPPED: STARTING, ERROR: STARTING},
    Event.DELETE: dict.fromkeys((PROVISIONING, STARTING, READY, ERROR, STOPPING, STOPPED), DELETING),
}


def after(phase: Phase, event: Event) -> Phase | None:
    """Return the phase that an event leads to; None if it changes nothing."""
    return _TABLE[event].get(phase)
