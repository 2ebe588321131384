"""Sizes and times that both ends rely on, and why they are what they are."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: Version of the file protocol inside a relay.
PROTOCOL_VERSION: Final = 1

#: The gateway's inbound message limit, upstream's value. Every message of
#: this protocol, whoever receives it, stays below.
MAX_MESSAGE_BYTES: Final = MIB

#: Largest content of one chunk. It leaves a page of the message limit for the
#: headers of chunk, frame and relay frame, and keeps file offsets aligned.
MAX_CHUNK_BYTES: Final = MAX_MESSAGE_BYTES - 4 * KIB

#: What every server takes without being asked (UPL-6), so that a small file
#: needs no question.
MIN_CHUNK_LIMIT_BYTES: Final = 256 * KIB

#: Largest content of WriteFile. What it leaves of the message limit is room for
#: the metadata, of which a path takes up to a page.
MAX_WRITE_BYTES: Final = MAX_MESSAGE_BYTES - 16 * KIB

#: Least content of a full chunk that a caller can ask a download for (DWN-8).
#: A gateway counts pieces with hardly any content as a supervisor's flood
#: (RLY-10), and a caller must not be able to make an honest one flood.
MIN_CHUNK_BYTES: Final = 16 * KIB

#: Content of one `chunk` of an unchecked download: what a client that knows
#: only the RFC's messages receives.
RFC_CHUNK_BYTES: Final = 256 * KIB

#: Largest frame inside a relay. A caller's message is at most
#: MAX_MESSAGE_BYTES and gets a few bytes of header on its way.
MAX_FRAME_BYTES: Final = MAX_MESSAGE_BYTES + 64

#: Paths as the kernel limits them (PATH_MAX less the terminating NUL, NAME_MAX).
MAX_PATH_BYTES: Final = 4095
MAX_NAME_BYTES: Final = 255

#: Of every algorithm (DIG-1).
DIGEST_BYTES: Final = 32

#: Least time between two heartbeats of a supervisor, whatever the gateway
#: announces (upstream's), and the longest interval that it believes (RLY-11).
LEAST_HEARTBEAT_SECONDS: Final = 5.0
MOST_HEARTBEAT_SECONDS: Final = 3600.0

#: Channel and server settings of every hop that carries file content.
#: A larger HTTP/2 frame means fewer system calls per chunk; the lookahead lets
#: flow control grant more than one chunk ahead of the reader. Without the
#: probe the window stays at that: an estimate of the path's capacity has no
#: bound, and what it grants is held in memory when the reader is slower.
STREAM_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.http2.max_frame_size", 4 * MIB),
    ("grpc.http2.lookahead_bytes", 4 * MIB),
    ("grpc.http2.bdp_probe", 0),
)
