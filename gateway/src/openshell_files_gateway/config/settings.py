"""The whole configuration of a gateway, checked for consistency."""

from __future__ import annotations

from pydantic import model_validator

from openshell_files_gateway.config.consistency import find_problems
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.tables import GatewayTables


class GatewaySettings(GatewayTables):
    """The whole configuration. Every instance is consistent and safe.

    The constructor does not read the environment; `load_settings` does.

    Raises:
        ConfigurationError: settings contradict each other or are unsafe.
        pydantic.ValidationError: a value has a wrong type or is out of range;
            `load_settings` turns that into a ConfigurationError.
    """

    @model_validator(mode="after")
    def _check_consistency(self) -> GatewaySettings:
        problems = find_problems(self)
        if problems:
            raise ConfigurationError(problems)
        return self
