"""One command in a relay: its request out, its events in."""

from __future__ import annotations

from dataclasses import dataclass, field

from openshell_files_conformance.checks import Transcript
from openshell_files_conformance.pb.openshell.v1 import exec_pb2, exec_relay_pb2
from openshell_files_conformance.peers.gateway_streams import ANSWER_SECONDS, GatewayRelay
from openshell_files_conformance.peers.operation import brief
from openshell_files_conformance.peers.relay_frames import encode_frame, exec_responses


@dataclass
class Command:
    """The gateway's half of a command's relay.

    Attributes:
        stdout, stderr: what came so far.
        largest: the largest piece of output.
        exit_code: None until the command is over.
        error: reason of the error; empty if there is none.
        fields: that the error names.
        over: whether the last frame came, or the relay has ended.
        ended: whether the relay has ended.
    """

    relay: GatewayRelay
    transcript: Transcript
    stdout: bytes = b""
    stderr: bytes = b""
    largest: int = 0
    exit_code: int | None = None
    error: str = ""
    fields: list[str] = field(default_factory=list[str])
    over: bool = False
    ended: bool = False

    def __post_init__(self) -> None:
        self._decoder = exec_responses()
        self._waiting: list[exec_relay_pb2.ExecRelayResponse] = []

    async def open(self, request: exec_pb2.ExecSandboxRequest, transfer_id: str = "") -> None:
        """Send the one frame of the gateway."""
        opened = exec_relay_pb2.ExecRelayOpen(
            protocol_version=1, transfer_id=transfer_id, principal="conformance", request=request
        )
        await self.send(exec_relay_pb2.ExecRelayRequest(open=opened))

    async def send(self, frame: exec_relay_pb2.ExecRelayRequest) -> None:
        """Send a frame."""
        self.transcript.sent(brief(frame))
        await self.relay.send(encode_frame(frame))

    async def next(self, seconds: float = ANSWER_SECONDS) -> bool:
        """Take the next frame; False if the command is over.

        Raises:
            CannotGoOnError: nothing came in time.
        """
        if self.over:
            return False
        while not self._waiting:
            received = await self.relay.receive(seconds)
            if not received:
                self.over = self.ended = True
                return False
            self._waiting = self._decoder.feed(received)
        frame = self._waiting.pop(0)
        self.transcript.received(brief(frame))
        self._take(frame)
        return not self.over

    async def finish(self, seconds: float = ANSWER_SECONDS) -> Command:
        """Read to the end of the command."""
        while await self.next(seconds):
            pass
        return self

    def _take(self, frame: exec_relay_pb2.ExecRelayResponse) -> None:
        if frame.WhichOneof("frame") == "error":
            self.error, self.over = frame.error.reason, True
            self.fields = [violation.field for violation in frame.error.field_violations]
            return
        event = frame.event
        match event.WhichOneof("payload"):
            case "stdout":
                self.stdout += event.stdout.data
                self.largest = max(self.largest, len(event.stdout.data))
            case "stderr":
                self.stderr += event.stderr.data
                self.largest = max(self.largest, len(event.stderr.data))
            case "exit":
                self.exit_code, self.over = event.exit.exit_code, True
            case _:
                pass
