"""The gateway's side of the file protocol on a relay channel (FRM-1 ff.)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from openshell_files_process.agent_secret import NONCE_BYTES, agent_proof, gateway_proof, is_proof, new_nonce
from openshell_files_protocol import chunks
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import MAX_FRAME_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.agent_errors import error_of
from openshell_files_gateway.relay.core.relay_states import RelayEvent, RelayState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from openshell_files_gateway.relay.channel import RelayChannel
    from openshell_files_gateway.relay.core.relay_states import RelayLife
    from openshell_files_gateway.relay.supervisor_session import SupervisorSession

#: Numbers of the fields of an agent's frame.
_NUMBERS: Final[Mapping[str, int]] = {
    field.name: field.number for field in file_relay_pb2.FileRelayResponse.DESCRIPTOR.fields
}


class FileRelay:
    """A relay to a file agent, which serves one operation after another.

    Args:
        channel: the relay's byte stream; the pool closes it.
        session: session of the supervisor that claimed it.
        life: its state.
        expires: time on the loop's clock after which no operation starts on it.

    Attributes:
        channel, session, life, expires: as given.
        idle_until: time on the loop's clock at which the pool closes it if it is idle.
        reusable: True if another operation may follow the current one (FRM-26).
        input_over: True once everything for the agent has been sent.
        heard: True once the agent sent a frame of the current operation.
    """

    def __init__(
        self, channel: RelayChannel, session: SupervisorSession, life: RelayLife, expires: float
    ) -> None:
        self.channel = channel
        self.session = session
        self.life = life
        self.expires = expires
        self.idle_until = 0.0
        self.reusable = False
        self.input_over = True
        self.heard = False
        self._on_frame: Callable[[], None] = _ignore
        self._decoder = FrameDecoder()
        # Decoded one at a time: a message full of empty frames would become
        # a million objects.
        self._frames: Iterator[memoryview] = iter(())
        self._ever_heard = False

    def __repr__(self) -> str:
        return f"<FileRelay {self.channel.channel_id}, {self.life!r}>"

    def begin(self, on_frame: Callable[[], None], *, reusable: bool) -> None:
        """Prepare for the next operation.

        Args:
            on_frame: called for every frame of the agent, `working` included
                (FRM-7).
            reusable: True if another operation may follow, provided that the
                supervisor supports it.
        """
        files = self.session.files
        self._on_frame = on_frame
        self.reusable = reusable and files is not None and files.keeps_relays
        self.input_over = True
        self.heard = False

    def ended_in_order(self) -> bool:
        """Return True if another operation may follow. Call it once.

        That is the case if the operation has ended in both directions, and
        the agent sent nothing after its last frame.
        """
        if not (self.reusable and self.input_over and self.life.state is RelayState.ANSWERED):
            return False
        try:
            return next(self._frames, None) is None and self._decoder.at_boundary
        except FramingError:
            return False

    async def authenticate(self, secret: bytes) -> None:
        """Run the handshake in which gateway and agent prove that they know the secret (FRM-8).

        Raises:
            TransferError: AGENT_UNAUTHENTICATED if the peer does not know the
                secret, or rejects the gateway's proof; and as `next_frame`.
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
                Reason.AGENT_UNAUTHENTICATED,
                "the peer on the sandbox's port does not know the agent's secret",
            )
        proof = gateway_proof(secret, nonce, challenge.nonce)
        await self._send(file_relay_pb2.FileRelayRequest(proof=file_relay_pb2.FileRelayProof(proof=proof)))

    async def open(self, request: file_relay_pb2.FileRelayOpen) -> None:
        """Send the first frame (FRM-2).

        Args:
            request: the operation.

        Raises:
            TransferError: INVALID_REQUEST if the caller's request makes it
                larger than a frame may be, RELAY_LOST.
        """
        frame = file_relay_pb2.FileRelayRequest(open=request)
        if frame.ByteSize() > MAX_FRAME_BYTES:
            raise invalid(
                "request", f"too large: {frame.ByteSize()} bytes, at most {MAX_FRAME_BYTES} are allowed"
            )
        await self._send(frame)

    async def forward(
        self, messages: Sequence[bytes], *, ended: bool = False, field: int = chunks.FILE_FIELD
    ) -> None:
        """Forward a caller's messages unparsed, in one write (FRM-4).

        Args:
            messages: at least one message, or none with `ended`.
            ended: the caller's stream ends after them (FRM-6).
            field: number of the frame's field that carries a message.
        """
        segments: list[bytes | memoryview] = []
        for message in messages:
            segments += frame_segments(chunks.embed([message], field))
        if ended:
            segments += _input_end(cancelled=False)
        await self.channel.send(segments)

    async def cancel_input(self) -> None:
        """Tell the agent that the caller cancelled (FRM-16)."""
        await self.channel.send(_input_end(cancelled=True))

    async def next_frame(self, carrier: str = "download") -> memoryview | file_relay_pb2.FileRelayResponse:
        """Return the next frame of the agent.

        Args:
            carrier: the frame's field that carries a message for the caller.

        Returns:
            A view of the message for the caller if the frame carries one
            (FRM-4), else the parsed frame; `accepted` and `working` are skipped.

        Raises:
            TransferError: the agent's error, RELAY_LOST if the relay ended
                (FRM-14), FILES_UNSUPPORTED (FRM-15) or AGENT_PROTOCOL_ERROR (FRM-5).
        """
        field = _NUMBERS[carrier]
        while True:
            frame = await self._next_raw()
            await self.channel.keep_pace(len(frame))
            message = chunks.embedded(frame, field)
            if message is not None:
                return message
            try:
                response = file_relay_pb2.FileRelayResponse.FromString(bytes(frame))
            except DecodeError as error:
                raise self._not_an_agent(str(error)) from error
            kind = response.WhichOneof("frame")
            if kind == "error":
                refusal = error_of(response.error)
                # After these errors, the agent's next frames may still belong to this operation.
                if refusal.reason not in {Reason.AGENT_PROTOCOL_ERROR, Reason.INTERNAL}:
                    self.life.after(RelayEvent.ANSWER)
                raise refusal
            if kind == carrier:
                return memoryview(getattr(response, carrier).SerializeToString())
            if kind not in {None, "accepted", "working"}:
                return response
            # One message can hold any number of these frames; other tasks get a turn.
            await asyncio.sleep(0)

    def last(self, frame: memoryview | file_relay_pb2.FileRelayResponse, kind: str) -> Any:  # noqa: ANN401 - by kind
        """Return the content of the operation's last frame.

        Args:
            frame: a frame from `next_frame`.
            kind: the field of the oneof that it must have.

        Returns:
            The value of that field.

        Raises:
            TransferError: AGENT_PROTOCOL_ERROR if the frame is of another kind.
        """
        if isinstance(frame, memoryview) or frame.WhichOneof("frame") != kind:
            got = "content" if isinstance(frame, memoryview) else frame.WhichOneof("frame")
            raise TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent answered {got}, not {kind}")
        self.life.after(RelayEvent.ANSWER)
        return getattr(frame, kind)

    async def _next_raw(self) -> memoryview:
        while True:
            try:
                for frame in self._frames:
                    self.heard = self._ever_heard = True
                    self._on_frame()
                    return frame
            except FramingError as error:
                raise self._not_an_agent(str(error)) from error
            data = await self.channel.receive()
            if not len(data):
                raise TransferError(
                    Reason.RELAY_LOST, "the relay to the sandbox ended before the file agent gave a result"
                )
            self._frames = self._decoder.feed(data)

    async def _send(self, request: file_relay_pb2.FileRelayRequest) -> None:
        await self.channel.send(frame_segments([request.SerializeToString()]))

    def _not_an_agent(self, detail: str) -> TransferError:
        if self._ever_heard:
            return TransferError(Reason.AGENT_PROTOCOL_ERROR, f"the file agent broke the protocol: {detail}")
        return TransferError(Reason.FILES_UNSUPPORTED, f"no file agent answers in the sandbox: {detail}")


def _input_end(*, cancelled: bool) -> list[bytes | memoryview]:
    end = file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)
    return frame_segments([file_relay_pb2.FileRelayRequest(input_end=end).SerializeToString()])


def _ignore() -> None:
    """Ignore a frame: no operation is running."""
