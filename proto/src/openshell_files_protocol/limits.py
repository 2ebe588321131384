"""Sizes, times and channel settings that both ends rely on."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: Version of the file protocol inside a relay.
PROTOCOL_VERSION: Final = 1

#: The gateway's limit on received messages, upstream's value. All messages of
#: this protocol respect it, in both directions.
MAX_MESSAGE_BYTES: Final = MIB

#: Largest content of one chunk. It leaves 4 KiB of the message limit for the
#: headers of chunk, frame and relay frame, and keeps file offsets page-aligned.
MAX_CHUNK_BYTES: Final = MAX_MESSAGE_BYTES - 4 * KIB

#: Chunk size that every server accepts (UPL-6), so that a client can upload a
#: small file without a request for the capabilities.
MIN_CHUNK_LIMIT_BYTES: Final = 256 * KIB

#: Largest content of WriteFile. It leaves 16 KiB of the message limit for the
#: metadata, whose path may take 4 KiB.
MAX_WRITE_BYTES: Final = MAX_MESSAGE_BYTES - 16 * KIB

#: Smallest chunk size that a caller can request for a download (DWN-8). A
#: gateway counts pieces with little content as a supervisor's flood (RLY-25),
#: so a caller must not be able to request them.
MIN_CHUNK_BYTES: Final = 16 * KIB

#: Content of one plain `chunk` of a download, for clients that know only the
#: RFC's messages.
RFC_CHUNK_BYTES: Final = 256 * KIB

#: Largest frame inside a relay: a caller's message of MAX_MESSAGE_BYTES and a
#: few bytes of header.
MAX_FRAME_BYTES: Final = MAX_MESSAGE_BYTES + 64

#: The kernel's limits on paths and names (PATH_MAX without the terminating NUL, NAME_MAX).
MAX_PATH_BYTES: Final = 4095
MAX_NAME_BYTES: Final = 255

#: Prefix of the names of staging files and directories; no path of a request may name one.
STAGING_PREFIX: Final = b".openshell-upload-"

#: Entries of a tree that are announced and neither in place nor refused; the sender waits at this limit (TRE-5).
MAX_OPEN_ENTRIES: Final = 8192

#: Limit on the entries of one manifest (TRE-5).
MAX_MANIFEST_ENTRIES: Final = 1024

#: Entries of a page of ListDirectory: without page_size, and at most (DIR-28).
DEFAULT_PAGE_SIZE: Final = 1000
MAX_PAGE_SIZE: Final = 10_000

#: Size from which a page of ListDirectory takes no further entry (DIR-28). An entry has at most 16 KiB.
PAGE_BYTES: Final = MAX_MESSAGE_BYTES - 64 * KIB

#: Size of a digest of every algorithm (DIG-1).
DIGEST_BYTES: Final = 32

#: Least interval of a supervisor's heartbeats, even if the gateway announces
#: less (upstream's value), and the longest announced interval that it accepts
#: (RLY-30, RLY-31).
LEAST_HEARTBEAT_SECONDS: Final = 5.0
MOST_HEARTBEAT_SECONDS: Final = 3600.0

#: Channel and server settings of every hop that carries file content. A larger
#: HTTP/2 frame takes fewer system calls per chunk; the lookahead lets flow
#: control grant more than one chunk ahead of the reader. Without the probe, the
#: window stays at that size: the probe's estimate of the path's capacity has no
#: limit, and content in the window takes memory while the reader is slower.
STREAM_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.http2.max_frame_size", 4 * MIB),
    ("grpc.http2.lookahead_bytes", 4 * MIB),
    ("grpc.http2.bdp_probe", 0),
)
