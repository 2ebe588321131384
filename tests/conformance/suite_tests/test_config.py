"""conformance.toml, environment and flags: which wins, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from openshell_files_conformance.config import ConfigError, Overrides, TargetConfig, load_config
from openshell_files_conformance.registry import RoleName

WHOLE = """
protocol = 1
[implementation]
name = "acme"
[gateway]
command = ["./launch", "--fast"]
profiles = ["rfc"]
capabilities = ["lanes"]
expected_failures = "expected.toml"
[timing]
scale = 2
"""


def load(
    tmp_path: Path,
    text: str,
    flags: Overrides | None = None,
    role: RoleName = "gateway",
    environment: Mapping[str, str] | None = None,
) -> TargetConfig:
    file = tmp_path / "conformance.toml"
    file.write_text(text)
    return load_config(role, file, flags or Overrides(), environment or {})


def test_everything_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, WHOLE)
    assert config.command == (str(tmp_path / "launch"), "--fast")
    assert config.profiles == ("rfc",)
    assert config.capabilities == {"lanes"}
    assert config.scale == 2
    assert config.implementation == {"name": "acme"}
    assert config.expected_failures == tmp_path / "expected.toml"


def test_the_environment_overrides_the_file_and_a_flag_the_environment(tmp_path: Path) -> None:
    environment = {"CONF_ENDPOINT": "127.0.0.1:1", "CONF_PROFILES": "core, trees", "CONF_SCALE": "3"}
    config = load(tmp_path, WHOLE, environment=environment)
    assert (config.command, config.endpoint) == ((), "127.0.0.1:1")
    assert (config.profiles, config.scale) == (("core", "trees"), 3)
    flags = Overrides(endpoint="127.0.0.1:2", profiles=("lanes",), scale=0.5)
    config = load(tmp_path, WHOLE, flags, environment=environment)
    assert (config.endpoint, config.profiles, config.scale) == ("127.0.0.1:2", ("lanes",), 0.5)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "protocol"),
        ("protocol = 2\n[gateway]\ncommand = ['x']", "protocol"),
        ("protocol = 1", "needs a command"),
        ("protocol = 1\n[gateway]\ncommand = []", "needs a command"),
        ("protocol = 1\n[gateway]\ncommand = ['x']\nendpoint = 'y'", "needs a command"),
        ("protocol = 1\n[gateway]\ncommand = 'x y'", "list of texts"),
        ("protocol = 1\n[gateway]\ncomand = ['x']", "comand"),
        ("protocol = 1\ngateway = 1", "table"),
        ("protocol = 1\n[gatewey]\ncommand = ['x']", "gatewey"),
        ("protocol = 1\n[gateway]\ncommand = ['x']\nprofiles = ['rcf']", "rcf"),
        ("protocol = 1\n[gateway]\ncommand = ['x']\n[timing]\nscale = 0", "scale"),
        ("protocol = 1\n[gateway]\ncommand = ['x']\n[timing]\nscale = 'fast'", "scale"),
        ("protocol = 1\n[gateway", "conformance.toml"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        load(tmp_path, text)


def test_an_sdk_has_no_endpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapter"):
        load(tmp_path, "protocol = 1\n[sdk]\nendpoint = 'x'", role="sdk")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config("gateway", tmp_path / "none.toml", Overrides(command="x"), {})


def test_no_file_is_needed() -> None:
    assert load_config("sdk", None, Overrides(command="node 'my adapter.mjs'"), {}).command == (
        "node",
        "my adapter.mjs",
    )
