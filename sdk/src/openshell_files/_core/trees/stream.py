"""Checks the messages of the other side of a tree's stream: their order, and what a message alone shows.

The entries and replies themselves are checked by the engine, which treats the other side as hostile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import MAX_PATH_BYTES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._core.answer_check import fault_of
from openshell_files._core.trees.account import shown
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import FilesError

UPLOAD: Final = "UploadTree"
DOWNLOAD: Final = "DownloadTree"

#: What the sender of a download announces or carries.
Incoming = trees_pb2.TreeManifest | trees_pb2.TreeContent


def broken(method: str, fault: str) -> FilesError:
    """Return the error of a stream that breaks the protocol."""
    return error_from_reason(
        Reason.AGENT_PROTOCOL_ERROR, f"the answer to {method} breaks the protocol: {fault}"
    )


class _Started:
    """The part that both directions share: the first message.

    Args:
        method: name of the method, for messages.
        digests: the algorithms that the caller accepts.

    Attributes:
        path: path of the top directory in the sandbox; empty before the first message.
        algorithm: of all digests of the stream; None before the first message.
    """

    def __init__(self, method: str, digests: Sequence[DigestAlgorithm]) -> None:
        self._method = method
        self._digests = digests
        self.path = ""
        self.algorithm: DigestAlgorithm | None = None

    @property
    def started(self) -> bool:
        """True if the first message has come."""
        return self.algorithm is not None

    def _start(self, message: trees_pb2.TreeStarted) -> None:
        if self.started:
            raise broken(self._method, "it has a second first message")
        algorithm = DigestAlgorithm.known(message.digest_algorithm)
        if algorithm is None or algorithm not in self._digests:
            raise broken(self._method, f"its digest is {message.digest_algorithm}, which was not requested")
        if not message.path.startswith(b"/") or b"\0" in message.path or len(message.path) > MAX_PATH_BYTES:
            raise broken(self._method, f"{message.path[:100]!r} is no absolute path")
        self.path = shown(message.path)
        self.algorithm = algorithm

    def _check_order(self, kind: str | None, *, over: bool) -> None:
        if kind is None:
            raise broken(self._method, "a message is empty")
        if over:
            raise broken(self._method, f"a message follows the last one: {kind}")
        if not self.started and kind not in {"started", "working"}:
            raise broken(self._method, f"it begins with {kind}")

    def _lost(self) -> FilesError:
        return error_from_reason(Reason.RELAY_LOST, "the stream ended before its last message")


class UploadAnswers(_Started):
    """Answers to UploadTree.

    Args:
        digests: the algorithms that the caller accepts.
        dry_run: the top directory need not exist.

    Attributes:
        result: the last message; None before it.
    """

    def __init__(self, digests: Sequence[DigestAlgorithm], *, dry_run: bool) -> None:
        super().__init__(UPLOAD, digests)
        self._dry_run = dry_run
        self.result: trees_pb2.UploadTreeResult | None = None

    def take(self, data: bytes) -> trees_pb2.TreeReply | None:
        """Take a message; return the reply in it, if it has one.

        Raises:
            InternalError: it breaks the protocol.
        """
        try:
            message = trees_pb2.UploadTreeResponse.FromString(data)
        except DecodeError:
            raise broken(UPLOAD, "it cannot be parsed") from None
        kind = message.WhichOneof("payload")
        self._check_order(kind, over=self.result is not None)
        match kind:
            case "started":
                self._start(message.started)
            case "reply":
                return message.reply
            case "result":
                self._check_result(message.result)
                self.result = message.result
            case _:
                pass
        return None

    def _check_result(self, result: trees_pb2.UploadTreeResult) -> None:
        if self._dry_run:
            return
        if not result.HasField("directory"):
            raise broken(UPLOAD, "result: directory is missing")
        if fault := fault_of(result):
            raise broken(UPLOAD, f"result: {fault}")

    def ended(self) -> trees_pb2.UploadTreeResult:
        """Return the result at the end of a stream with status OK.

        Raises:
            Unavailable: the stream had none (TRE-53).
        """
        if self.result is None:
            raise self._lost()
        return self.result


class DownloadAnswers(_Started):
    """Answers to DownloadTree.

    Attributes:
        end: the last message; None before it.
    """

    def __init__(self, digests: Sequence[DigestAlgorithm]) -> None:
        super().__init__(DOWNLOAD, digests)
        self.end: trees_pb2.TreeEnd | None = None

    def take(self, data: bytes) -> Incoming | None:
        """Take a message; return the entries or the content in it.

        Raises:
            InternalError: it breaks the protocol.
        """
        try:
            message = trees_pb2.DownloadTreeResponse.FromString(data)
        except DecodeError:
            raise broken(DOWNLOAD, "it cannot be parsed") from None
        kind = message.WhichOneof("payload")
        self._check_order(kind, over=self.end is not None)
        match kind:
            case "started":
                self._start(message.started)
            case "manifest":
                return message.manifest
            case "content":
                return message.content
            case "end":
                self.end = message.end
            case _:
                pass
        return None

    def ended(self) -> trees_pb2.TreeEnd:
        """Return the end of the tree at the end of a stream with status OK.

        Raises:
            Unavailable: the stream had none (TRE-53).
        """
        if self.end is None:
            raise self._lost()
        return self.end
