"""Connection state of a blocking gRPC channel.

The public way to get it is a subscription, which polls in a thread and
outlives the channel. The layer below answers at once; interceptors may lie
between.
"""

from __future__ import annotations

from typing import Any, Final, cast

import grpc

#: States in which a connection may follow soon.
CONNECTING: Final = frozenset({grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING})

_STATES: Final = {state.value[0]: state for state in grpc.ChannelConnectivity}


def state_of(channel: object, *, connect: bool = False) -> grpc.ChannelConnectivity | None:
    """Return the state of a blocking channel; None if it does not report one.

    Args:
        channel: the channel, perhaps with interceptors.
        connect: begin to connect if the channel is idle.
    """
    below: Any = channel
    while below is not None:
        look = getattr(below, "check_connectivity_state", None)
        if look is not None:
            try:
                return _STATES.get(cast("int", look(connect)))
            except ValueError:
                # The channel was closed.
                return grpc.ChannelConnectivity.SHUTDOWN
        below = getattr(below, "_channel", None)
    return None


class Way:
    """Tells whether messages of one call can leave this process (RSM-25).

    gRPC asks for a message after a connection took the previous one, or after
    no connection could be made; in that case the call has not ended yet.

    Args:
        channel: of the call.
    """

    def __init__(self, channel: object) -> None:
        self._channel = channel
        self._connected = False

    def is_open(self) -> bool:
        """Read the state, and return whether a message that gRPC asks for now can leave."""
        state = state_of(self._channel)
        # After there was a connection, the call may still have it although the channel lost it.
        self._connected = self._connected or state is grpc.ChannelConnectivity.READY
        return self._connected or state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE
