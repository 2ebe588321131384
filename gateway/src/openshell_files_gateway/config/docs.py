"""Generates docs/settings.md from the settings' docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openshell_files_gateway.config.names import Env
from openshell_files_gateway.config.settings import GatewaySettings


def markdown() -> str:
    """Return docs/settings.md."""
    lines = [
        "# Settings of the gateway",
        "",
        "<!-- Written by `make docs` from gateway/src/openshell_files_gateway/config/tables.py. -->",
        "",
        "`openshell-files-gateway serve --config FILE` reads a TOML file; an environment variable wins over the file.",
        "Times are in seconds, sizes in bytes. The gateway refuses a configuration that contradicts itself or is unsafe; the",
        "error names the key and the change.",
        "",
        "| key | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *_rows(GatewaySettings, "")]) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        table = _table(field)
        key = f"{prefix}{name}"
        if table is not None:
            yield from _rows(table, f"{key}[]." if _is_list(field) else f"{key}.")
            continue
        variable = next((item.name for item in field.metadata if isinstance(item, Env)), None)
        default = "required" if field.is_required() else f"`{_shown(field.default)}`"
        environment = f"`{variable}`" if variable else ""
        meaning = " ".join((field.description or "").split())
        yield f"| `{key}` | {environment} | {default} | {meaning} |"


def _table(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a table, or of the items of a list of tables."""
    annotation = field.annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_list(field: FieldInfo) -> bool:
    return bool(field.default == ())


def _shown(value: object) -> str:
    return '""' if value == "" else "-" if value is None else str(value)


if __name__ == "__main__":
    print(markdown(), end="")
