"""The role of an SDK: its adapter is started once, and each case has a gateway of its own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from openshell_files_conformance.checks import CaseContext, Env
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.roles import Target
from openshell_files_conformance.target.adapter import Adapter, adapter_started
from openshell_files_conformance.target.launch import TargetNotReadyError, UnsupportedLaunchError


class SdkTarget:
    """An adapter that runs."""

    def __init__(self, adapter: Adapter, run_dir: Path) -> None:
        self._adapter = adapter
        self._run_dir = run_dir
        self._numbers = itertools.count(1)

    @property
    def capabilities(self) -> frozenset[str]:
        """What the adapter said in its hello."""
        return self._adapter.capabilities

    def env(self, context: CaseContext) -> Env:
        """Return the environment of one case."""
        return SdkEnv(context, self._adapter, self._run_dir / f"case-{next(self._numbers)}")


class SdkRole:
    """Starts adapters."""

    def start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AbstractAsyncContextManager[Target]:
        """Start the adapter of the configuration; see `Role`."""
        return self._start(config, settings, run_dir)

    @contextlib.asynccontextmanager
    async def _start(
        self, config: TargetConfig, settings: Mapping[str, Any], run_dir: Path
    ) -> AsyncGenerator[Target]:
        if not config.command:
            raise TargetNotReadyError("an SDK needs the command of its adapter; it cannot be attached to")
        log = run_dir / "adapter.stderr"
        # An adapter has no settings: only the runner's honesty probe asks for one, and to an adapter that is an operation.
        ready = adapter_started(
            config.command, log=log, ready_timeout=config.ready_timeout, probe=bool(settings)
        )
        async with ready as adapter:
            if settings:
                raise UnsupportedLaunchError(", ".join(settings))
            yield SdkTarget(adapter, run_dir)
