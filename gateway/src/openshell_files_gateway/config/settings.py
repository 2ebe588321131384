"""The configuration of a gateway: values that fit together."""

from __future__ import annotations

from pydantic import model_validator

from openshell_files_gateway.config.consistency import find_problems
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.tables import GatewayTables


class GatewaySettings(GatewayTables):
    """The whole configuration. One that exists contradicts nothing and is not unsafe.

    Constructing it does not read the environment; `load_settings` does.

    Raises:
        ConfigurationError: settings contradict each other or are unsafe.
        pydantic.ValidationError: a value is not of its type or range;
            `load_settings` turns that into a ConfigurationError.
    """

    @model_validator(mode="after")
    def _check_consistency(self) -> GatewaySettings:
        problems = find_problems(self)
        if problems:
            raise ConfigurationError(problems)
        return self
