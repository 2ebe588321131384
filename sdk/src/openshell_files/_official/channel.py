"""Channel of a client of the official SDK."""

from __future__ import annotations

import grpc


def channel_of(client: object) -> grpc.Channel:
    """Return the channel of an official client.

    Raises:
        TypeError: the client has none.
    """
    channel: object = getattr(client, "_channel", None)
    if isinstance(channel, grpc.Channel):
        return channel
    raise TypeError(
        "client: an openshell.SandboxClient is expected, with its gRPC channel as `_channel`; "
        f"{type(client).__name__} has none"
    )
