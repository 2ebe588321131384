"""The error of a refused configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration.

    Attributes:
        key: the setting, `table.key` as in the file, with its environment
            variable in brackets if it has one.
        fault: the problem, as a continuation of the key.
        fix: the change that solves it.
    """

    key: str
    fault: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.fault}; {self.fix}"


class ConfigurationError(Exception):
    """The configuration is refused; the error has all of its problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, key: str, fault: str, fix: str) -> ConfigurationError:
        """Return the error for a single problem."""
        return cls((Problem(key, fault, fix),))
