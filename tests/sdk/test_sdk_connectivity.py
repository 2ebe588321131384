"""Whether the last message of a call can have left, by what a channel tells (RSM-25)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from grpc import ChannelConnectivity
from openshell_files._connectivity import Way, state_of
from openshell_files._sync._calls import Outbox

IDLE, CONNECTING, READY, FAILURE, SHUTDOWN = (
    ChannelConnectivity.IDLE,
    ChannelConnectivity.CONNECTING,
    ChannelConnectivity.READY,
    ChannelConnectivity.TRANSIENT_FAILURE,
    ChannelConnectivity.SHUTDOWN,
)


class Below:
    """The layer of a channel that answers at once."""

    def __init__(self) -> None:
        self.state = CONNECTING

    def check_connectivity_state(self, connect: bool) -> int:  # noqa: FBT001 - gRPC's own
        assert not connect, "whether to connect is the owner's"
        if self.state is SHUTDOWN:
            raise ValueError("Cannot invoke RPC: Channel closed!")
        return int(self.state.value[0])


def below_interceptors(below: object, count: int) -> Any:
    channel = below
    for _ in range(count):
        channel = SimpleNamespace(_channel=channel)
    return channel


@pytest.mark.parametrize("interceptors", [0, 1, 3])
@pytest.mark.parametrize("state", ChannelConnectivity)
def test_the_state_is_found(interceptors: int, state: ChannelConnectivity) -> None:
    below = Below()
    below.state = state
    assert state_of(below_interceptors(below, interceptors)) is state


def test_a_channel_of_another_make_does_not_tell() -> None:
    assert state_of(SimpleNamespace()) is None
    assert Way(SimpleNamespace()).is_open()


@pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        (FAILURE, FAILURE, False),
        (CONNECTING, FAILURE, False),
        (CONNECTING, READY, True),
        (READY, READY, True),
        # It was taken by a connection that is lost, or about to be: it may have arrived.
        (READY, FAILURE, True),
        (READY, IDLE, True),
        (CONNECTING, IDLE, True),
    ],
)
def test_what_is_asked_for_leaves_over_a_connection_only(
    first: ChannelConnectivity,
    then: ChannelConnectivity,
    left: bool,  # noqa: FBT001 - a table
) -> None:
    """gRPC asks for the next message also when the one before could not be sent."""
    below = Below()
    outbox = Outbox(Way(below_interceptors(below, 2)))
    below.state = first
    outbox.put(b"first", 1)
    assert next(outbox) == b"first"
    below.state = then
    outbox.put(b"last", 1, last=True)
    assert not outbox.last_left
    assert next(outbox) == b"last"
    assert outbox.last_left is left
