"""The protocol's vectors: cases in JSON, shipped with the suite and usable without running it.

`openshell-files-conformance` installs them as `openshell_files_conformance/vectors/`; their README explains the notation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, cast


@cache
def vectors(name: str) -> Mapping[str, Any]:
    """Return a file of vectors, `paths` or `trees/names` for example."""
    text = (
        files("openshell_files_conformance")
        .joinpath("vectors", *f"{name}.json".split("/"))
        .read_text("utf-8")
    )
    return cast(Mapping[str, Any], json.loads(text))


def value(parts: str | list[Mapping[str, Any]]) -> bytes:
    """Return bytes that a vector gives as hexadecimal text, or as parts that are repeated."""
    if isinstance(parts, str):
        return bytes.fromhex(parts)
    return b"".join(bytes.fromhex(part["hex"]) * part.get("times", 1) for part in parts)
