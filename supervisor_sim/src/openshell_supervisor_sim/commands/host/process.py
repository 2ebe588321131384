"""Exec host: the process that confines itself, starts commands and reports their exit statuses.

The outer process enters new namespaces and waits. The inner process is the first process of the new
process namespace, so the kernel kills every command with it. Without namespaces a single process
does the work of the inner one.

The host exits when its socket is closed, so it never outlives the supervisor.
"""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Final

from openshell_supervisor_sim.commands.host import view
from openshell_supervisor_sim.commands.host.messages import (
    MAX_DESCRIPTORS,
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
    read_file,
)
from openshell_supervisor_sim.confinement import kernel, landlock
from openshell_supervisor_sim.confinement.places import of_commands
from openshell_supervisor_sim.confinement.user import become

#: Limits of each command: open files (soft, hard) and processes of its user.
_FILES: Final = (1024, 4096)
_PROCESSES: Final = 4096


def main(descriptor: int) -> int:
    """Serve the supervisor on a socket until it is closed.

    Returns:
        The exit status.
    """
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    received = _receive(connection)
    if received is None or not isinstance(received[0], HostSettings):
        return 1
    settings = received[0]
    os.umask(0o022)
    try:
        if settings.user is not None:
            become(*settings.user)
        kernel.set_no_new_privileges()
        reason = "" if settings.view != "none" else "switched off"
        if settings.view != "none":
            try:
                view.prepare(settings.root, settings.prefixes, settings.hidden)
                _leave_namespaces()
            except OSError as error:
                reason = str(error)
            else:
                return _as_outer(connection, settings)
        if settings.view == "required":
            raise OSError(reason)  # noqa: TRY301 - one way out for every failure
        return _serve(connection, settings, HostReady(reason=reason))
    except OSError as error:
        _send(connection, HostReady(failed=str(error)))
        return 1


def _leave_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    # The maps are files of /proc; `_serve` makes the process undumpable again.
    kernel.set_dumpable()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC)
    for name, value in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(value)


def _as_outer(connection: socket.socket, settings: HostSettings) -> int:
    """Start the inner process and wait for it."""
    inner = os.fork()
    if inner:
        connection.close()
        kernel.drop_capabilities()
        _, status = os.waitpid(inner, 0)
        return os.waitstatus_to_exitcode(status) & 0xFF
    code = 1
    try:
        made = view.enter(settings.root, settings.prefixes, settings.hidden)
        reason = f"without {', '.join(made.lacks)}" if made.lacks else ""
        code = _serve(connection, settings, HostReady(view=True, reason=reason, covered=made.covered))
    except OSError as error:
        _send(connection, HostReady(failed=f"the view of the sandbox cannot be mounted: {error}"))
    finally:
        os._exit(code)


def _serve(connection: socket.socket, settings: HostSettings, ready: HostReady) -> int:
    # Without a process namespace the machine's first process would adopt orphans.
    kernel.become_subreaper()
    kernel.set_undumpable()
    if settings.view != "none" or os.geteuid() == 0:
        _drop_capabilities()
    _limit()
    ready = _restrict(settings, ready)
    if ready.failed:
        _send(connection, ready)
        return 1
    with selectors.DefaultSelector() as selector:
        host = CommandSpawner(connection, selector)
        _send(connection, ready)
        host.run()
    return 0


def _drop_capabilities() -> None:
    try:
        kernel.drop_capabilities()
    except PermissionError:
        # An ordinary user outside of a user namespace has no capabilities to drop.
        if kernel.effective_capabilities():
            raise


def _limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = min(hard, _FILES[1]) if hard != resource.RLIM_INFINITY else _FILES[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES[0], hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    hard = min(hard, _PROCESSES) if hard != resource.RLIM_INFINITY else _PROCESSES
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))


def _restrict(settings: HostSettings, ready: HostReady) -> HostReady:
    if settings.confine == "none":
        return ready._replace(landlock_reason="switched off")
    root = "/" if ready.view else settings.root
    try:
        version = landlock.restrict(of_commands(root, settings.prefixes, view=ready.view))
    except OSError as error:
        version, why = 0, str(error)
    else:
        why = "" if version else "the kernel has no Landlock"
    if not version and settings.confine == "required":
        return ready._replace(failed=f"Landlock: {why}")
    return ready._replace(landlock=version, landlock_reason=why)


class CommandSpawner:
    """Starts commands, signals them, and reports their ends.

    Args:
        connection: to the supervisor.
        selector: that it waits with.
    """

    def __init__(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        self._connection = connection
        self._selector = selector
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ids: dict[int, int] = {}
        self._signalled: set[int] = set()

    def run(self) -> None:
        """Serve until the supervisor has ended, and then end running commands."""
        child_ended, woken = socket.socketpair()
        child_ended.setblocking(False)
        woken.setblocking(False)
        # A signal wakes the selector even if its handler does nothing.
        signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(woken.fileno())
        self._selector.register(child_ended, selectors.EVENT_READ)
        self._selector.register(self._connection, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is child_ended:
                        child_ended.recv(4096)
                        self._reap()
                    elif not self._handle():
                        return
        finally:
            for process in self._running.values():
                _kill_group(process.pid, signal.SIGKILL)

    def _handle(self) -> bool:
        received = _receive(self._connection)
        if received is None:
            return False
        message, descriptors = received
        try:
            match message:
                case Spawn():
                    self._spawn(message, descriptors)
                case Signal():
                    self._signal(message)
                case _:
                    return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _spawn(self, command: Spawn, streams: list[int]) -> None:
        step = "workdir"
        try:
            # Otherwise a missing directory would look like a missing program.
            os.close(os.open(command.workdir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            if not os.access(command.workdir, os.X_OK):
                raise PermissionError(13, "not allowed")
            step = "program"
            process = subprocess.Popen(  # noqa: S603 - the caller's request; no shell
                command.arguments,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                cwd=command.workdir,
                env=command.environment,
                start_new_session=True,
            )
        except BlockingIOError as error:
            self._answer(NotStarted(command.id, "process", error.errno or 0))
        except MemoryError:
            self._answer(NotStarted(command.id, "process", 12))
        except OSError as error:
            self._answer(NotStarted(command.id, step, error.errno or 0))
        else:
            self._running[command.id] = process
            self._ids[process.pid] = command.id

    def _signal(self, message: Signal) -> None:
        process = self._running.get(message.id)
        if process is not None:
            self._signalled.add(message.id)
            _kill_group(process.pid, message.number)

    def _reap(self) -> None:
        for pid in _ended_children():
            command = self._ids.pop(pid, None)
            if command in self._signalled:
                # Its number is not reused until it is reaped.
                _kill_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if command is None:
                continue
            self._signalled.discard(command)
            process = self._running.pop(command)
            # It is reaped here, and the Popen object must not try it again.
            process.returncode = os.waitstatus_to_exitcode(status)
            self._answer(Exited(command, status))

    def _answer(self, message: Message) -> None:
        _send(self._connection, message)


def _ended_children() -> Iterator[int]:
    """Yield children that have ended; the caller reaps each before the next."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        yield ended.si_pid


def _kill_group(leader: int, number: int) -> None:
    # The group may have ended, or its processes may have changed their user.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and the descriptors behind its text; None at the end."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, 1, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not data or not descriptors:
        return None
    text, *streams = descriptors
    try:
        return decode(read_file(text)), streams
    finally:
        os.close(text)


def _send(connection: socket.socket, message: Message) -> None:
    # The next receive notices that the supervisor has ended.
    with suppress(ConnectionError):
        connection.send(encode(message)[:MAX_REPLY_BYTES])


def _nothing(_number: int, _frame: FrameType | None) -> None:
    return
