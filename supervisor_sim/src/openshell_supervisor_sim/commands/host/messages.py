"""The messages between supervisor and exec host.

A message is one packet of a socket. The first descriptor that comes with a request is a memory file
with its JSON text, so that an argument list of any length fits. A reply is short: the packet is its
text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

#: Descriptors with a message: its text, and a command's standard streams.
MAX_DESCRIPTORS: Final = 4
MAX_REPLY_BYTES: Final = 16 * 1024


class HostSettings(NamedTuple):
    """The settings of the host.

    Attributes:
        root: the directory that commands see as `/`.
        view: `auto`, `required` or `none`.
        prefixes: directories of this machine that commands may read at the same path: those of the
            interpreter.
        hidden: paths inside the root that are empty for commands, as paths on this machine.
        user: user and group id that commands get, or None.
        confine: `auto`, `required` or `none`.
    """

    root: str
    view: str
    prefixes: list[str]
    hidden: list[str]
    user: tuple[int, int] | None
    confine: str


class HostReady(NamedTuple):
    """The outcome of the host's preparation.

    Attributes:
        view: True if commands see the root as `/`.
        reason: for a missing view, or the parts that the view lacks.
        landlock: version in use; 0 if none.
        landlock_reason: for a missing Landlock.
        failed: reason why the host cannot serve at all.
        covered: directories over which something else is mounted for commands, relative to the
            root.
    """

    view: bool = False
    reason: str = ""
    landlock: int = 0
    landlock_reason: str = ""
    failed: str = ""
    covered: Sequence[str] = ()


class Spawn(NamedTuple):
    """Request to start a command; comes with its three standard streams."""

    id: int
    arguments: list[str]
    environment: dict[str, str]
    workdir: str


class Signal(NamedTuple):
    """Request to send a signal to a command's process group; the rest of the group is killed when the command ends."""

    id: int
    number: int


class Exited(NamedTuple):
    """Reply: a command ended with this wait status."""

    id: int
    status: int


class NotStarted(NamedTuple):
    """Reply: a command was not started.

    Attributes:
        id: of the command.
        step: that failed: `workdir`, `program` or `process`.
        errno: of the failure.
    """

    id: int
    step: str
    errno: int


_TYPES: Final[Mapping[str, type[NamedTuple]]] = {
    kind.__name__: kind for kind in (HostSettings, HostReady, Spawn, Signal, Exited, NotStarted)
}

Message = HostSettings | HostReady | Spawn | Signal | Exited | NotStarted


def encode(message: Message) -> bytes:
    """Return the text of a message."""
    return json.dumps([type(message).__name__, *message]).encode()


def decode(data: bytes) -> Message:
    """Parse the text of a message; the other side is trusted."""
    name, *values = json.loads(data)
    kind: Any = _TYPES[name]
    message: Message = kind(*values)
    return message


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory, at its start.

    Raises:
        OSError: no memory or no descriptor is free.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_file(descriptor: int) -> bytes:
    """Return the content of a memory file."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)
