"""What the drivers need of the two roles of a tree, whose engines are in `openshell_files_disk.trees`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

from openshell_files._core.trees.requests import Outgoing
from openshell_files._core.trees.stream import Incoming


class SendingRole(Protocol):
    """The sender. Methods block, but not `reply`, and raise `TransferError`."""

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of all digests."""
        ...

    @algorithm.setter
    def algorithm(self, algorithm: DigestAlgorithm, /) -> None: ...

    def next(self) -> Outgoing | None:
        """Return the next message; None if a reply has to come first."""
        ...

    def reply(self, reply: trees_pb2.TreeReply, /) -> None:
        """Take a reply; another thread may run `next`."""
        ...

    def close(self) -> None:
        """Close everything."""
        ...


class ReceivingRole(Protocol):
    """The receiver. Methods block, and raise `TransferError`."""

    @property
    def deleted_entries(self) -> int:
        """Deleted entries, those in deleted directories included."""
        ...

    @property
    def created(self) -> bool:
        """True if the top directory was made."""
        ...

    @property
    def durable(self) -> bool:
        """True if everything was flushed."""
        ...

    def take(self, message: Incoming, /) -> trees_pb2.TreeReply:
        """Take a message of the sender."""
        ...

    def finish(self, end: trees_pb2.TreeEnd, /) -> Generator[trees_pb2.TreeReply, None, None]:
        """Finish the tree, in steps."""
        ...

    def close(self) -> None:
        """Remove what is not in place, and close everything."""
        ...
