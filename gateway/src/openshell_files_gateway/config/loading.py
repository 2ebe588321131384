"""Reads the TOML file and the environment into checked settings."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource, TomlConfigSettingsSource

from openshell_files_gateway.config.errors import ConfigurationError, Problem
from openshell_files_gateway.config.names import Setting, all_settings
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.config.signing_key import load_signing_key
from openshell_files_gateway.config.supervisor_name import check_supervisors_name

_CONFIG_FILE: Final = "the configuration file"


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> GatewaySettings:
    """Read the configuration, and check it together with the files that it names.

    Args:
        config_file: TOML file, or None for the environment alone.
        environ: the environment; its variables override the file.

    Raises:
        ConfigurationError: the configuration is refused; every problem names
            a setting and the change that solves it.
    """
    values = _merge(_read_file(config_file), EnvironmentSource(GatewaySettings, environ)())
    try:
        settings = GatewaySettings(**values)
    except ValidationError as error:
        raise ConfigurationError([_explain(detail) for detail in error.errors()]) from None
    problems = list(_file_problems(settings))
    if problems:
        raise ConfigurationError(problems)
    return settings


class EnvironmentSource(PydanticBaseSettingsSource):
    """Reads the environment variables that the settings name with `Env`.

    Args:
        settings_cls: model of the settings.
        environ: the environment.
    """

    def __init__(self, settings_cls: type[GatewaySettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Unused: `Env` names the variables, not the fields."""
        raise NotImplementedError((field, field_name))

    def __call__(self) -> dict[str, Any]:
        """Return the values of all variables that are set, by table and key."""
        values: dict[str, Any] = {}
        for setting in all_settings(self.settings_cls):
            if setting.env is None or (text := self._environ.get(setting.env.name)) is None:
                continue
            if not text and setting.optional:
                continue
            table = values
            for part in setting.path[:-1]:
                table = table.setdefault(part, {})
            table[setting.path[-1]] = self._split(text, setting.env.separator)
        return values

    @staticmethod
    def _split(text: str, separator: str) -> str | list[str]:
        if not separator:
            return text
        return [item.strip() for item in text.split(separator) if item.strip()]


def _read_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        # TomlConfigSettingsSource treats a missing file as empty.
        with path.open("rb"):
            return TomlConfigSettingsSource(GatewaySettings, toml_file=path)()
    except OSError as error:
        raise ConfigurationError.of(
            _CONFIG_FILE, f"cannot read {path}: {error.strerror}", "name a file that can be read"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError.of(
            _CONFIG_FILE, f"{path} is not TOML: {error}", "correct the file"
        ) from None


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of values; `upper` overrides `lower`."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _explain(detail: Mapping[str, Any]) -> Problem:
    """Turn an error of pydantic into a problem of a setting."""
    location: tuple[int | str, ...] = detail["loc"]
    path = tuple(part for part in location if isinstance(part, str))
    setting = _setting_at(path)
    if detail["type"] == "extra_forbidden":
        return Problem(".".join(path), "there is no such setting", "correct the name or remove it")
    # Inside a list, the location with its index identifies the entry.
    exact = setting is not None and path == setting.path
    key = setting.title if setting and exact else ".".join(map(str, location))
    missing = detail["type"] == "missing"
    fault = "is not set, but others of its table are" if missing else str(detail["msg"])
    meaning = setting.description.rstrip(".") if setting and setting.description else "see the documentation"
    return Problem(key, fault, f"{'set' if missing else 'correct'} it ({meaning})")


def _setting_at(path: tuple[str, ...]) -> Setting | None:
    """Return the setting that contains an error's location."""
    for setting in all_settings(GatewaySettings):
        if path[: len(setting.path)] == setting.path:
            return setting
    return None


def _file_problems(settings: GatewaySettings) -> Iterator[Problem]:
    """Check the files that the settings name, at start instead of at the first use."""
    tls = settings.tls
    if tls.certificate is not None and tls.key is not None and not tls.disabled:
        faults = list(_check_certificate(tls.certificate, tls.key))
        yield from faults
        if settings.compute.directory is not None and not faults:
            yield from check_supervisors_name(settings)
        if tls.client_ca is not None:
            yield from _check_authority("tls.client_ca (OPENSHELL_TLS_CLIENT_CA)", tls.client_ca)
        if settings.compute.tls_ca is not None:
            yield from _check_authority("compute.tls_ca (OPENSHELL_COMPUTE_TLS_CA)", settings.compute.tls_ca)
    if settings.oidc is not None and settings.oidc.ca_file is not None:
        yield from _check_authority("oidc.ca_file (OPENSHELL_OIDC_CA_FILE)", settings.oidc.ca_file)
    if settings.sandbox_tokens.signing_key is not None:
        try:
            load_signing_key(settings.sandbox_tokens.signing_key)
        except FileNotFoundError:
            return  # The gateway creates it at start.
        except ConfigurationError as error:
            yield from error.problems


def _check_certificate(certificate: Path, key: Path) -> Iterator[Problem]:
    for title, path in (
        ("tls.certificate (OPENSHELL_TLS_CERT)", certificate),
        ("tls.key (OPENSHELL_TLS_KEY)", key),
    ):
        if fault := _unreadable(path):
            yield Problem(title, fault, "name a PEM file that the gateway can read")
            return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password, OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError):
        yield Problem(
            "tls.key (OPENSHELL_TLS_KEY)",
            f"{key} is not the unencrypted key of the certificate in {certificate}",
            "name the PEM files of one certificate and its key",
        )


def _check_authority(title: str, path: Path) -> Iterator[Problem]:
    if fault := _unreadable(path):
        yield Problem(title, fault, "name a PEM file that the gateway can read")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        yield Problem(title, f"{path} holds no PEM certificate", "name the authority's PEM file")


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
