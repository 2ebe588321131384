"""Schemas of the messages on stdin and stdout of launchers and adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

from jsonschema import Draft202012Validator

Kind = Literal["launch", "answer", "request", "response"]
_FILES: dict[Kind, str] = {
    "launch": "launcher",
    "answer": "launcher",
    "request": "adapter",
    "response": "adapter",
}


@cache
def _validator(kind: Kind) -> Draft202012Validator:
    text = files("openshell_files_conformance").joinpath("schemas", f"{_FILES[kind]}.json").read_text("utf-8")
    return Draft202012Validator({**json.loads(text), "$ref": f"#/$defs/{kind}"})


def problem(kind: Kind, message: Any) -> str:
    """Say what is wrong with a message; nothing if it fits the schema."""
    validator: Any = _validator(kind)
    errors = sorted(validator.iter_errors(message), key=lambda error: list(map(str, error.path)))
    return "; ".join(f"{'.'.join(map(str, error.path)) or kind}: {error.message}" for error in errors[:3])


def decoded(line: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a line.

    Raises:
        ValueError: it is none.
    """
    value: Any = json.loads(line)
    # That it is no object is the sender's error, as is text that is no JSON.
    match value:
        case dict():
            return cast(Mapping[str, Any], value)
        case _:
            raise ValueError(f"not an object: {line[:200]!r}")
