"""One relay to a file agent, spoken by the suite: frames out, frames in, and the outcome of an operation.

`FileRelay` sends what a case says, right or wrong, in any order and cut at any place. `Outcome` is what a gateway would make of the agent's last frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import blake3
import google_crc32c
from google.protobuf import text_format
from google.protobuf.message import Message

from openshell_files_conformance.checks import CannotGoOnError, Transcript, shown
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2, trees_pb2
from openshell_files_conformance.peers.gateway_streams import ANSWER_SECONDS, GatewayRelay
from openshell_files_conformance.peers.relay_frames import FramingError, encode_frame, responses

Request = file_relay_pb2.FileRelayRequest
Response = file_relay_pb2.FileRelayResponse

SHA256: Final = files_pb2.DIGEST_ALGORITHM_SHA256
BLAKE3: Final = files_pb2.DIGEST_ALGORITHM_BLAKE3

#: Frames after which the operation goes on.
_NOT_LAST: Final = frozenset({"accepted", "download", "working", "challenge", "upload_tree", "download_tree"})
#: Messages of more bytes are not written out.
_LARGE: Final = 4096
#: What stands for a reason where there is none.
OK: Final = "OK"
RELAY_ENDED: Final = "the relay ended without a last frame"
NOT_FRAMES: Final = "the bytes are not frames"


def crc(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    checksum: Any = google_crc32c
    return int(checksum.value(data))


def digest(content: bytes, algorithm: files_pb2.DigestAlgorithm.ValueType = SHA256) -> files_pb2.Digest:
    """The digest of some content."""
    computed = blake3.blake3(content).digest() if algorithm == BLAKE3 else hashlib.sha256(content).digest()
    return files_pb2.Digest(algorithm=algorithm, value=computed)


def data(offset: int, content: bytes, checksum: int | None = None) -> files_pb2.UploadFileRequest:
    """A chunk at an offset, with the right checksum unless another is given."""
    value = crc(content) if checksum is None else checksum
    return files_pb2.UploadFileRequest(data=files_pb2.FileChunk(offset=offset, data=content, crc32c=value))


def hole(offset: int, size: int) -> files_pb2.UploadFileRequest:
    """A hole at an offset."""
    return files_pb2.UploadFileRequest(data=files_pb2.FileChunk(offset=offset, hole_bytes=size))


def finish(
    content: bytes, algorithm: files_pb2.DigestAlgorithm.ValueType = SHA256
) -> files_pb2.UploadFileRequest:
    """The finish of an upload of this content."""
    return files_pb2.UploadFileRequest(
        finish=files_pb2.UploadFinish(size_bytes=len(content), digest=digest(content, algorithm))
    )


def brief(message: Message) -> str:
    """A message in one line, as transcripts show it; of a large one the names of its parts and its size."""
    if message.ByteSize() > _LARGE:
        names, inner = list[str](), message
        while kinds := [
            field for field, _ in inner.ListFields() if field.message_type and not field.is_repeated
        ]:
            names.append(kinds[0].name)
            inner = getattr(inner, kinds[0].name)
        offset = f" at {inner.offset}" if isinstance(inner, files_pb2.FileChunk) else ""
        return f"{'.'.join(names)}{offset} ({message.ByteSize()} bytes)"
    return shown(text_format.MessageToString(message, as_one_line=True), 240).strip('"')


@dataclass
class Outcome:
    """How an operation ended.

    Attributes:
        kind: the last frame: `upload` or `error`, for example; empty if there was none.
        frames: every frame, in order, the last one included.
        broken: why there is no last frame, if there is none.
    """

    kind: str = ""
    frames: list[Response] = field(default_factory=list[Response])
    broken: str = ""

    @property
    def answer(self) -> Any:
        """The message in the last frame."""
        return getattr(self.frames[-1], self.kind) if self.kind else None

    @property
    def ok(self) -> bool:
        """Whether the operation succeeded."""
        return bool(self.kind) and self.kind != "error"

    @property
    def error(self) -> file_relay_pb2.FileRelayError:
        """The error; empty if the operation did not end with one."""
        return self.answer if self.kind == "error" else file_relay_pb2.FileRelayError()

    @property
    def reason(self) -> str:
        """`OK`, the reason of the error, or what stands for a missing last frame."""
        if not self.kind:
            return self.broken
        return self.error.reason if self.kind == "error" else OK

    @property
    def fields(self) -> list[str]:
        """The fields that the error names."""
        return [violation.field for violation in self.error.field_violations]

    @property
    def metadata(self) -> dict[str, str]:
        """The error's metadata."""
        return dict(self.error.metadata)

    @property
    def kinds(self) -> list[str]:
        """The kinds of all frames, without `working`."""
        named = [str(frame.WhichOneof("frame")) for frame in self.frames]
        return [kind for kind in named if kind != "working"]

    @property
    def downloaded(self) -> list[files_pb2.DownloadFileResponse]:
        """The messages for the caller of a download."""
        return [frame.download for frame in self.frames if frame.HasField("download")]

    def __str__(self) -> str:
        return f"{self.kind or 'no last frame'}: {self.reason} {self.error.message}".strip()


class FileRelay:
    """The gateway's half of the file protocol on one relay.

    Attributes:
        relay: the bytes.
        frames: of the current operation, so far.

    Methods wait for a frame for as long as `patience` says, unless a call says otherwise.
    """

    def __init__(self, relay: GatewayRelay, transcript: Transcript, patience: float = ANSWER_SECONDS) -> None:
        self.relay = relay
        self._patience = patience
        self.frames: list[Response] = []
        self._transcript = transcript
        self._decoder = responses()
        self._waiting: list[Response] = []

    async def send(self, *requests: Request, cuts: Sequence[int] = ()) -> None:
        """Send frames, cut into pieces of these sizes.

        Raises:
            CannotGoOnError: the supervisor has ended the relay.
        """
        for request in requests:
            self._transcript.sent(brief(request))
        await self.relay.send(b"".join(map(encode_frame, requests)), cuts)

    async def begin(self, opened: file_relay_pb2.FileRelayOpen, *requests: Request) -> None:
        """Send `open`, and perhaps more behind it, as a new operation."""
        self.frames = []
        await self.send(Request(open=opened), *requests)

    async def upload(self, *messages: files_pb2.UploadFileRequest) -> None:
        """Pass on messages of the caller of an upload."""
        await self.send(*(Request(upload=message) for message in messages))

    async def upload_tree(self, *messages: trees_pb2.UploadTreeRequest) -> None:
        """Pass on messages of the caller of `UploadTree`."""
        await self.send(*(Request(upload_tree=message) for message in messages))

    async def download_tree(self, *messages: trees_pb2.DownloadTreeRequest) -> None:
        """Pass on messages of the caller of `DownloadTree`."""
        await self.send(*(Request(download_tree=message) for message in messages))

    async def input_end(self, *, cancelled: bool = False) -> None:
        """Say that the caller's stream is over."""
        await self.send(Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)))

    async def next(self, seconds: float | None = None) -> Response | None:
        """Return the agent's next frame; None when the relay has ended.

        Raises:
            FramingError: the bytes are not frames.
            CannotGoOnError: nothing came in time.
        """
        while not self._waiting:
            received = await self.relay.receive(self._patience if seconds is None else seconds)
            if not received:
                self._decoder.finish()
                return None
            self._waiting = self._decoder.feed(received)
        frame = self._waiting.pop(0)
        self.frames.append(frame)
        self._transcript.received(brief(frame))
        return frame

    async def until(self, kind: str, seconds: float | None = None) -> Response:
        """Return the next frame of a kind.

        Raises:
            CannotGoOnError: the operation ended before.
        """
        while (frame := await self.next(seconds)) is not None:
            found = str(frame.WhichOneof("frame"))
            if found == kind:
                return frame
            if found not in _NOT_LAST:
                raise CannotGoOnError(f"the agent sent {brief(frame)} before {kind}")
        raise CannotGoOnError(f"the agent ended the relay before {kind}")

    async def outcome(self, seconds: float | None = None) -> Outcome:
        """Read to the last frame of the operation.

        Raises:
            CannotGoOnError: no frame came in time.
        """
        try:
            while (frame := await self.next(seconds)) is not None:
                kind = frame.WhichOneof("frame")
                if kind is not None and kind not in _NOT_LAST:
                    return Outcome(kind, self.frames)
        except FramingError as error:
            return Outcome("", self.frames, f"{NOT_FRAMES}: {error}")
        return Outcome("", self.frames, RELAY_ENDED)

    async def rest(self, seconds: float | None = None) -> list[Response]:
        """Return the frames that come until the agent ends the relay.

        Raises:
            CannotGoOnError: it does not end it in time.
        """
        found: list[Response] = []
        while (frame := await self.next(seconds)) is not None:
            found.append(frame)
        return found
