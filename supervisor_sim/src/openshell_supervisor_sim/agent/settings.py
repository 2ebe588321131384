"""Settings of a file agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIB, MIN_CHUNK_LIMIT_BYTES

from openshell_supervisor_sim.agent.core.limits import (
    DEFAULT_ARCHIVE_ENTRIES,
    DEFAULT_EXTRACTED_BYTES,
    DEFAULT_TREE_ENTRIES,
)
from openshell_supervisor_sim.agent.store.journal import DEFAULT_QUOTA

#: More than gzip reaches with ordinary content.
DEFAULT_EXPANSION_RATIO: Final = 200

#: Shortest time for which the outcome of an upload is stored (RSM-22).
MIN_TOMBSTONE_SECONDS: Final = 15 * 60
#: A smaller journal could be filled by unfinished uploads alone.
MIN_JOURNAL_BYTES: Final = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Settings of a `FileAgent`.

    Attributes:
        root: directory that callers see as `/`.
        state_dir: directory of the journal; created with mode 0700. No caller reaches a file in it,
            even if it lies inside the root.
        private: further files of the supervisor, such as its token; no caller reads or replaces
            them, even if they lie inside the root.
        covered: directories inside the root, relative to it, over which commands have something
            else mounted.
        workdir: directory where relative paths start, absolute inside the root.
        max_chunk_bytes: largest content of one chunk.
        max_file_bytes: largest file.
        max_uploads: unfinished uploads of all callers.
        max_uploads_per_principal: unfinished uploads of one caller. One more makes the idle one
            that changed least recently expire (RSM-27).
        max_staged_bytes: content that all unfinished uploads may occupy.
        max_tree_entries: entries of one tree that is received (TRE-36).
        max_archive_entries: entries of one archive that is unpacked (ARC-4).
        max_extracted_bytes: bytes that such an archive may become, headers included.
        max_expansion_ratio: those bytes, divided by the received bytes.
        upload_expiry: seconds without a byte after which an unfinished upload ends (RSM-8).
        tombstone_seconds: seconds for which the outcome of a finished upload is stored (RSM-22); at
            least 900. The journal deletes it earlier only to stay within `max_journal_bytes`.
        max_journal_bytes: largest size of the journal.
        idle_timeout: seconds to wait until the peer sends or accepts bytes.
        sweep_interval: seconds between two searches for expired uploads.
        pipeline_bytes: content that one transfer may hold in memory between
            stream and disk.
        disk_threads: operations that use the disk at the same time. A caller that uses less than a
            quarter of them gets further ones, up to twice as many in all.
        use_openat2: resolve paths by the kernel's openat2 where it exists; otherwise the agent
            walks them component by component.
    """

    root: Path
    state_dir: Path
    private: Sequence[Path] = ()
    covered: Sequence[str] = ()
    workdir: str = "/"
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    max_file_bytes: int = 1 << 40
    max_uploads: int = 256
    max_uploads_per_principal: int = 64
    max_staged_bytes: int = 1 << 36
    max_tree_entries: int = DEFAULT_TREE_ENTRIES
    max_archive_entries: int = DEFAULT_ARCHIVE_ENTRIES
    max_extracted_bytes: int = DEFAULT_EXTRACTED_BYTES
    max_expansion_ratio: int = DEFAULT_EXPANSION_RATIO
    upload_expiry: float = 24 * 3600
    tombstone_seconds: float = MIN_TOMBSTONE_SECONDS
    max_journal_bytes: int = DEFAULT_QUOTA
    idle_timeout: float = 300
    sweep_interval: float = 60
    pipeline_bytes: int = 4 * MIB
    disk_threads: int = 16
    use_openat2: bool = True

    def __post_init__(self) -> None:
        if not MIN_CHUNK_LIMIT_BYTES <= self.max_chunk_bytes <= MAX_CHUNK_BYTES:
            raise ValueError(
                f"max_chunk_bytes must be between {MIN_CHUNK_LIMIT_BYTES} (UPL-6) and {MAX_CHUNK_BYTES}"
            )
        if self.tombstone_seconds < MIN_TOMBSTONE_SECONDS:
            raise ValueError(f"tombstone_seconds must be at least {MIN_TOMBSTONE_SECONDS} (RSM-22)")
        if not self.workdir.startswith("/"):
            raise ValueError("workdir must be absolute inside the root")
        if self.max_journal_bytes < MIN_JOURNAL_BYTES:
            raise ValueError(f"max_journal_bytes must be at least {MIN_JOURNAL_BYTES}")
        for name in (
            "max_file_bytes",
            "max_uploads",
            "max_uploads_per_principal",
            "max_staged_bytes",
            "max_tree_entries",
            "max_archive_entries",
            "max_extracted_bytes",
            "max_expansion_ratio",
            "pipeline_bytes",
            "disk_threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("upload_expiry", "idle_timeout", "sweep_interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0 seconds")
