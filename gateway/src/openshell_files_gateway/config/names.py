"""Names of the settings in the file and in the environment."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Env:
    """The environment variable of a setting.

    Attributes:
        name: name of the variable.
        separator: separator of the items, if the setting is a list.
    """

    name: str
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting with its names.

    Attributes:
        path: table and key, as in the file.
        env: its environment variable; None without one.
        description: its docstring.
        optional: True if it may be unset.
    """

    path: tuple[str, ...]
    env: Env | None
    description: str
    optional: bool

    @property
    def title(self) -> str:
        """Name in messages: `oidc.issuer (OPENSHELL_OIDC_ISSUER)`."""
        key = ".".join(self.path)
        return f"{key} ({self.env.name})" if self.env else key


def all_settings(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield the settings of a model and of its nested models, in order."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        table = _table_of(field)
        if table is not None:
            yield from all_settings(table, here)
            continue
        env = next((item for item in field.metadata if isinstance(item, Env)), None)
        yield Setting(here, env, field.description or "", optional=type(None) in get_args(field.annotation))


def title_of(model: type[BaseModel], key: str) -> str:
    """Return the title of the setting `table.key`; the key itself if it is unknown."""
    path = tuple(key.split("."))
    return next((setting.title for setting in all_settings(model) if setting.path == path), key)


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a field holds, even if it is optional; None for values and lists."""
    annotation = field.annotation
    union = get_origin(annotation) in (Union, types.UnionType)
    for candidate in get_args(annotation) if union else (annotation,):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
