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

#: How long the host may take to prepare, in seconds; usually 0.1.
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
    """A command that was handed to the host.

    Attributes:
        id: of the command.
        ended: set to the end of the command, or to the failure to start it.
    """

    id: int
    ended: asyncio.Future[Exited | NotStarted]


class StartingHost:
    """A host that starts while the supervisor does something else.

    Args:
        settings: of the host.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, settings: HostSettings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = Path(openshell_supervisor_sim.__file__).parents[1]
        with theirs:
            # Its environment is empty, so that commands find nothing in it.
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
        """Wait until the host is ready.

        Args:
            reason: why it has no view, if the settings ask for none.

        Raises:
            ExecHostError: it cannot serve; the message has the reason.
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
        """End it."""
        self._socket.close()
        self._process.wait()


class ExecHost:
    """Starts commands through the exec host.

    Args:
        connection: to the host.
        process: the host.
        state: the outcome of its preparation.
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
        """End a host that was never entered as a context manager."""
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
        """Have the host start a command.

        Args:
            arguments: program and arguments.
            environment: the complete environment.
            workdir: working directory, as commands see it.
            streams: standard input, output and error; the caller closes them.

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

        After a first signal, the host kills the rest of the group when the command ends.
        """
        if self.lost or command.ended.done():
            return
        try:
            _send(self._socket, Signal(command.id, number))
        except OSError:
            # The host does not even take a signal, so it is useless.
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
                # The task that waited may have ended, so that no other retrieves the error.
                ended.exception()
        self._waiting.clear()


def _send(connection: socket.socket, message: Message, *streams: int) -> None:
    text = memory_file("message", encode(message))
    try:
        socket.send_fds(connection, [b"m"], [text, *streams])
    finally:
        os.close(text)
