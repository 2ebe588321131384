"""Seconds as settings hold them, and as `google.protobuf.Duration` carries them."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration


def duration_of(seconds: float) -> Duration:
    """Return a message of that many seconds."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def seconds_of(message: Duration) -> float:
    """Return the seconds of a message. It may come from a peer that sends an invalid one, so no range is assumed."""
    return message.seconds + message.nanos / 1e9
