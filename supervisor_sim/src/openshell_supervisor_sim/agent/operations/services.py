"""The parts of an agent that all of its sessions share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from openshell_files_disk.filesystem.handles import FileSystem

from openshell_supervisor_sim.agent.concurrency import DiskShare
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.directories.parts import DirectoryParts
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.settings import AgentSettings
from openshell_supervisor_sim.agent.trace_points import Trace
from openshell_supervisor_sim.agent.trees.parts import TreeParts
from openshell_supervisor_sim.agent.upload.admission import Admission
from openshell_supervisor_sim.agent.upload.attachment import Attachment
from openshell_supervisor_sim.agent.upload.expiry import Expiry
from openshell_supervisor_sim.agent.upload.registry import Uploads
from openshell_supervisor_sim.agent.upload.staged_budget import StagedBudget


@dataclass(slots=True)
class Counters:
    """Counts of the sessions' operations; only the event loop changes them."""

    uploads_published: int = 0
    uploads_refused: int = 0
    downloads_completed: int = 0
    operations_failed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of an agent that its sessions use."""

    settings: AgentSettings
    limits: Limits
    root: SandboxRoot
    uploads: Uploads
    admission: Admission
    attachment: Attachment
    expiry: Expiry
    directories: DirectoryParts
    trees: TreeParts
    budget: StagedBudget
    disk: DiskShare
    fs: FileSystem
    trace: Trace
    counters: Counters = field(default_factory=Counters)

    def for_principal(self, principal: str) -> Services:
        """Return the same parts with one principal's share of the disk threads."""
        return replace(self, disk=self.disk.of(principal))
