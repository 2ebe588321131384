"""The supervisor's side of the exec host: start it, ask it, hear from it."""

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

#: How long the host may take to prepare, in seconds. It takes a tenth of one.
_READY_SECONDS: Final = 30.0

#: Isolated and without site packages: it starts in a few milliseconds.
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
        ended: how it ended, or that it was not started.
    """

    id: int
    ended: asyncio.Future[Exited | NotStarted]


class StartingHost:
    """A host that is getting ready while the supervisor does something else.

    Args:
        settings: how it prepares itself.

    Raises:
        OSError: no process can be made.
    """

    def __init__(self, settings: HostSettings) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = Path(openshell_supervisor_sim.__file__).parents[1]
        with theirs:
            # Its environment is empty: what it has not, commands cannot find.
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
        """Wait until it is.

        Args:
            reason: why it has no view, if it was not asked to make one.

        Raises:
            ExecHostError: it cannot serve, and says why.
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
        state: what it could do.
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
        """End the host before anybody listened to it."""
        self._socket.close()
        self._process.wait()

    async def __aenter__(self) -> Self:
        """Begin to listen to the host."""
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
        """Have a command started.

        Args:
            arguments: program and arguments.
            environment: all of it.
            workdir: where it starts, as commands see it.
            streams: standard input, output and error; the caller closes them.

        Raises:
            TransferError: COMMAND_NOT_STARTED; the host is gone or overwhelmed.
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
        """Signal a command's process group, if the command still runs.

        From the first signal on it is doomed: what is left of its group when
        it ends is killed.
        """
        if self.lost or command.ended.done():
            return
        try:
            _send(self._socket, Signal(command.id, number))
        except OSError:
            # Not even a signal: whatever is left there is of no use.
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
                log.error("the exec host ended; no command can be run until the supervisor is started again")
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
                # Who waited may be gone; then nobody asks for it.
                ended.exception()
        self._waiting.clear()


def _send(connection: socket.socket, message: Message, *streams: int) -> None:
    text = memory_file("message", encode(message))
    try:
        socket.send_fds(connection, [b"m"], [text, *streams])
    finally:
        os.close(text)
