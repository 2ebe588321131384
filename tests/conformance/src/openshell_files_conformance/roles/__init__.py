"""What the runner needs of a role: how its target is started, and the environment of a case.

The module of a role, `roles/gateway.py` for example, has a class named after it (`GatewayRole`) that needs no arguments. It starts the target and the
peers that all cases of one launch share; `Target.env` makes what one case has for itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, cast

from openshell_files_conformance.checks import CaseContext, Env
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.registry import RoleName


class Target(Protocol):
    """A target that runs, with the peers around it."""

    @property
    def capabilities(self) -> frozenset[str]:
        """The options that the target declared when it was ready."""
        ...

    def env(self, context: CaseContext) -> Env:
        """Return the environment of one case. Several cases may run at the same time."""
        ...


class Role(Protocol):
    """A role that can be judged."""

    def start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AbstractAsyncContextManager[Target]:
        """Start a target; leaving the context stops it and everything around it.

        Args:
            config: the role's part of `conformance.toml`.
            settings: that the cases of this launch ask for.
            run_dir: an empty directory for logs and files of this launch.

        Raises:
            UnsupportedLaunchError: the target cannot be launched with these settings.
            TargetNotReadyError: the target did not become ready.
        """
        ...


def load_role(name: RoleName) -> Role:
    """Return the role of a name."""
    module = importlib.import_module(f"openshell_files_conformance.roles.{name}")
    return cast(Role, getattr(module, f"{name.capitalize()}Role")())
