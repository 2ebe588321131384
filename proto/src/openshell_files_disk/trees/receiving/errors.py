"""EntryError: what prevents one entry of a tree, while the others go on (TRE-34)."""

from __future__ import annotations

from openshell_files_protocol.errors import TransferError


class EntryError(TransferError):
    """An entry cannot get into place. Any other TransferError ends the stream."""
