"""Ids of cases that vectors give, and what a value in a vector means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell_files_conformance.checks import Env
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, SHA256, digest
from openshell_files_conformance.vectors_data import value

ALGORITHMS: Final[Mapping[str, files_pb2.DigestAlgorithm.ValueType]] = {"SHA256": SHA256, "BLAKE3": BLAKE3}

#: Signs that are the whole point of some names.
_SPOKEN: Final = {
    "/": " slash ",
    ".": " dot ",
    "\0": " nul ",
    "^": " to-the ",
    "*": " star ",
    "\\": " backslash ",
}


def slug(name: str) -> str:
    """Return the name of a vector as a part of an id."""
    for sign, spoken in _SPOKEN.items():
        name = name.replace(sign, spoken)
    words = re.findall(r"[a-z0-9]+", name.lower().encode("ascii", "backslashreplace").decode())
    return "-".join(words)


def digest_of(given: Mapping[str, Any]) -> files_pb2.Digest:
    """Return a digest that a vector gives by its value, or by the content that it is of."""
    algorithm = given["algorithm"]
    if "of" not in given:
        return files_pb2.Digest(algorithm=algorithm, value=bytes.fromhex(given.get("value", "")))
    computed = digest(value(given["of"]), BLAKE3 if algorithm == BLAKE3 else SHA256)
    return files_pb2.Digest(algorithm=algorithm, value=computed.value)


def every_clause(env: Env, clauses: Sequence[str]) -> None:
    """Say of each further clause of a vector that its outcome is as it says: the vector is of all of them together."""
    failed = [result.name for result in env.results if not result.verdict.conforms]
    for clause in clauses[1:]:
        env.check(f"outcome-{clause.lower()}", failed, equals=[], clause=clause)
