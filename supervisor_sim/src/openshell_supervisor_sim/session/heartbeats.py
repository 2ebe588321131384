"""Heartbeats: the interval of the supervisor's messages, and the silence after which the gateway counts as dead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.unknown_fields import UnknownFieldSet
from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.limits import LEAST_HEARTBEAT_SECONDS, MOST_HEARTBEAT_SECONDS
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

#: Least time between heartbeats of the supervisor, even if the gateway announces less.
SENDING_FLOOR_SECONDS: Final = LEAST_HEARTBEAT_SECONDS

#: Interval of a gateway that announces none (upstream's).
UNANNOUNCED_SECONDS: Final = 15.0

#: Shortest silence, so that a gateway that is busy for a moment does not count as dead.
SILENCE_FLOOR_SECONDS: Final = 15.0

#: Missed heartbeats after which a gateway counts as dead.
MISSED_HEARTBEATS: Final = 3

#: Longest interval that is accepted: with a longer one a dead gateway would not be noticed.
_MOST_SECONDS: Final = MOST_HEARTBEAT_SECONDS

#: `heartbeat_interval_secs`, a uint32 that gateways of the 0.0.x generation announce.
_FIRST_GENERATION_FIELD: Final = 2


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """The two times of a session, in seconds.

    Attributes:
        sending: between two messages of the supervisor.
        silence: without a message of the gateway.
    """

    sending: float
    silence: float


def agreed(accepted: openshell_pb2.SessionAccepted) -> Heartbeats:
    """Return the times of a session from the gateway's announcement.

    The allowed silence depends on the gateway's interval only, and not on the supervisor's own.
    """
    announced = announced_seconds(accepted)
    interval = UNANNOUNCED_SECONDS if announced is None else announced
    return Heartbeats(
        sending=max(announced or 0.0, SENDING_FLOOR_SECONDS),
        silence=max(interval * MISSED_HEARTBEATS, SILENCE_FLOOR_SECONDS),
    )


def announced_seconds(accepted: openshell_pb2.SessionAccepted) -> float | None:
    """Return the interval of the gateway's heartbeats; None if it announced none.

    It reads both generations: a duration, and a number of seconds in a field that is now reserved.
    """
    seconds = seconds_of(accepted.heartbeat_interval)
    if seconds <= 0:
        seconds = 0.0
        fields = UnknownFieldSet(accepted)
        for unknown in (fields[index] for index in range(len(fields))):
            if unknown.field_number == _FIRST_GENERATION_FIELD and unknown.wire_type == 0:
                seconds = float(unknown.data)
    return min(seconds, _MOST_SECONDS) if seconds > 0 else None
