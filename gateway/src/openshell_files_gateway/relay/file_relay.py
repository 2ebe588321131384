"""The file protocol on a relay channel, from the gateway's side (FRM-1 to FRM-6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from openshell_files_protocol import chunks
from openshell_files_protocol.agent_secret import NONCE_BYTES, agent_proof, gateway_proof, is_proof, new_nonce
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import MAX_FRAME_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.agent_errors import error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.repeatable import RepeatableChannel


class FileRelay:
    """Operations spoken to the agent over a channel, one after the other.

    Args:
        channel: to the agent; its owner closes it.
        on_frame: called for every frame of the agent, also for those that
            only say that it is at work (FRM-7).
    """

    def __init__(self, channel: RelayChannel, on_frame: Callable[[], None]) -> None:
        self._channel: RelayChannel | RepeatableChannel = channel
        self._repeatable: RepeatableChannel | None = None
        self._on_frame = on_frame
        self._decoder = FrameDecoder()
        # Cut as they are asked for: a message of empty frames would be a
        # million objects.
        self._frames: Iterator[memoryview] = iter(())
        self._heard = False
        self._answered = False

    def rests(self) -> bool:
        """Tell whether the operation is over and the agent sent nothing behind its last frame; ask once."""
        try:
            return self._answered and next(self._frames, None) is None and self._decoder.at_boundary
        except FramingError:
            return False

    def begin(self, channel: RepeatableChannel, on_frame: Callable[[], None]) -> None:
        """Make room for another operation (FRM-9).

        Args:
            channel: the same relay, or one in its place.
            on_frame: called for every frame from now on.
        """
        self._channel = self._repeatable = channel
        self._on_frame = on_frame
        self._answered = False

    async def authenticate(self, secret: bytes) -> None:
        """Prove both sides' knowledge of the secret, before anything else (FRM-8).

        Raises:
            TransferError: AGENT_UNAUTHENTICATED if what listens does not know
                it, or says that this gateway does not; and as `next_frame`.
        """
        nonce = new_nonce()
        await self._send(
            file_relay_pb2.FileRelayRequest(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=nonce))
        )
        frame = await self.next_frame()
        if isinstance(frame, memoryview) or frame.WhichOneof("frame") != "challenge":
            raise self._not_an_agent("no challenge came")
        challenge = frame.challenge
        if len(challenge.nonce) != NONCE_BYTES or not is_proof(
            agent_proof(secret, nonce, challenge.nonce), challenge.proof
        ):
            raise TransferError(
                Reason.AGENT_UNAUTHENTICATED, "what listens in the sandbox does not know the agent's secret"
            )
        proof = gateway_proof(secret, nonce, challenge.nonce)
        await self._send(file_relay_pb2.FileRelayRequest(proof=file_relay_pb2.FileRelayProof(proof=proof)))

    async def open(self, request: file_relay_pb2.FileRelayOpen, messages: Sequence[bytes] = ()) -> None:
        """Send the first frame (FRM-2), and all of the input in the same write if it is here already.

        Args:
            request: the operation.
            messages: the caller's messages that follow, all there will be
                (FRM-6); none if they are to come, or nothing is to follow.

        Raises:
            TransferError: INVALID_REQUEST if the caller's request makes it
                larger than a frame may be, RELAY_LOST.
        """
        frame = file_relay_pb2.FileRelayRequest(open=request)
        if frame.ByteSize() > MAX_FRAME_BYTES:
            raise invalid(
                "request", f"too large: {frame.ByteSize()} bytes, at most {MAX_FRAME_BYTES} are allowed"
            )
        if self._repeatable is not None:
            self._repeatable.idempotent = _is_idempotent(request)
        segments = frame_segments([frame.SerializeToString()])
        if messages:
            segments += _forwarded(messages, ended=True)
        await self._channel.send(segments)

    async def forward(self, messages: Sequence[bytes], *, ended: bool = False) -> None:
        """Send callers' messages as they came (FRM-4); joined into one write.

        Args:
            messages: at least one, unless it is the end.
            ended: whether the caller's stream is over (FRM-6).
        """
        await self._channel.send(_forwarded(messages, ended=ended))

    async def cancel_input(self) -> None:
        """Say that nobody waits for an answer any more (FRM-6)."""
        await self._channel.send(_input_end(cancelled=True))

    async def next_frame(self) -> memoryview | file_relay_pb2.FileRelayResponse:
        """Return the next frame of the agent.

        Returns:
            A view of the caller's message if the frame carries one (FRM-4),
            else the parsed frame; never `accepted`, `working` or `error`.

        Raises:
            TransferError: the agent's error, RELAY_LOST if the relay is over
                (FRM-3), FILES_UNSUPPORTED or AGENT_PROTOCOL_ERROR (FRM-5).
        """
        while True:
            frame = await self._next_raw()
            await self._channel.keep_pace(len(frame))
            message = chunks.embedded(frame)
            if message is not None:
                return message
            try:
                response = file_relay_pb2.FileRelayResponse.FromString(bytes(frame))
            except DecodeError as error:
                raise self._not_an_agent(str(error)) from error
            kind = response.WhichOneof("frame")
            if kind == "error":
                refusal = error_of(response.error)
                # Who lost count of frames, or has a bug, may say more.
                self._answered = refusal.reason not in {Reason.AGENT_PROTOCOL_ERROR, Reason.INTERNAL}
                raise refusal
            if kind == "download":
                return memoryview(response.download.SerializeToString())
            if kind not in {None, "accepted", "working"}:
                return response
            # One message can hold any number of these; others have a turn too.
            await asyncio.sleep(0)

    def last(self, frame: memoryview | file_relay_pb2.FileRelayResponse, kind: str) -> Any:  # noqa: ANN401 - by kind
        """Take a frame for the operation's last one.

        Args:
            frame: as `next_frame` returned it.
            kind: the field that it must have.

        Returns:
            That field.

        Raises:
            TransferError: AGENT_PROTOCOL_ERROR if it has another one.
        """
        if isinstance(frame, memoryview) or frame.WhichOneof("frame") != kind:
            got = "content" if isinstance(frame, memoryview) else frame.WhichOneof("frame")
            raise TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent answered {got}, not {kind}")
        self._answered = True
        return getattr(frame, kind)

    async def _next_raw(self) -> memoryview:
        while True:
            try:
                for frame in self._frames:
                    self._heard = True
                    self._on_frame()
                    return frame
            except FramingError as error:
                raise self._not_an_agent(str(error)) from error
            data = await self._channel.receive()
            if not len(data):
                raise TransferError(
                    Reason.RELAY_LOST, "the relay to the sandbox ended before the file agent gave a result"
                )
            self._frames = self._decoder.feed(data)

    async def _send(self, request: file_relay_pb2.FileRelayRequest) -> None:
        await self._channel.send(frame_segments([request.SerializeToString()]))

    def _not_an_agent(self, detail: str) -> TransferError:
        if self._heard:
            return TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent broke the protocol: {detail}")
        return TransferError(Reason.FILES_UNSUPPORTED, f"no file agent answers in the sandbox: {detail}")


def _forwarded(messages: Sequence[bytes], *, ended: bool) -> list[bytes | memoryview]:
    segments: list[bytes | memoryview] = []
    for message in messages:
        segments += frame_segments(chunks.embed([message]))
    if ended:
        segments += _input_end(cancelled=False)
    return segments


def _input_end(*, cancelled: bool) -> list[bytes | memoryview]:
    end = file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)
    return frame_segments([file_relay_pb2.FileRelayRequest(input_end=end).SerializeToString()])


def _is_idempotent(request: file_relay_pb2.FileRelayOpen) -> bool:
    """Whether nobody can tell an operation that was carried out twice from one (RSM-1)."""
    if request.WhichOneof("operation") == "start_upload":
        return bool(request.start_upload.metadata.request_id)
    if request.WhichOneof("operation") != "upload":
        return True
    return bool(request.upload.request_id or request.upload.upload_id)
