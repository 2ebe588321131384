"""Channel options, and the check that a token goes over TLS or to loopback."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.endpoints import Endpoint
from openshell_files_protocol.limits import MIB, STREAM_OPTIONS

#: An idle connection is probed less often than the least interval that servers
#: accept by default (five minutes); they close connections that ping more often.
_KEEPALIVE_MS: Final = 320_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000

#: A caller may be far away, and has few concurrent downloads: 100 ms of
#: 1 Gbit/s hold 12 MiB, and gRPC grants the second half of a window after the
#: first half arrived. gRPC's probe would find the size after some round trips,
#: but has no bound.
_LOOKAHEAD: Final = "grpc.http2.lookahead_bytes", 32 * MIB

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *(option for option in STREAM_OPTIONS if option[0] != _LOOKAHEAD[0]),
    _LOOKAHEAD,
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    # The SDK retries by the error table. Retries of gRPC would come on top, and
    # buffer what was sent.
    ("grpc.enable_retries", 0),
    # Two clients of one process do not share a broken connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Reconnect to a restarted gateway before the retries are used up.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.primary_user_agent", "openshell-files/0.1.0"),
)


def check_token_may_be_sent(endpoint: Endpoint, *, tls: bool, allowed: bool) -> None:
    """Refuse to send tokens in plaintext over a network.

    Raises:
        ValueError: no TLS, no loopback address, and not allowed explicitly.
    """
    if not tls and not endpoint.local and not allowed:
        raise ValueError(
            f"a token would go to {endpoint.address} without TLS: give tls=TlsConfig(), "
            "or allow_insecure_token=True if you know the network"
        )
