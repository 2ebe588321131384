"""What a caller may ask for: the SDK's own words for the protocol's choices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike
from pathlib import PurePosixPath
from typing import Final, Literal

from openshell_files import _values as values

#: As results say it: the algorithm, and 32 bytes in hexadecimal.
_DIGEST: Final = re.compile("(sha256|blake3):[0-9a-f]{64}")

#: Which digest content is compared by. "auto" is BLAKE3 where the server
#: computes it, else SHA-256 (DIG-2). The other two insist: a server that does
#: not compute BLAKE3 refuses it with DIGEST_UNSUPPORTED.
DigestChoice = Literal["auto", "sha256", "blake3"]


#: A path in a sandbox.
RemotePath = str | PurePosixPath


class Durability(StrEnum):
    """What survives a power loss in the sandbox (UPL-9)."""

    #: The file is replaced in one step, but a power loss may undo it.
    RENAME = "rename"
    #: File and directory are flushed to the device before the answer.
    FSYNC = "fsync"


class LeafLink(StrEnum):
    """What to do when the last component of a remote path is a symbolic link (PTH-4)."""

    #: Refuse with `LeafIsLink`.
    REFUSE = "refuse"
    #: Use the file that the link names, inside the sandbox.
    FOLLOW = "follow"
    #: Replace the link itself. Only for uploads.
    REPLACE = "replace"
    #: Describe the link itself. Only for `stat`, without a digest.
    NOFOLLOW = "nofollow"


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be true of the destination when the file is published (CND-1, CND-2).

    Made by `absent`, `present`, `digest` and `version`.

    Attributes:
        kind: which of the four.
        value: the digest or version, empty for the other two.
    """

    kind: str
    value: str = ""

    def __post_init__(self) -> None:
        values.text("condition", self.kind)
        values.text("condition", self.value)
        if self.kind not in {"absent", "present", "digest", "version"}:
            values.wrong_value("condition", f"there is none of kind {self.kind[:100]!a}")
        if bool(self.value) is (self.kind in {"absent", "present"}):
            values.wrong_value("condition", f"{self.kind} takes {'no value' if self.value else 'a value'}")
        if self.kind == "digest" and not _DIGEST.fullmatch(self.value):
            values.wrong_value("condition", "a digest is sha256: or blake3: and 64 hexadecimal digits")

    @staticmethod
    def absent() -> Condition:
        """Publish only where nothing is; one of several concurrent callers wins."""
        return Condition("absent")

    @staticmethod
    def present() -> Condition:
        """Publish only over a file that is there."""
        return Condition("present")

    @staticmethod
    def digest(digest: str) -> Condition:
        """Publish only over a file with this digest.

        Args:
            digest: `sha256:` or `blake3:` and 64 hexadecimal digits, as
                `FileInfo.digest` gave it.

        Raises:
            ValueError: it is no such digest.
        """
        return Condition("digest", values.text("digest", digest, empty=False).lower())

    @staticmethod
    def version(version: str) -> Condition:
        """Publish only over a file with this version, as `FileInfo.version` gave it.

        Raises:
            ValueError: the version is empty.
        """
        values.text("version", version, empty=False)
        return Condition("version", version)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a client keeps trying what the error table says may be tried again.

    The pause before try n is random between 0 and
    `initial_delay * multiplier**n`, at most `max_delay` ("full jitter"); a
    pause that the server asked for is kept.

    A gateway that has answered this client before and is away now is waited
    for longer than one that never did: the endpoint is right, and it may be
    starting again. The defaults outlast ten seconds without a gateway, and
    give up after half a minute; a wrong endpoint is told of after 4 seconds,
    8 at most.

    Attributes:
        attempts: tries that bring nothing before giving up; an upload or
            download that advanced starts counting anew. 1 never tries again.
        outage_attempts: the same while gateway, supervisor or connection are
            away (`Unavailable`) after the gateway has answered this client;
            fewer than `attempts` changes nothing.
        initial_delay: upper bound of the first pause, in seconds.
        max_delay: upper bound of every pause, in seconds.
        multiplier: growth of the bound.
        max_server_delay: a longer pause asked for by the server is not
            waited for, in seconds.
    """

    attempts: int = 6
    initial_delay: float = 0.25
    max_delay: float = 5.0
    multiplier: float = 2.0
    max_server_delay: float = 60.0
    outage_attempts: int = 16

    def __post_init__(self) -> None:
        values.number("attempts", self.attempts, least=1)
        values.number("outage_attempts", self.outage_attempts)
        values.seconds("initial_delay", self.initial_delay, zero=True)
        values.seconds("max_delay", self.max_delay, zero=True)
        values.seconds("max_server_delay", self.max_server_delay, zero=True)
        if values.seconds("multiplier", self.multiplier) < 1:
            values.wrong_value("multiplier", f"must not be below 1, and is {self.multiplier:g}")


#: Try once; every failure is the caller's to handle.
NO_RETRY: Final = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """How the gateway is recognised, and how this client shows who it is.

    Attributes:
        ca_path: PEM certificates to trust; None trusts the system's.
        cert_path: this client's PEM certificate, for mutual TLS.
        key_path: its PEM key.
    """

    ca_path: str | PathLike[str] | None = None
    cert_path: str | PathLike[str] | None = None
    key_path: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.cert_path is None) != (self.key_path is None):
            values.wrong_value("cert_path and key_path", "give both or neither")
        for name in ("ca_path", "cert_path", "key_path"):
            if (path := getattr(self, name)) is not None:
                values.local_path(name, path)
