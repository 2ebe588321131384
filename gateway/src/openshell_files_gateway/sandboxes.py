"""The sandboxes this gateway knows, and who may use them (AUT-5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.principals import User

DEFAULT_WORKSPACE: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox record.

    Attributes:
        id: UUID; what supervisors and tokens are bound to.
        name: unique in its workspace; what people type.
        workspace: who may use it is decided by membership here.
    """

    id: str
    name: str
    workspace: str = DEFAULT_WORKSPACE


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
            key = (sandbox.workspace, sandbox.name)
            if sandbox.id in self._by_id or key in self._by_name:
                raise ValueError(f"sandbox {sandbox.name!r} ({sandbox.id}) is listed twice")
            self._by_id[sandbox.id] = sandbox
            self._by_name[key] = sandbox

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox by id, without asking who wants to know."""
        return self._by_id.get(sandbox_id)

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
            raise TransferError(Reason.SANDBOX_NOT_FOUND, "sandbox not found")
        return sandbox
