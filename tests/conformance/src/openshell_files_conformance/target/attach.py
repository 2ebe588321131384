"""A target that runs already: the facts of its ready message come from `conformance.toml`.

    [gateway]
    endpoint = "127.0.0.1:8443"
    [gateway.attach]
    capabilities = ["resume"]
    settings = { idle_timeout_s = 300 }
    sandboxes.conf-a = { id = "…", supervisor_token = "…" }

Only cases whose launch settings the target has, as `settings` says, can run against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.target.launch import Ready, UnsupportedLaunchError


def attached(config: TargetConfig, settings: Mapping[str, Any]) -> Ready:
    """Return the facts of a target that runs.

    Raises:
        UnsupportedLaunchError: it does not have the settings.
        TargetNotReadyError: a fact has the wrong type.
    """
    facts = cast(Mapping[str, Any], config.table.get("attach", {}))
    had = cast(Mapping[str, Any], facts.get("settings", {}))
    other = sorted(name for name, value in settings.items() if had.get(name) != value)
    if other:
        raise UnsupportedLaunchError(f"the attached target does not have the settings {', '.join(other)}")
    return Ready.from_facts({"endpoint": config.endpoint, **facts})
