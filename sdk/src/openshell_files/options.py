"""Options of the client and of its calls, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from os import PathLike
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypedDict, TypeVar

from openshell_files import _values as values
from openshell_files.errors import FilesError

#: A digest in a result: the algorithm, and 32 bytes in hexadecimal.
_DIGEST: Final = re.compile("(sha256|blake3):[0-9a-f]{64}")

#: Digest of a transfer. "auto" is BLAKE3 if the server computes it, else
#: SHA-256 (DIG-2). The other two accept no other algorithm: a server without
#: BLAKE3 refuses "blake3" with DIGEST_UNSUPPORTED.
DigestChoice = Literal["auto", "sha256", "blake3"]

#: Checks the value of a named option and returns it in its proper type.
Rule = Callable[[str, object], Any]

#: A path in a sandbox.
RemotePath = str | PurePosixPath


class Durability(StrEnum):
    """Durability of an upload: the changes that survive a power loss in the sandbox (UPL-40, UPL-41)."""

    #: The file is replaced atomically, but a power loss may undo that.
    RENAME = "rename"
    #: File and directory are flushed to the device before the answer.
    FSYNC = "fsync"


class LeafLink(StrEnum):
    """Treatment of a symbolic link at the end of a remote path (PTH-14)."""

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
    """Condition on the destination at the moment of publishing (CND-1, CND-2).

    Make it by `absent`, `present`, `digest` or `version`.

    Attributes:
        kind: the name of that method.
        value: the digest or version; empty for the other two.
    """

    kind: str
    value: str = ""

    def __post_init__(self) -> None:
        values.text("condition", self.kind)
        values.text("condition", self.value)
        if self.kind not in {"absent", "present", "digest", "version"}:
            values.wrong_value(
                "condition", f"give absent, present, digest or version, not {self.kind[:100]!a}"
            )
        if bool(self.value) is (self.kind in {"absent", "present"}):
            values.wrong_value("condition", f"{self.kind} takes {'no value' if self.value else 'a value'}")
        if self.kind == "digest" and not _DIGEST.fullmatch(self.value):
            values.wrong_value("condition", "a digest is sha256: or blake3: and 64 hexadecimal digits")

    @staticmethod
    def absent() -> Condition:
        """Publish only if the path does not exist; of concurrent callers one succeeds."""
        return Condition("absent")

    @staticmethod
    def present() -> Condition:
        """Publish only if a file exists."""
        return Condition("present")

    @staticmethod
    def digest(digest: str) -> Condition:
        """Publish only if the existing file has this digest.

        Args:
            digest: `sha256:` or `blake3:` and 64 hexadecimal digits, as in
                `FileInfo.digest`.

        Raises:
            ValueError: it has another form.
        """
        return Condition("digest", values.text("digest", digest, empty=False).lower())

    @staticmethod
    def version(version: str) -> Condition:
        """Publish only if the existing file has this version, from `FileInfo.version`.

        Raises:
            ValueError: the version is empty.
        """
        values.text("version", version, empty=False)
        return Condition("version", version)


def _digest_choice(name: str, value: object) -> object:
    return values.word(name, value, ("auto", "sha256", "blake3"))


def _condition(name: str, value: object) -> object:
    if value is not None and not isinstance(value, Condition):
        wanted = "Condition.absent(), .present(), .digest(digest) or .version(version), or None"
        values.wrong_type(name, wanted, value)
    return value


def _leaf_link_for(*allowed: LeafLink) -> Rule:
    def rule(name: str, value: object) -> LeafLink:
        link = values.choice(name, value, LeafLink)
        if link not in allowed:
            use = "uploads" if link is LeafLink.REPLACE else "stat"
            names = " or ".join(f"LeafLink.{other.name}" for other in allowed)
            values.wrong_value(name, f"{link.name} is only for {use}: give {names}")
        return link

    return rule


#: The protocol has the years 1 to 9999, which the request checks.
_FARTHEST_NS: Final = 1 << 70

WRITE_RULES: Final[Mapping[str, Rule]] = {
    "mode": values.mode,
    "modified_ns": values.optional(values.number, least=-_FARTHEST_NS, most=_FARTHEST_NS),
    "parents": values.flag,
    "leaf_link": _leaf_link_for(LeafLink.REFUSE, LeafLink.FOLLOW, LeafLink.REPLACE),
    "condition": _condition,
    "durability": lambda name, value: values.choice(name, value, Durability),
    "keep_read_only": values.flag,
    "skip_identical": values.flag,
    "digest": _digest_choice,
}
READ_RULES: Final[Mapping[str, Rule]] = {
    "offset": values.number,
    "length": values.optional(values.number),
    "tail": values.optional(values.number, least=1),
    "if_version": values.text,
    "allow_changes": values.flag,
    "leaf_link": _leaf_link_for(LeafLink.REFUSE, LeafLink.FOLLOW),
    "max_bytes": values.optional(values.number),
    "digest": _digest_choice,
}
STAT_RULES: Final[Mapping[str, Rule]] = {
    "leaf_link": _leaf_link_for(LeafLink.REFUSE, LeafLink.FOLLOW, LeafLink.NOFOLLOW),
    "digest": lambda name, value: value if isinstance(value, bool) else _digest_choice(name, value),
}


def apply_rules(rules: Mapping[str, Rule], options: object) -> None:
    """Check every field of a frozen option group."""
    for name, rule in rules.items():
        object.__setattr__(options, name, rule(name, getattr(options, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """Options of an upload.

    Every method that uploads takes these fields as keyword arguments, too.

    Attributes:
        mode: permission bits. None keeps those of the local file
            (`upload_path`) or of the replaced file, else takes the sandbox's
            default.
        modified_ns: modification time, in nanoseconds since the epoch; None is
            the time of publishing.
        parents: create missing directories.
        leaf_link: treatment of a symbolic link at the path.
        condition: publish only if it holds.
        durability: what survives a power loss.
        keep_read_only: refuse with `AccessDenied` to replace a file that the
            sandbox's user may not write. Otherwise only the directory has to
            be writable, as for `mv` (UPL-45).
        skip_identical: hash the source first, and send nothing if the sandbox
            has the same content at the path (RSM-9). Not for streams.
        digest: algorithm of the comparison.
    """

    mode: int | None = None
    modified_ns: int | None = None
    parents: bool = False
    leaf_link: LeafLink = LeafLink.REFUSE
    condition: Condition | None = None
    durability: Durability = Durability.FSYNC
    keep_read_only: bool = False
    skip_identical: bool = False
    digest: DigestChoice = "auto"

    def __post_init__(self) -> None:
        apply_rules(WRITE_RULES, self)


class WriteArguments(TypedDict, total=False):
    """Fields of `WriteOptions` as keyword arguments."""

    mode: int | None
    modified_ns: int | None
    parents: bool
    leaf_link: LeafLink
    condition: Condition | None
    durability: Durability
    keep_read_only: bool
    skip_identical: bool
    digest: DigestChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Options of a download: range, version and treatment of changes.

    Every method that downloads takes these fields as keyword arguments, too.

    Attributes:
        offset: first byte. At the end of the file the content is empty; behind
            it the call fails with `RangeInvalid` (DWN-12).
        length: most bytes to read; None reads to the end.
        tail: read the last `tail` bytes; excludes `offset` and `length`.
        if_version: refuse another version of the file.
        allow_changes: read on if the file changes meanwhile, for logs; the
            result tells whether it did.
        leaf_link: REFUSE or FOLLOW a symbolic link at the path.
        max_bytes: refuse to receive more.
        digest: algorithm of the comparison.
    """

    offset: int = 0
    length: int | None = None
    tail: int | None = None
    if_version: str = ""
    allow_changes: bool = False
    leaf_link: LeafLink = LeafLink.REFUSE
    max_bytes: int | None = None
    digest: DigestChoice = "auto"

    def __post_init__(self) -> None:
        apply_rules(READ_RULES, self)
        if self.tail is not None and (self.offset or self.length is not None):
            values.wrong_value("tail", "give neither offset nor length with it")

    @property
    def everything(self) -> bool:
        """True if the whole file is read."""
        return self.offset == 0 and self.length is None and self.tail is None


#: Options of a call without any, checked once.
WRITE_DEFAULTS: Final = WriteOptions()
READ_DEFAULTS: Final = ReadOptions()

_Group = TypeVar("_Group", WriteOptions, ReadOptions)


def with_arguments(options: _Group, arguments: Mapping[str, Any]) -> _Group:
    """Return an option group with the keyword arguments of a call in place of its fields.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    return replace(options, **arguments) if arguments else options


class RangeArguments(TypedDict, total=False):
    """Fields of `ReadOptions` as keyword arguments, without `max_bytes`."""

    offset: int
    length: int | None
    tail: int | None
    if_version: str
    allow_changes: bool
    leaf_link: LeafLink
    digest: DigestChoice


class ReadArguments(RangeArguments, total=False):
    """Fields of `ReadOptions` as keyword arguments."""

    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits and delays of retries, for errors that the error table marks as retryable.

    The pause before retry n is random between 0 and
    `initial_delay * multiplier**n`, at most `max_delay` ("full jitter"); a
    longer pause that the server asked for is respected.

    A gateway that answered this client before has more retries than one that
    never did: its endpoint is right, and it may be restarting. The defaults
    outlast ten seconds without a gateway and end after half a minute; a wrong
    endpoint is reported after 4 seconds, 8 at most.

    Attributes:
        attempts: tries without progress; an upload or download that advanced
            counts from the start again. 1 never retries.
        outage_attempts: the same while gateway, supervisor or connection are
            away (`Unavailable`) and the gateway has answered before; fewer
            than `attempts` has no effect.
        initial_delay: upper bound of the first pause, in seconds.
        max_delay: upper bound of every pause, in seconds.
        multiplier: growth of the bound.
        max_server_delay: the call fails if the server asks for a longer pause,
            in seconds.
        on_retry: called before each pause with the error and the number of the
            next try, from 2, in the caller's thread or event loop; it must
            return quickly and not raise.
    """

    attempts: int = 6
    initial_delay: float = 0.25
    max_delay: float = 5.0
    multiplier: float = 2.0
    max_server_delay: float = 60.0
    outage_attempts: int = 16
    on_retry: Callable[[FilesError, int], None] | None = None

    def __post_init__(self) -> None:
        values.number("attempts", self.attempts, least=1)
        values.number("outage_attempts", self.outage_attempts)
        if self.on_retry is not None and not callable(self.on_retry):
            values.wrong_value("on_retry", f"must be a function, and is {type(self.on_retry).__name__}")
        values.seconds("initial_delay", self.initial_delay, zero=True)
        values.seconds("max_delay", self.max_delay, zero=True)
        values.seconds("max_server_delay", self.max_server_delay, zero=True)
        if values.seconds("multiplier", self.multiplier) < 1:
            values.wrong_value("multiplier", f"must not be below 1, and is {self.multiplier:g}")


#: Try once; the caller handles every failure.
NO_RETRY: Final = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Certificates that the client trusts, and its own.

    Attributes:
        ca_path: file of PEM certificates to trust; None trusts the system's.
        cert_path: file of this client's PEM certificate, for mutual TLS.
        key_path: file of its PEM key.
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
