"""How this client connects to a gateway, and whether a token may be sent there."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.endpoints import Endpoint
from openshell_files_protocol.limits import MIB, STREAM_OPTIONS

#: A connection on which nothing moves is probed more seldom than the least
#: interval that servers take for granted (five minutes); a server that was
#: not asked closes connections that ping more often.
_KEEPALIVE_MS: Final = 320_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000

#: A caller is the one end that may be far away, and has few downloads at a
#: time: 100 ms of 1 Gbit/s hold 12 MiB, and gRPC grants the second half of a
#: window when the first has come. A probe of the path finds the size by itself,
#: but takes round trips to find it, and has no bound.
_LOOKAHEAD: Final = "grpc.http2.lookahead_bytes", 32 * MIB

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *(option for option in STREAM_OPTIONS if option[0] != _LOOKAHEAD[0]),
    _LOOKAHEAD,
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    # Attempts are decided by the error table; gRPC must not add its own,
    # for which it would also keep what was sent.
    ("grpc.enable_retries", 0),
    # Two clients of one process do not share a broken connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # A gateway that was started again is found before the tries are used up.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.primary_user_agent", "openshell-files/0.1.0"),
)


def check_token_may_be_sent(endpoint: Endpoint, *, tls: bool, allowed: bool) -> None:
    """Refuse to send tokens over a wire that anybody may read.

    Raises:
        ValueError: no TLS, not loopback, and not allowed explicitly.
    """
    if not tls and not endpoint.local and not allowed:
        raise ValueError(
            f"a token would go to {endpoint.address} without TLS: give tls=TlsConfig(), "
            "or allow_insecure_token=True if you know the network"
        )
