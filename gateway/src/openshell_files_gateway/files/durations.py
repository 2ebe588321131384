"""Seconds as settings have them, and as messages carry them."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration


def duration(seconds: float) -> Duration:
    """Return a message of so many seconds."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def seconds(message: Duration) -> float:
    """Return how many seconds a message says; it may come from a stranger."""
    return message.seconds + message.nanos / 1e9
