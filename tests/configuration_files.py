"""Configuration files for tests, and the problems that they have."""

from __future__ import annotations

from pathlib import Path

import pytest
from openshell_files_gateway.config.errors import ConfigurationError, Problem
from openshell_files_gateway.config.loading import load_settings

ISSUER = "https://issuer.example"


#: The least that starts.
MINIMAL = {"OPENSHELL_OIDC_ISSUER": ISSUER, "OPENSHELL_DISABLE_TLS": "true"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text, "utf-8")
    return path


def problems_of(config_file: Path | None, environ: dict[str, str]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file, environ)
    return caught.value.problems
