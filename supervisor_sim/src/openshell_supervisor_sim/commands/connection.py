"""One command on one stream: its request, its output, its exit (EXE-1 ff.)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError
from openshell_files_process.tasks import TaskScope, first_of
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import KIB, MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.streams import ByteStream, error_message
from openshell_supervisor_sim.commands.core.command import (
    TIMED_OUT,
    Command,
    Unstartable,
    command_of,
    exit_code,
    not_started,
)
from openshell_supervisor_sim.commands.exec_host import ExecHost, RunningCommand
from openshell_supervisor_sim.commands.host.messages import Exited, memory_file
from openshell_supervisor_sim.commands.output import OutputPipe, OutputPump

log = structlog.get_logger("openshell_supervisor_sim.commands")

#: How long to wait for the gateway's request.
_REQUEST_SECONDS: Final = 30.0

#: The caller's request, and what the gateway adds to it.
_MAX_FRAME_BYTES: Final = MAX_MESSAGE_BYTES + 64 * KIB

#: How long a background process may keep the output open after the command
#: ended, as upstream's gateway waits.
LINGER_SECONDS: Final = 0.5

#: Between SIGTERM and SIGKILL.
KILL_SECONDS: Final = 2.0


@dataclass(slots=True)
class CommandServer:
    """Runs commands for the gateway.

    Attributes:
        host: starts them.
        root: prefix of working directories if commands see the machine's file system; empty if they
            see the sandbox's.
        workdir: of the sandbox, absolute inside it.
        environment: of every command.
        max_commands: commands at the same time.
    """

    host: ExecHost
    root: str
    workdir: str
    environment: Mapping[str, str]
    max_commands: int = 64
    running: int = field(default=0, init=False)

    async def serve(self, stream: ByteStream) -> None:
        """Run one command and return after its end.

        An error is answered on the stream and not raised. If the caller is cancelled, or the stream
        ends, the command is ended.

        Raises:
            CancelledError: the caller was cancelled.
        """
        send = _Sender(stream)
        try:
            await self._serve(stream, send)
        except TransferError as error:
            await send.error(error)
        except ConnectionError:
            log.info("the relay of a command ended before it")
        except Exception:
            log.exception("a command failed by a bug")
            await send.error(TransferError(Reason.INTERNAL, "the supervisor has a bug; see its log"))

    async def _serve(self, stream: ByteStream, send: _Sender) -> None:
        frames = _Frames(stream)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                frame = await frames.next()
        except TimeoutError:
            raise TransferError(
                Reason.TRANSFER_IDLE, f"no request came within {_REQUEST_SECONDS:g} seconds"
            ) from None
        if frame is None:
            return
        opened = _parse_open(frame)
        command = command_of(opened.request, self.workdir)
        if self.running >= self.max_commands:
            raise TransferError(
                Reason.TOO_MANY_COMMANDS,
                f"{self.running} commands are running, no more are allowed",
                {"max_commands": str(self.max_commands)},
                retry_delay=1.0,
            )
        self.running += 1
        started = time.monotonic()
        run = _Run(self, command, send)
        try:
            working = await first_of(run.to_the_end(), _until_over(frames))
        finally:
            self.running -= 1
            log.info(
                "command ended",
                program=command.arguments[0],
                principal=opened.principal,
                outcome=run.outcome,
                stdout_bytes=run.stdout_bytes,
                stderr_bytes=run.stderr_bytes,
                seconds=round(time.monotonic() - started, 3),
            )
        if not working.cancelled():
            working.result()

    def start(self, command: Command, streams: tuple[int, int, int]) -> RunningCommand:
        """Start a command."""
        environment = {**self.environment, **command.environment}
        return self.host.start(command.arguments, environment, f"{self.root}{command.workdir}", streams)


class _Run:
    """One command from its start to its last frame."""

    def __init__(self, server: CommandServer, command: Command, send: _Sender) -> None:
        self._server = server
        self._command = command
        self._send = send
        self.outcome: int | str = "failed"
        self.stdout_bytes = 0
        self.stderr_bytes = 0

    async def to_the_end(self) -> None:
        """Run the command, and send its output and its exit.

        Cancelled, it ends the command's process group first.

        Raises:
            TransferError: the command could not be started, or was lost.
            ConnectionError: the relay is gone; the command was ended.
        """
        with ExitStack() as stack:
            try:
                out, err = stack.enter_context(OutputPipe()), stack.enter_context(OutputPipe())
                stdin = memory_file("stdin", self._command.stdin)
            except OSError as error:
                raise TransferError(
                    Reason.COMMAND_NOT_STARTED,
                    f"the pipes of the command cannot be created: {error.strerror}",
                ) from error
            try:
                running = self._server.start(self._command, (stdin, out.writer, err.writer))
            finally:
                os.close(stdin)
                out.close_writer()
                err.close_writer()
            pumps = OutputPump(out, self._send.stdout), OutputPump(err, self._send.stderr)
            try:
                await self._follow(running, *pumps)
            except asyncio.CancelledError:
                self.outcome = "cancelled"
                raise
            finally:
                self.stdout_bytes, self.stderr_bytes = (pump.taken for pump in pumps)
                if not running.ended.done():
                    await _end(self._server.host, running)

    async def _follow(self, running: RunningCommand, out: OutputPump, err: OutputPump) -> None:
        async with TaskScope() as scope:
            pumps = {scope.start(pump.run(), "command-output") for pump in (out, err)}
            code = await self._wait(running, pumps)
            if isinstance(code, Unstartable):
                await self._send.stderr(code.message.encode("utf-8", "replace"))
                code = code.exit_code
            # The command's output goes out before its exit. A process that it left behind may keep
            # the pipes open for ever; nothing waits for that.
            _, pending = await asyncio.wait(pumps, timeout=LINGER_SECONDS)
            if pending:
                out.finish()
                err.finish()
                await asyncio.wait(pumps)
            for pump in pumps:
                pump.result()
        self.outcome = code
        await self._send.exit(code)

    async def _wait(self, running: RunningCommand, pumps: set[asyncio.Task[None]]) -> int | Unstartable:
        """Return the exit code of the command; raises if its output cannot be sent."""
        loop = asyncio.get_running_loop()
        deadline = None if self._command.timeout is None else loop.time() + self._command.timeout
        waiting: set[asyncio.Future[Any]] = {running.ended, *pumps}
        while not running.ended.done():
            left = None if deadline is None else max(0.0, deadline - loop.time())
            done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await _end(self._server.host, running)
                return TIMED_OUT
            for finished in done - {running.ended}:
                finished.result()
                waiting.discard(finished)
        result = running.ended.result()
        if isinstance(result, Exited):
            return exit_code(os.waitstatus_to_exitcode(result.status))
        failure = not_started(result.step, result.errno, self._command)
        if isinstance(failure, TransferError):
            raise failure
        return failure


async def _end(host: ExecHost, running: RunningCommand) -> None:
    """End a command's process group by SIGTERM and then SIGKILL; return after the command's end."""
    host.signal(running, signal.SIGTERM)
    try:
        await asyncio.wait({running.ended}, timeout=KILL_SECONDS)
    finally:
        # At once if this was cancelled.
        host.signal(running, signal.SIGKILL)
    if not running.ended.done():
        await asyncio.wait({running.ended})


class _Frames:
    """Frames of the gateway."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(_MAX_FRAME_BYTES)
        self._frames: Iterator[memoryview] = iter(())

    async def next(self) -> memoryview | None:
        """Return the next frame; None at the end of the stream.

        Raises:
            TransferError: AGENT_PROTOCOL_ERROR if the bytes are not frames.
        """
        while True:
            try:
                for frame in self._frames:
                    return frame
                data = await self._stream.receive()
                self._frames = self._decoder.feed(data)
            except ConnectionError:
                return None
            except FramingError as error:
                raise TransferError(
                    Reason.AGENT_PROTOCOL_ERROR, f"the bytes of the relay are not frames: {error}"
                ) from error
            if not data:
                return None


class _Sender:
    """Sends events, one at a time."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()

    async def stdout(self, data: bytes) -> None:
        """Send a piece of output."""
        await self._event(exec_pb2.ExecSandboxEvent(stdout=exec_pb2.ExecSandboxStdout(data=data)))

    async def stderr(self, data: bytes) -> None:
        """Send a piece of error output."""
        await self._event(exec_pb2.ExecSandboxEvent(stderr=exec_pb2.ExecSandboxStderr(data=data)))

    async def exit(self, code: int) -> None:
        """Send the last frame."""
        await self._event(exec_pb2.ExecSandboxEvent(exit=exec_pb2.ExecSandboxExit(exit_code=code)))

    async def error(self, error: TransferError) -> None:
        """Send the last frame of a command that failed; does nothing if the relay is gone."""
        try:
            await self._message(exec_relay_pb2.ExecRelayResponse(error=error_message(error).error))
        except ConnectionError as gone:
            log.debug("the error of a command cannot be sent", error=str(error), reason=str(gone))

    async def _event(self, event: exec_pb2.ExecSandboxEvent) -> None:
        await self._message(exec_relay_pb2.ExecRelayResponse(event=event))

    async def _message(self, message: exec_relay_pb2.ExecRelayResponse) -> None:
        async with self._turn:
            await self._stream.send(*frame_segments([message.SerializeToString()]))


def _parse_open(frame: memoryview) -> exec_relay_pb2.ExecRelayOpen:
    try:
        message = exec_relay_pb2.ExecRelayRequest.FromString(bytes(frame))
    except DecodeError as error:
        raise TransferError(
            Reason.AGENT_PROTOCOL_ERROR, f"the first frame is not an ExecRelayRequest: {error}"
        ) from error
    if message.WhichOneof("frame") != "open":
        raise invalid("open", "must be the first frame (EXE-10)")
    if not 1 <= message.open.protocol_version <= PROTOCOL_VERSION:
        raise invalid(
            "open.protocol_version",
            f"is {message.open.protocol_version}, this supervisor speaks 1 to {PROTOCOL_VERSION}",
        )
    return message.open


async def _until_over(frames: _Frames) -> None:
    """Return when the gateway ends the relay.

    Raises:
        TransferError: it sent more than one frame.
    """
    if await frames.next() is not None:
        raise invalid("frame", "a command has only one frame (EXE-10)")
