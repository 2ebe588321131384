"""A command's request, checked, and its exit code (EXE-3, EXE-5, EXE-16)."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import exec_pb2
from openshell_files_protocol.reasons import Reason

#: Exit codes of shells for a program that does not exist, and for one that cannot be run.
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

#: Exit code of `timeout`, and of the real system.
TIMED_OUT: Final = 124

_SIGNALLED: Final = 128

#: Largest argument or value, as upstream's gateway checks it; the kernel's is 128 KiB.
_MAX_VALUE_BYTES: Final = 32 * 1024
_MAX_ARGUMENTS: Final = 1024
_MAX_WORKDIR_BYTES: Final = 4096

#: Messages of the shell of an ssh session.
_SHELL_WORDS: Final[Mapping[int, str]] = {
    errno.ENOENT: "command not found",
    errno.EACCES: "Permission denied",
    errno.EPERM: "Permission denied",
    errno.EISDIR: "Is a directory",
    errno.ENOTDIR: "Not a directory",
    errno.ENOEXEC: "cannot execute: required file not found or exec format error",
    errno.E2BIG: "Argument list too long",
    errno.ELOOP: "Too many levels of symbolic links",
    errno.ENAMETOOLONG: "File name too long",
    errno.ETXTBSY: "Text file busy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that can be started.

    Attributes:
        arguments: the program and its arguments; no shell interprets them.
        workdir: absolute inside the sandbox.
        environment: variables in addition to the sandbox's.
        stdin: all of standard input.
        timeout: seconds that it may run, or None.
    """

    arguments: tuple[str, ...]
    workdir: str
    environment: Mapping[str, str]
    stdin: bytes
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Unstartable:
    """The result of a program that could not be run: an exit code and a line on stderr."""

    exit_code: int
    message: str


def command_of(request: exec_pb2.ExecSandboxRequest, workdir: str) -> Command:
    """Check a request, since the sandbox does not rely on the gateway's check.

    Args:
        request: as the gateway passed it on.
        workdir: of the sandbox, absolute inside it.

    Raises:
        TransferError: INVALID_REQUEST with the field at fault.
    """
    if request.tty:
        raise invalid("tty", "this sandbox has no terminals; run the command without one")
    if not request.command or not request.command[0]:
        raise invalid("command", "is empty")
    if len(request.command) > _MAX_ARGUMENTS:
        raise invalid(
            "command", f"has {len(request.command)} arguments, at most {_MAX_ARGUMENTS} are allowed"
        )
    for argument in request.command:
        _check_text("command", argument, _MAX_VALUE_BYTES)
    for name, value in request.environment.items():
        if not name or "=" in name:
            raise invalid("environment", f"{name!r} cannot be the name of a variable")
        _check_text("environment", name, _MAX_VALUE_BYTES)
        _check_text("environment", value, _MAX_VALUE_BYTES)
    _check_text("workdir", request.workdir, _MAX_WORKDIR_BYTES)
    seconds = seconds_of(request.execution_timeout)
    if seconds < 0:
        raise invalid("execution_timeout", "is negative")
    return Command(
        arguments=tuple(request.command),
        workdir=posixpath.join(workdir, request.workdir),
        environment=dict(request.environment),
        stdin=request.stdin,
        timeout=seconds or None,
    )


def _check_text(field: str, text: str, limit: int) -> None:
    if "\0" in text:
        raise invalid(field, "contains a NUL character")
    if len(text.encode()) > limit:
        raise invalid(field, f"contains a text of more than {limit} bytes")


def exit_code(status: int) -> int:
    """Return the exit code of a command: its own, or 128 + n if signal n ended it.

    Args:
        status: as `os.waitstatus_to_exitcode` returns it.
    """
    return status if status >= 0 else _SIGNALLED - status


def not_started(step: str, code: int, command: Command) -> Unstartable | TransferError:
    """Return the result of a command that was not started.

    Args:
        step: that failed: `workdir`, `program` or `process`.
        code: errno.
        command: that was requested.
    """
    words = errno.errorcode.get(code, str(code))
    match step:
        case "workdir":
            return invalid("workdir", f"{command.workdir} is not a directory that commands can use ({words})")
        case "program":
            name = command.arguments[0]
            missing = code in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
            said = _SHELL_WORDS.get(code, words)
            if code == errno.ENOENT and "/" in name:
                said = "No such file or directory"
            return Unstartable(NOT_FOUND if missing else NOT_EXECUTABLE, f"{name}: {said}\n")
        case _:
            return TransferError(
                Reason.COMMAND_NOT_STARTED, f"no process could be started for the command ({words})"
            )
