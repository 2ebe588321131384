"""Error messages of the command line.

Messages of the SDK name arguments. A person at a terminal needs the options and
variables of this command, and the subject of the error: the sandbox, the
gateway, or the file.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from openshell_files_protocol.reasons import Code, Reason

from openshell_files.cli.handshake import tls_failures
from openshell_files.errors import FilesError, LocalFileError, LocalIsADirectory, LocalReason

#: Fixes by reason that replace those of the error table.
_FIXES: Final[Mapping[str, str]] = {
    Reason.TOKEN_MISSING.name: "Set OPENSHELL_FILES_TOKEN, or give --token-file FILE.",
    LocalReason.MAX_BYTES_EXCEEDED: "Raise --max-bytes, or ask for a part with --offset and --length.",
    LocalReason.TIMEOUT: "Allow more time with --timeout.",
    LocalReason.SOURCE_NOT_REPLAYABLE: "Repeat the command, or upload from a regular file: after a broken "
    "connection this command reads it again.",
    LocalReason.OUTCOME_UNKNOWN: "Check with `openshell-files stat` before you send it again.",
    Code.NOT_FOUND.name: "Check the names of sandbox and path.",
    Reason.SANDBOX_NOT_FOUND.name: "Check its name and --workspace, and whether you are a member.",
    Reason.WORKSPACE_NOT_FOUND.name: "Check --workspace.",
    Reason.SCOPE_REQUIRED.name: "Get a token with the scope. With --issuer, request it with --scope or "
    'OPENSHELL_FILES_OIDC_SCOPE ("sandbox:read sandbox:write"), and let the issuer allow it to the client.',
    Reason.PATH_FORBIDDEN.name: "Choose a path on an ordinary file system of the sandbox.",
    # The command itself chooses chunks, offsets and request ids.
    Reason.DIGEST_UNSUPPORTED.name: "Ask for sha256, which every server takes.",
    Reason.CHUNK_TOO_LARGE.name: "Report it as a bug: this command sent a chunk above the server's limit.",
    Reason.OFFSET_MISMATCH.name: "Repeat the command.",
    Reason.REQUEST_ID_PAYLOAD_MISMATCH.name: "Repeat the command.",
    Reason.UPLOAD_UNKNOWN.name: "`openshell-files uploads NAME` lists yours.",
    Reason.TOO_MANY_UPLOADS.name: "`openshell-files uploads NAME` lists yours, `openshell-files abort` frees one.",
}

#: Fixes that differ between uploads and downloads.
_UPLOAD_FIXES: Final[Mapping[str, str]] = {
    Reason.PARENT_NOT_FOUND.name: "Create it in the sandbox, or give --parents.",
    Reason.LEAF_IS_LINK.name: "Give --follow to write to the link's target, or --replace-link.",
    Reason.FILE_EXISTS.name: "Choose another name, or leave --if-absent out.",
    Reason.IS_A_DIRECTORY.name: "End DEST with `/` to upload into that directory under LOCAL's name.",
}
_READ_FIXES: Final[Mapping[str, str]] = {
    Reason.PARENT_NOT_FOUND.name: "Check the path in the sandbox.",
    Reason.LEAF_IS_LINK.name: "Give --follow to read the link's target.",
    Reason.IS_A_DIRECTORY.name: "To download a directory leave options out that are for files, and standard output.",
    Reason.FILE_CHANGED.name: "Repeat the command, or give --allow-changes for a log that grows.",
}

#: Errors about the sandbox, not about a file in it.
_OF_SANDBOX: Final = frozenset(
    {
        Reason.SANDBOX_NOT_FOUND.name,
        Reason.SANDBOX_NOT_READY.name,
        Reason.SUPERVISOR_NOT_CONNECTED.name,
        Reason.FILES_UNSUPPORTED.name,
        Reason.SESSION_OUTDATED.name,
        Reason.SUPERVISOR_FLOODS.name,
        Reason.RELAY_REFUSED.name,
        Reason.RELAY_TIMEOUT.name,
        Reason.TOO_MANY_UPLOADS.name,
    }
)

#: Errors about the gateway, or about the caller's rights there.
_OF_GATEWAY: Final = frozenset(
    {
        Reason.GATEWAY_SHUTTING_DOWN.name,
        Reason.ISSUER_UNAVAILABLE.name,
        Reason.ROLE_REQUIRED.name,
        Reason.SCOPE_REQUIRED.name,
        Reason.PRINCIPAL_NOT_ALLOWED.name,
        Code.UNAVAILABLE.name,
        Code.CANCELLED.name,
    }
)

#: Substrings of gRPC's message after a TLS handshake that failed because of the certificate.
_UNTRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "ostname", "Peer name")
#: Substrings after a TLS handshake that failed for another cause, most often a port without TLS.
_NO_TLS: Final = ("SSL", "TLS", "Tls", "andshake")

#: Substring after a connection to an address without a server.
_REFUSED: Final = "onnection refused"

#: Field of the request at the beginning of a message; the line names the path instead.
_FIELD: Final = re.compile(r"^((metadata\.)?remote_path|(start\.)?path): ")

#: Fixes for a pipe or a standard stream, by the error number of the operating system.
_STREAM_FIXES: Final[Mapping[int | None, str]] = {
    errno.EPIPE: "The program that reads the pipe closed it early: let that program read to the end, or request a part "
    "with --length.",
    errno.EBADF: "It was closed when the command started: leave it open, or redirect it, as in `{sign}`.",
}

_STREAMS: Final[Mapping[str, str]] = {"<stdin>": "standard input", "<stdout>": "standard output"}


class Retries:
    """Record of a command's last retry, for the line that names the awaited peer.

    Attributes:
        last: error of the failed attempt, and the number of the next attempt; None after progress.
    """

    def __init__(self) -> None:
        self.last: tuple[FilesError, int] | None = None

    def note(self, error: FilesError, number: int) -> None:
        """Record a retry; see `RetryPolicy.on_retry`."""
        self.last = error, number

    def reset(self) -> None:
        """Forget the retry, since content moved."""
        self.last = None


@dataclass(frozen=True, slots=True)
class Where:
    """Subject of a command.

    Attributes:
        sandbox: name or id of the sandbox.
        by_id: `sandbox` is an id.
        workspace: of the name.
        endpoint: the gateway.
        path: the file in the sandbox, or the upload; empty for none.
        uploading: the command writes to the sandbox.
        encrypted: the connection uses TLS.
        authority: PEM file of the trusted certificates, if one was given.
        target: local file that a download writes; empty for none.
        retries: of the command.
        own_fix: returns the fix of this command for an error; empty for the usual fix.
    """

    sandbox: str
    by_id: bool
    workspace: str
    endpoint: str
    path: str = ""
    uploading: bool = False
    encrypted: bool = False
    authority: Path | None = None
    target: str = ""
    retries: Retries = field(default_factory=Retries)
    own_fix: Callable[[FilesError], str] = lambda _error: ""

    def sandbox_words(self) -> str:
        """Return the words that name the sandbox in a message."""
        if self.by_id:
            return f"sandbox {self.sandbox} (id)"
        return f"sandbox {self.sandbox} in workspace {self.workspace}"


def failure_words(error: FilesError, where: Where) -> str:
    """Return the failure, its subject and its fix in one line."""
    if isinstance(error, LocalFileError):
        return _local_words(error, where)
    if error.code is Code.UNAVAILABLE and error.reason == Code.UNAVAILABLE.name:
        return _unreachable_words(error, where)
    subject = _subject(error, where)
    message = _FIELD.sub("", _with_violations(error))
    # A missing token concerns neither gateway nor file.
    named = (
        error.reason == LocalReason.CREDENTIALS
        or _names(message, subject)
        or (error.reason in _OF_SANDBOX and f"{where.sandbox!r}" in message)
    )
    what = message if named else f"{subject}: {message}"
    line = f"{what.rstrip('.')} [{error.reason}]"
    fix = fix_of(error, where)
    return f"{line}. {fix}" if fix else line


def _with_violations(error: FilesError) -> str:
    """Return the message with the description of each wrong field that it lacks."""
    lacking = [v for v in error.field_violations if v.description not in error.message]
    return "; ".join([error.message.rstrip("."), *(f"{v.field}: {v.description}" for v in lacking)])


def _names(message: str, subject: str) -> bool:
    """Return whether a message has the subject as a whole word: the file `x` is not in the word "index"."""
    return re.search(rf"(?<![\w./-]){re.escape(subject)}(?![\w/-])", message) is not None


def fix_of(error: FilesError, where: Where) -> str:
    """Return the fix for a person at this command."""
    own_fix = where.own_fix(error)
    if own_fix:
        return own_fix
    if isinstance(error, LocalFileError) and error.errno in _STREAM_FIXES:
        return _STREAM_FIXES[error.errno].format(sign="< FILE" if where.uploading else "> FILE")
    if isinstance(error, LocalIsADirectory) and where.uploading:
        return "Give the directory itself as LOCAL."
    if isinstance(error, LocalFileError) and error.errno == errno.ENOENT and error.path == where.target != "":
        return f"Create the directory {os.path.dirname(where.target)}, or give --parents."
    own = _UPLOAD_FIXES if where.uploading else _READ_FIXES
    return own.get(error.reason) or _FIXES.get(error.reason) or error.fix


def peer_words(error: FilesError, where: Where) -> str:
    """Return the peer that a retry waits for: the gateway, or the sandbox behind it."""
    return f"gateway {where.endpoint}" if error.reason in _OF_GATEWAY else where.sandbox_words()


def _subject(error: FilesError, where: Where) -> str:
    if error.reason in _OF_SANDBOX:
        return where.sandbox_words()
    if error.reason == Reason.WORKSPACE_NOT_FOUND.name:
        return f"workspace {where.workspace}"
    if error.reason in _OF_GATEWAY or error.code is Code.UNAUTHENTICATED:
        return f"gateway {where.endpoint}"
    return error.path or where.path or where.sandbox_words()


def _local_words(error: LocalFileError, where: Where) -> str:
    words = error.message
    for name, known in _STREAMS.items():
        words = words.replace(name, known)
    line = f"{words.rstrip('.')} [{error.reason}]"
    fix = fix_of(error, where)
    return f"{line}. {fix}" if fix else line


def _unreachable_words(error: FilesError, where: Where) -> str:
    """Return why the gateway could not be reached, without gRPC's list of addresses."""
    details = error.message
    if where.encrypted and _REFUSED in details:
        details = f"{details}; {tls_failures(where.endpoint, where.authority)}"
    if where.encrypted and any(word in details for word in _UNTRUSTED):
        what, fix = (
            "its certificate is not trusted, or is not for this name",
            "Give the PEM file of its CA with --tls-ca, and the name that the certificate has.",
        )
    elif where.encrypted and any(word in details for word in _NO_TLS):
        what, fix = (
            "the TLS handshake failed",
            "Use http:// if the port speaks no TLS; give --tls-ca if its certificate has a CA of its own.",
        )
    elif _REFUSED in details:
        what, fix = "nothing listens there", "Check --endpoint, or wait for the gateway."
    elif "No such file" in details:
        what, fix = "there is no such socket", "Check --endpoint, or wait for the gateway."
    elif "resol" in details or "DNS" in details or "Domain name" in details:
        what, fix = "its name is not known", "Check --endpoint."
    elif not where.encrypted and ("Socket closed" in details or "preface" in details or "GOAWAY" in details):
        what, fix = "the connection was closed at once", "Use https:// or --tls-ca if the gateway speaks TLS."
    else:
        what, fix = details.rstrip("."), error.fix
    return f"gateway {where.endpoint}: {what} [{error.reason}]. {fix}"
