"""Finds the sandbox that a caller addresses, and hides sandboxes of other workspaces (AUT-5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.methods import DEFAULT_WORKSPACE
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.principals import User
from openshell_files_gateway.sandboxes import phases

#: Longest part of a caller's value in an error message.
_TOLD_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class AgentPort:
    """A file agent that listens inside the sandbox (FRM-8).

    Attributes:
        port: port on the sandbox's loopback.
        secret_file: file with the secret that gateway and agent share.
    """

    port: int
    secret_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """An immutable sandbox record.

    Attributes:
        id: UUID; it binds the supervisor and its tokens.
        name: name, unique in its workspace.
        workspace: workspace whose members may use it.
        message: the record as callers receive it; do not modify.
        managed: True if a call created it, so that calls may stop, start and
            delete it.
        agent: its file agent behind a port; None if the supervisor serves files.
    """

    id: str
    name: str
    workspace: str = DEFAULT_WORKSPACE
    message: sandboxes_pb2.Sandbox = field(default_factory=sandboxes_pb2.Sandbox)
    managed: bool = False
    agent: AgentPort | None = None

    @property
    def phase(self) -> phases.Phase:
        """The sandbox's phase."""
        return self.message.status.phase

    def with_message(self, message: sandboxes_pb2.Sandbox) -> Sandbox:
        """Return the record with another message."""
        return replace(self, message=message)


def not_ready(sandbox: Sandbox) -> TransferError:
    """Return the error for a sandbox that does not run."""
    phase = sandboxes_pb2.SandboxPhase.Name(sandbox.phase).removeprefix("SANDBOX_PHASE_")
    return TransferError(
        Reason.SANDBOX_NOT_READY, f"sandbox is not ready: it is {phase.lower()}", {"phase": phase}
    )


class Membership(Protocol):
    """Decides whether a user may use the sandboxes of a workspace."""

    def may(self, user: User, workspace: str, role: str = "user") -> bool:
        """Return True if `user` has at least `role` in `workspace`."""
        ...


class SandboxDirectory:
    """All sandboxes of this gateway, by id and by name.

    Args:
        sandboxes: sandboxes of the configuration.
        membership: decides which users may use a workspace.

    Raises:
        ValueError: two sandboxes share an id, or a name in one workspace.
    """

    def __init__(self, sandboxes: Iterable[Sandbox], membership: Membership) -> None:
        self._by_id: dict[str, Sandbox] = {}
        self._by_name: dict[tuple[str, str], Sandbox] = {}
        self._membership = membership
        for sandbox in sandboxes:
            self.add(sandbox)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, sandbox: Sandbox) -> None:
        """Add a sandbox.

        Raises:
            ValueError: its id, or its name in its workspace, is taken.
        """
        key = (sandbox.workspace, sandbox.name)
        if sandbox.id in self._by_id or key in self._by_name:
            raise ValueError(f"sandbox {sandbox.name!r} ({sandbox.id}) exists already")
        self._by_id[sandbox.id] = self._by_name[key] = sandbox

    def replace(self, sandbox: Sandbox) -> None:
        """Replace the record of a sandbox; do nothing if the sandbox was removed."""
        if sandbox.id in self._by_id:
            self._by_id[sandbox.id] = self._by_name[sandbox.workspace, sandbox.name] = sandbox

    def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox; idempotent."""
        sandbox = self._by_id.pop(sandbox_id, None)
        if sandbox is not None:
            del self._by_name[sandbox.workspace, sandbox.name]

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox by id, without a check of membership."""
        return self._by_id.get(sandbox_id)

    def named(self, workspace: str, name: str) -> Sandbox | None:
        """Return a sandbox by name, without a check of membership."""
        return self._by_name.get((workspace, name))

    def all(self) -> list[Sandbox]:
        """Return every sandbox."""
        return list(self._by_id.values())

    def visible(self, user: User, workspace: str | None) -> list[Sandbox]:
        """Return the sandboxes that a user may use, sorted by workspace and name.

        Args:
            user: the authenticated caller.
            workspace: workspace to list; None for all.

        Raises:
            TransferError: WORKSPACE_NOT_FOUND.
        """
        if workspace is not None:
            self.require_member(user, workspace)
        allowed: dict[str, bool] = {}
        found: list[Sandbox] = []
        for key in sorted(self._by_name):
            if workspace is not None and key[0] != workspace:
                continue
            if key[0] not in allowed:
                allowed[key[0]] = self._membership.may(user, key[0])
            if allowed[key[0]]:
                found.append(self._by_name[key])
        return found

    def require_member(self, user: User, workspace: str) -> None:
        """Check that a user is a member of a workspace.

        Raises:
            TransferError: WORKSPACE_NOT_FOUND for other users, and for an unknown workspace.
        """
        if not self._membership.may(user, workspace):
            raise TransferError(Reason.WORKSPACE_NOT_FOUND, "workspace not found")

    def resolve(self, user: User, *, sandbox_id: str, name: str, workspace: str) -> Sandbox:
        """Return the sandbox that a caller addresses.

        Args:
            user: the authenticated caller.
            sandbox_id: id, or empty.
            name: name, or empty.
            workspace: workspace of the name; empty for the default one.

        Raises:
            TransferError: INVALID_REQUEST unless exactly one of id and name is
                given, SANDBOX_NOT_FOUND if the sandbox is unknown or in
                another workspace than the caller's.
        """
        if sandbox_id and name:
            raise invalid("sandbox", "give either the sandbox's id or its name, not both")
        if not sandbox_id and not name:
            raise invalid("sandbox_id", "required, or the sandbox's name")
        if sandbox_id and workspace:
            raise invalid("workspace", "only together with the sandbox's name")
        if sandbox_id:
            sandbox = self._by_id.get(sandbox_id)
        else:
            sandbox = self._by_name.get((workspace or DEFAULT_WORKSPACE, name))
        if sandbox is None or not self._membership.may(user, sandbox.workspace):
            raise _not_found(sandbox_id=sandbox_id, name=name, workspace=workspace)
        return sandbox


def _not_found(*, sandbox_id: str, name: str, workspace: str) -> TransferError:
    """Return the error for a sandbox that is unknown or another workspace's; it repeats only the caller's own values."""
    if sandbox_id:
        return TransferError(
            Reason.SANDBOX_NOT_FOUND, f"there is no sandbox with the id {sandbox_id[:_TOLD_CHARACTERS]!r}"
        )
    place = (workspace or DEFAULT_WORKSPACE)[:_TOLD_CHARACTERS]
    return TransferError(
        Reason.SANDBOX_NOT_FOUND,
        f"there is no sandbox {name[:_TOLD_CHARACTERS]!r} in the workspace {place!r}",
        {"workspace": place},
    )
