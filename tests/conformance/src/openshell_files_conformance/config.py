"""What the suite is told about an implementation: `conformance.toml`, environment and flags.

A flag overrides the environment, and the environment the file:

    protocol = 1
    [implementation]                              # goes into the reports as it is
    name = "acme-gateway"
    version = "0.9.1"
    language = "rust"
    [gateway]                                     # or [supervisor], [sdk]
    command = ["./target/release/conf-launcher"]  # CONF_COMMAND; or endpoint = "127.0.0.1:8443" (CONF_ENDPOINT)
    profiles = ["rfc", "core"]                    # CONF_PROFILES; without it every profile
    expected_failures = "expected-failures.toml"  # CONF_EXPECTED_FAILURES
    [timing]
    scale = 1.0                                   # CONF_SCALE
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from openshell_files_conformance.registry import PROFILES, ROLES, RoleName

#: Version of the configuration, and of the messages on stdin and stdout.
PROTOCOL: Final = 1
_KEYS: Final = frozenset(
    {
        "command",
        "endpoint",
        "profiles",
        "capabilities",
        "expected_failures",
        "attach",
        "ready_timeout",
        "limits",
    }
)


class ConfigError(Exception):
    """The configuration, or a flag, is not as it must be."""


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
        ready_timeout: how long the target may take until it is ready, in seconds.
        implementation: name, version, language and whatever else the reports should say.
        expected_failures: file with the failures that are expected.
    """

    command: tuple[str, ...] = ()
    endpoint: str = ""
    profiles: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    table: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scale: float = 1.0
    ready_timeout: float = 30.0
    implementation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    expected_failures: Path | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """Flags of the command line that override the file; empty ones do not."""

    command: str = ""
    endpoint: str = ""
    profiles: tuple[str, ...] = ()
    scale: float | None = None
    expected_failures: Path | None = None


def load_config(
    role: RoleName, file: Path | None, overrides: Overrides, environment: Mapping[str, str] = os.environ
) -> TargetConfig:
    """Return the configuration of a role.

    Raises:
        ConfigError: the file, a variable or a flag is wrong, or there is nothing to judge.
    """
    whole: Mapping[str, Any] = _read(file) if file else {}
    table = _table(whole, role)
    unknown = sorted(table.keys() - _KEYS)
    if unknown:
        raise ConfigError(f"[{role}] has no setting {', '.join(unknown)}")
    base = file.resolve().parent if file else Path.cwd()
    command = shlex.split(overrides.command or environment.get("CONF_COMMAND", ""))
    endpoint = overrides.endpoint or environment.get("CONF_ENDPOINT", "")
    if not command and not endpoint:
        command = [_program(part, base) for part in _texts(table, "command")]
        endpoint = str(table.get("endpoint", ""))
    if bool(command) == bool(endpoint):
        raise ConfigError(
            f"[{role}] needs a command that launches the target, or the endpoint of one that runs"
        )
    if role == "sdk" and endpoint:
        raise ConfigError("[sdk] needs a command: an SDK is spoken to through its adapter")
    listed = environment.get("CONF_PROFILES", "")
    profiles = overrides.profiles or tuple(listed.replace(",", " ").split()) or _texts(table, "profiles")
    wrong = sorted(set(profiles) - set(PROFILES))
    if wrong:
        raise ConfigError(f"no such profile: {', '.join(wrong)}; there are {', '.join(PROFILES)}")
    expected = overrides.expected_failures or _path(
        environment.get("CONF_EXPECTED_FAILURES") or table.get("expected_failures"), base
    )
    return TargetConfig(
        command=tuple(command),
        endpoint=endpoint,
        profiles=profiles,
        capabilities=frozenset(_texts(table, "capabilities")),
        table=table,
        scale=_scale(
            overrides.scale, environment.get("CONF_SCALE"), _table(whole, "timing").get("scale", 1.0)
        ),
        ready_timeout=_number(table.get("ready_timeout", 30.0), "ready_timeout"),
        implementation=_table(whole, "implementation"),
        expected_failures=expected,
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        whole = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if whole.get("protocol") != PROTOCOL:
        raise ConfigError(f"{file}: protocol must be {PROTOCOL}")
    unknown = sorted(whole.keys() - {"protocol", "implementation", "timing", *ROLES})
    if unknown:
        raise ConfigError(f"{file}: unknown table {', '.join(unknown)}")
    return whole


def _table(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = whole.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table")
    return cast(Mapping[str, Any], table)


def _texts(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in cast(list[object], value)):
        raise ConfigError(f"{name} must be a list of texts")
    return tuple(cast(list[str], value))


def _program(part: str, base: Path) -> str:
    """Return a part of a command; one that begins with `./` or `../` is beside the configuration's file."""
    return str(base / part) if part.startswith(("./", "../")) else part


def _path(value: object, base: Path) -> Path | None:
    return base / str(value) if value else None


def _number(value: object, name: str) -> float:
    try:
        number = float(cast(Any, value))
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number") from None
    if not 0 < number < 1e6:
        raise ConfigError(f"{name} must be greater than 0")
    return number


def _scale(*candidates: object) -> float:
    return _number(next(one for one in candidates if one not in {None, ""}), "scale")
