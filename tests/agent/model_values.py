"""Values of the agent's model: limits, files, requests, uploads and streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from digest_values import SHA256, Algorithm
from openshell_files_protocol.pb.openshell.v1.files_pb2 import Digest
from openshell_files_protocol.reasons import Reason

MAX_FILE: Final = 48
MAX_STAGED: Final = 24
MAX_UPLOADS: Final = 4
MAX_OWN: Final = 3
EXPIRY: Final = 100
TOMBSTONE: Final = 900

State = Literal["RECEIVING", "PUBLISHED", "ABORTED", "EXPIRED"]
#: Where a finish can be stopped by the death of the agent.
Stop = Literal["received", "flushed", "renaming", ""]


class Refusal(Exception):  # noqa: N818 - what the protocol answers, not a fault of the model
    """The protocol refuses this."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class Died(Exception):  # noqa: N818 - an event of the model
    """The agent was killed at the point that was asked for."""


@dataclass(frozen=True)
class Entry:
    """What is at a path."""

    kind: Literal["file", "directory", "link"]
    content: bytes = b""
    mode: int = 0o644


@dataclass(frozen=True)
class Condition:
    """CND-1, CND-2; `version` is compared with what StatFile said last."""

    kind: Literal["absent", "present", "digest", "version"]
    digest: Digest | None = None
    version: str = ""


@dataclass(frozen=True)
class Wish:
    """The metadata of an upload."""

    path: str
    principal: str = "alice"
    size: int = 0
    explicit: bool = True
    mode: int = 0
    condition: Condition | None = None
    request_id: str = ""
    digests: tuple[Algorithm, ...] = ()

    @property
    def declared(self) -> int | None:
        return None if self.explicit and not self.size else self.size

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """What must stay the same (RSM-11)."""
        return self.path, self.declared, self.mode, self.condition

    @property
    def accepted(self) -> tuple[Algorithm, ...]:
        """DIG-2"""
        return self.digests or (SHA256,)

    @property
    def algorithm(self) -> Algorithm | None:
        """DIG-2, DIG-9: of the digest of an upload that this begins."""
        return self.accepted[0] if self.explicit or self.request_id or self.digests else None


@dataclass(eq=False)
class Upload:
    """An upload that can be found again, or the only stream's own."""

    wish: Wish
    named: bool
    updated: int
    upload_id: str = ""
    epoch: int = 1
    state: State = "RECEIVING"
    #: What the agent believes to have staged, and what is on the disk (None: removed).
    staged: bytes = b""
    disk: bytes | None = b""
    occupied: int = 0
    #: Whether the agent has the digest of what it staged, or has to read it again.
    hashed: bool = True
    holder: Stream | None = None
    failure: str = ""
    result: bytes = b""
    identical: bool = False
    #: Of the digest, if it is not what the wish says: that of a source that was there already.
    found_by: Algorithm | None = None

    @property
    def algorithm(self) -> Algorithm | None:
        return self.wish.algorithm if self.found_by is None else self.found_by


@dataclass(eq=False)
class Stream:
    """One call of UploadFile."""

    upload: Upload
    explicit: bool
    position: int
    replay: bool
    kind: str = ""
