"""The supervisor's side of the exec host: starts it, sends it requests, receives its replies."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

import openshell_supervisor_sim
from openshell_supervisor_sim.commands.host.messages import (
    MAX_REPLY_BYTES,
    Exited,
    HostReady,
    HostSettings,
    Message,
    NotStarted,
    Signal,
    Spawn,
    decode,
    encode,
    memory_file,
)

log = structlog.get_logger("openshell_supervisor_sim.commands")

#: Timeout of the host's preparation, in seconds; it usually takes 0.1.
_READY_SECONDS: Final = 30.0

#: Isolated and without site packages, so that it starts in a few milliseconds.
_HOST: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from openshell_supervisor_sim.commands.host.process import main;"
    "sys.exit(main(int(sys.argv[2])))"
)


class ExecHostError(Exception):
    """The exec host could not be started."""


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command that the supervisor sent to the host.

    Attributes:
        id: number of the command in messages to the host.
        ended: result of the command: its exit, or the failure to start it.
    """

    id: int
    ended: asyncio.Future[Exited | NotStarted]


class StartingHost:
    """Process of an exec host that is starting; `ready` waits for it.

    The supervisor can do other work meanwhile.

    Args:
        settings: settings of the host.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, settings: HostSettings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = Path(openshell_supervisor_sim.__file__).parents[1]
        with theirs:
            # The environment is empty, so that commands cannot read the supervisor's.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _HOST, str(source), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
                start_new_session=True,
            )
        self._socket = ours
        _send(ours, settings)

    def ready(self, reason: str = "") -> ExecHost:
        """Wait until the host is ready, for at most 30 seconds.

        Args:
            reason: cause for `state.reason`, if the supervisor itself turned the view off.

        Raises:
            ExecHostError: the host cannot run commands; the message has the cause.
        """
        self._socket.settimeout(_READY_SECONDS)
        try:
            data = self._socket.recv(MAX_REPLY_BYTES)
        except OSError as error:
            self.stop()
            raise ExecHostError(f"the exec host does not start: {error}") from error
        answer = decode(data) if data else None
        if not isinstance(answer, HostReady):
            self.stop()
            raise ExecHostError("the exec host ended before it was ready")
        if answer.failed:
            self.stop()
            raise ExecHostError(answer.failed)
        self._socket.setblocking(False)
        return ExecHost(self._socket, self._process, answer._replace(reason=reason or answer.reason))

    def stop(self) -> None:
        """End the host's process, and wait for its end."""
        self._socket.close()
        self._process.wait()


class ExecHost:
    """Client of a running exec host: starts commands in it, sends signals to them, receives their ends.

    Args:
        connection: socket to the host.
        process: process of the host.
        state: outcome of the host's preparation.
    """

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes], state: HostReady) -> None:
        self.state = state
        self._socket = connection
        self._process = process
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[Exited | NotStarted]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.lost = False

    def stop(self) -> None:
        """End the host. Only for a host whose context was not entered; its exit ends the host otherwise."""
        self._socket.close()
        self._process.wait()

    async def __aenter__(self) -> Self:
        """Start to receive the host's replies."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the host, and with it every command."""
        self._lose()
        await asyncio.to_thread(self._process.wait)

    def start(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        workdir: str,
        streams: tuple[int, int, int],
    ) -> RunningCommand:
        """Send a command to the host, which starts it.

        Args:
            arguments: program and arguments.
            environment: the complete environment.
            workdir: working directory, a path inside the view of commands.
            streams: descriptors of standard input, output and error; the caller closes them afterwards.

        Raises:
            TransferError: COMMAND_NOT_STARTED; the host has ended, or its socket is full.
        """
        if self.lost:
            raise TransferError(Reason.COMMAND_NOT_STARTED, "the exec host has ended; restart the supervisor")
        self._last_id += 1
        command = Spawn(self._last_id, list(arguments), dict(environment), workdir)
        try:
            _send(self._socket, command, *streams)
        except OSError as error:
            raise TransferError(
                Reason.COMMAND_NOT_STARTED, f"the exec host does not take the command: {error.strerror}"
            ) from error
        ended = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = ended
        return RunningCommand(command.id, ended)

    def signal(self, command: RunningCommand, number: int) -> None:
        """Send a signal to a command's process group, if the command still runs.

        After the first signal, the end of the command makes the host kill the rest of the group.
        """
        if self.lost or command.ended.done():
            return
        try:
            _send(self._socket, Signal(command.id, number))
        except OSError:
            # A host that accepts no signal accepts no command either.
            self._lose()

    def _hear(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_REPLY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                log.error("the exec host has ended; no command can run until the supervisor is restarted")
                self._lose()
                return
            message = decode(data)
            if isinstance(message, Exited | NotStarted):
                ended = self._waiting.pop(message.id, None)
                if ended is not None and not ended.done():
                    ended.set_result(message)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
        self._socket.close()
        for ended in self._waiting.values():
            if not ended.done():
                ended.set_exception(
                    TransferError(Reason.COMMAND_LOST, "the exec host ended while the command ran")
                )
                # Marks the error as retrieved: the task that waited for it may have ended.
                ended.exception()
        self._waiting.clear()


def _send(connection: socket.socket, message: Message, *streams: int) -> None:
    text = memory_file("message", encode(message))
    try:
        socket.send_fds(connection, [b"m"], [text, *streams])
    finally:
        os.close(text)
