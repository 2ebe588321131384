"""The streams of an upload in a fake gateway (LAN-1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2

Requests = Iterator[files_pb2.UploadFileRequest]

#: (upload_id, epoch)
_Attempt = tuple[str, int]

_LOOK_SECONDS = 0.02


@dataclass
class FakeLanes:
    """Lets streams find each other, whichever comes first."""

    _changed: threading.Condition = field(default_factory=threading.Condition)
    _streams: dict[tuple[_Attempt, int], Requests] = field(
        default_factory=dict[tuple[_Attempt, int], "Requests"]
    )
    _over: set[_Attempt] = field(default_factory=set[_Attempt])

    def carry(
        self, lane: file_options_pb2.UploadLane, requests: Requests, given_up: Callable[[], bool]
    ) -> None:
        """Offer a stream to its upload and wait until that is over."""
        attempt = (lane.upload_id, lane.epoch)
        with self._changed:
            self._streams[attempt, lane.index] = requests
            self._changed.notify_all()
            while attempt not in self._over and not given_up():
                self._changed.wait(_LOOK_SECONDS)

    def merged(
        self, metadata: files_pb2.UploadFileMetadata, requests: Requests, given_up: Callable[[], bool]
    ) -> Requests:
        """Yield the messages of all streams of an upload, in their order."""
        position = 0
        while True:
            index = position % max(1, metadata.lanes)
            stream = requests if index == 0 else self._stream(metadata, index, given_up)
            message = None if stream is None else next(stream, None)
            if message is None:
                return
            yield message
            position += 1

    def end(self, metadata: files_pb2.UploadFileMetadata) -> None:
        """Let the other streams of an upload end."""
        with self._changed:
            self._over.add((metadata.upload_id, metadata.epoch))
            self._changed.notify_all()

    def _stream(
        self, metadata: files_pb2.UploadFileMetadata, index: int, given_up: Callable[[], bool]
    ) -> Requests | None:
        key = ((metadata.upload_id, metadata.epoch), index)
        with self._changed:
            while key not in self._streams:
                if given_up():
                    return None
                self._changed.wait(_LOOK_SECONDS)
            return self._streams[key]
