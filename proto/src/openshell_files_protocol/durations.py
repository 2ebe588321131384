"""Conversion between seconds and `google.protobuf.Duration`."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration


def duration_of(seconds: float) -> Duration:
    """Return the message for a number of seconds."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def seconds_of(message: Duration) -> float:
    """Return the seconds of a message, of any size: a peer may send a message that is out of range."""
    return message.seconds + message.nanos / 1e9
