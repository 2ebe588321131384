"""What supervisor and exec host say to each other.

One message per packet of a socket, JSON behind a descriptor: the first one
that comes with a message is a memory file with the text, so that an argument
list of any length fits. The replies are short and are the packet itself.
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
    """How the host prepares itself.

    Attributes:
        root: the directory that commands see as `/`.
        view: `auto`, `required` or `none`.
        prefixes: directories of this machine that commands find at the same
            path, for reading; the interpreter's.
        hidden: paths inside the root that commands find empty, as paths on
            this machine.
        user: user and group id to become, or None.
        confine: `auto`, `required` or `none`.
    """

    root: str
    view: str
    prefixes: list[str]
    hidden: list[str]
    user: tuple[int, int] | None
    confine: str


class HostReady(NamedTuple):
    """What the host could do.

    Attributes:
        view: whether commands see the root as `/`.
        reason: why not, or what the view lacks.
        landlock: version in use; 0 if none.
        landlock_reason: why none.
        failed: why the host cannot serve at all.
        covered: places where commands see something else than the sandbox's
            files, relative to the root.
    """

    view: bool = False
    reason: str = ""
    landlock: int = 0
    landlock_reason: str = ""
    failed: str = ""
    covered: Sequence[str] = ()


class Spawn(NamedTuple):
    """Start a command; comes with its three standard streams."""

    id: int
    arguments: list[str]
    environment: dict[str, str]
    workdir: str


class Signal(NamedTuple):
    """Send a signal to a command's process group; last: and kill what is left when it ends."""

    id: int
    number: int


class Exited(NamedTuple):
    """A command ended, with this wait status."""

    id: int
    status: int


class NotStarted(NamedTuple):
    """A command was not started.

    Attributes:
        id: of the command.
        step: `workdir`, `program` or `process`, whatever it failed at.
        errno: why.
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
    """Read the text of a message of the other side, which is ours and trusted."""
    name, *values = json.loads(data)
    kind: Any = _TYPES[name]
    message: Message = kind(*values)
    return message


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file in memory, at its start.

    Raises:
        OSError: there is no memory or no descriptor left.
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
