"""The sandboxes this gateway knows, and who may use them (AUT-5)."""

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

#: Of what a caller sent, in an error.
_TOLD_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class AgentPort:
    """A file agent that listens inside the sandbox (FRM-8).

    Attributes:
        port: on the sandbox's loopback.
        secret_file: with the secret that gateway and agent share.
    """

    port: int
    secret_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox record. Immutable: a change is another record.

    Attributes:
        id: UUID; what supervisors and tokens are bound to.
        name: unique in its workspace; what people type.
        workspace: who may use it is decided by membership here.
        message: as callers see it; not to be changed.
        managed: made by a call, and so to be stopped and deleted by one.
        agent: where its file agent listens, if the supervisor has none.
    """

    id: str
    name: str
    workspace: str = DEFAULT_WORKSPACE
    message: sandboxes_pb2.Sandbox = field(default_factory=sandboxes_pb2.Sandbox)
    managed: bool = False
    agent: AgentPort | None = None

    @property
    def phase(self) -> phases.Phase:
        """What it is doing."""
        return self.message.status.phase

    def with_message(self, message: sandboxes_pb2.Sandbox) -> Sandbox:
        """Return the record as it is after a change."""
        return replace(self, message=message)


def not_ready(sandbox: Sandbox) -> TransferError:
    """Return the refusal for a sandbox that does not run."""
    phase = sandboxes_pb2.SandboxPhase.Name(sandbox.phase).removeprefix("SANDBOX_PHASE_")
    return TransferError(
        Reason.SANDBOX_NOT_READY, f"sandbox is not ready: it is {phase.lower()}", {"phase": phase}
    )


class Membership(Protocol):
    """Decides whether a user may use a workspace's sandboxes."""

    def may(self, user: User, workspace: str, role: str = "user") -> bool:
        """Whether `user` has at least `role` in `workspace`."""
        ...


class SandboxDirectory:
    """Finds sandboxes for callers and hides those they may not use.

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
        """Make a sandbox known.

        Raises:
            ValueError: its id, or its name in its workspace, is taken.
        """
        key = (sandbox.workspace, sandbox.name)
        if sandbox.id in self._by_id or key in self._by_name:
            raise ValueError(f"sandbox {sandbox.name!r} ({sandbox.id}) is there already")
        self._by_id[sandbox.id] = self._by_name[key] = sandbox

    def replace(self, sandbox: Sandbox) -> None:
        """Put a changed record in the place of the old one; nothing if that was removed."""
        if sandbox.id in self._by_id:
            self._by_id[sandbox.id] = self._by_name[sandbox.workspace, sandbox.name] = sandbox

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox; more than once is fine."""
        sandbox = self._by_id.pop(sandbox_id, None)
        if sandbox is not None:
            del self._by_name[sandbox.workspace, sandbox.name]

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox by id, without asking who wants to know."""
        return self._by_id.get(sandbox_id)

    def named(self, workspace: str, name: str) -> Sandbox | None:
        """Return a sandbox by name, without asking who wants to know."""
        return self._by_name.get((workspace, name))

    def all(self) -> list[Sandbox]:
        """Return every sandbox."""
        return list(self._by_id.values())

    def visible(self, user: User, workspace: str | None) -> list[Sandbox]:
        """Return what a user may use, by workspace and name.

        Args:
            user: the authenticated caller.
            workspace: only of this one; None for all.

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
        """Refuse a user who does not belong to a workspace.

        Raises:
            TransferError: WORKSPACE_NOT_FOUND, also if there is none.
        """
        if not self._membership.may(user, workspace):
            raise TransferError(Reason.WORKSPACE_NOT_FOUND, "workspace not found")

    def resolve(self, user: User, *, sandbox_id: str, name: str, workspace: str) -> Sandbox:
        """Return the sandbox that a caller addresses.

        Args:
            user: the authenticated caller.
            sandbox_id: id, or empty.
            name: name, or empty.
            workspace: of the name; empty means "default".

        Raises:
            TransferError: INVALID_REQUEST if it is addressed in no way or in
                two, SANDBOX_NOT_FOUND if it is unknown or not this caller's.
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
    """Make the error for a sandbox that is not there, or not this caller's; it tells what was asked and no more."""
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
