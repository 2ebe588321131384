"""What the suite is told about an implementation: `conformance.toml`, environment and flags.

A flag overrides the environment (`CONF_*`), and the environment the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """The part of the configuration for one role.

    Attributes:
        command: program that launches the target, or the adapter of an SDK.
        endpoint: of a target that runs already; then there is no command.
        profiles: that the target is to pass.
        capabilities: options that it claims in addition to those in its ready message.
        table: the role's whole table of the file; `attach` in it has the facts that a launched target would say.
        scale: multiplies every time that the suite waits.
    """

    command: tuple[str, ...] = ()
    endpoint: str = ""
    profiles: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    table: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scale: float = 1.0
    ready_timeout: float = 30.0
