"""Confines the process that serves files: once, before it has threads."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from openshell_supervisor_sim.confinement import kernel, landlock
from openshell_supervisor_sim.confinement.landlock import Rule
from openshell_supervisor_sim.confinement.user import User, become, current_user

#: Limit of open files: a transfer needs five, a relay one.
_MAX_FILES: Final = 4096

#: Capabilities of a process that stays root: to use files of every owner (CHOWN, DAC_OVERRIDE,
#: DAC_READ_SEARCH, FOWNER, FSETID).
_FILE_CAPABILITIES: Final = 0b11111


class ConfinementError(Exception):
    """The kernel lacks a required confinement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """The confinement of this process.

    Attributes:
        user: of the process.
        no_new_privs: True if its programs cannot gain rights.
        landlock: version of the kernel's interface; 0 without Landlock.
        landlock_reason: for a missing Landlock.
        limits: of resources, by name.
    """

    user: User
    no_new_privs: bool
    landlock: int
    landlock_reason: str
    limits: dict[str, int] = field(default_factory=dict[str, int])

    def described(self) -> dict[str, Any]:
        """Return the confinement for the log and the JSON line."""
        described: dict[str, Any] = {
            "user": self.user.name,
            "uid": self.user.uid,
            "gid": self.user.gid,
            "no_new_privs": self.no_new_privs,
            "landlock": self.landlock,
            "limits": self.limits,
        }
        if self.landlock_reason:
            described["landlock_reason"] = self.landlock_reason
        return described


def confine(
    *, mode: str, user: User | None, rules: Iterable[Rule], memory_bytes: int | None = None
) -> Confinement:
    """Take rights away from this process and from the processes that it starts later.

    Args:
        mode: `auto` uses the means that the kernel has, `required` fails if one is missing, `none`
            only changes the user.
        user: to become, if started as root.
        rules: paths that stay usable.
        memory_bytes: limit of the address space.

    Raises:
        ConfinementError: a required means is missing, or the user cannot be changed.
    """
    try:
        if user is not None:
            become(*user)
        if mode == "none":
            return Confinement(
                user=current_user(),
                no_new_privs=kernel.has_no_new_privileges(),
                landlock=0,
                landlock_reason="switched off",
            )
        limits = _limit(memory_bytes)
        _drop_capabilities()
        kernel.set_no_new_privileges()
    except OSError as error:
        raise ConfinementError(str(error)) from error
    version, reason = _restrict(rules)
    if not version:
        # Landlock keeps commands away from this process's memory; without Landlock an older means
        # of the kernel does.
        kernel.set_undumpable()
    if mode == "required" and not version:
        raise ConfinementError(f"Landlock: {reason}")
    return Confinement(
        user=current_user(), no_new_privs=True, landlock=version, landlock_reason=reason, limits=limits
    )


def interpreter_places() -> list[str]:
    """Return the directories from which modules are loaded, even late."""
    places = [sys.prefix, sys.base_prefix, *sys.path]
    return [
        path for path in dict.fromkeys(map(os.path.abspath, filter(None, places))) if os.path.exists(path)
    ]


def _restrict(rules: Iterable[Rule]) -> tuple[int, str]:
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads != 1:
        # Landlock would apply to this thread only, while the log claims that the process is confined.
        return 0, f"the process has {threads} threads already"
    try:
        version = landlock.restrict(rules)
    except OSError as error:
        return 0, str(error)
    return version, "" if version else "the kernel has no Landlock"


def _limit(memory_bytes: int | None) -> dict[str, int]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = {"open_files": files, "core_bytes": 0}
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        limits["address_space_bytes"] = memory_bytes
    return limits


def _drop_capabilities() -> None:
    if os.geteuid() == 0:
        kernel.keep_capabilities(_FILE_CAPABILITIES & kernel.effective_capabilities())
    elif kernel.effective_capabilities():
        kernel.set_capabilities(0)
