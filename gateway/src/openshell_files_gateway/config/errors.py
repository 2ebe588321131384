"""A configuration that the gateway will not start with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    Attributes:
        key: the setting, `table.key` as in the file, with its environment
            variable in brackets if it has one.
        fault: what is wrong with it.
        fix: what to change.
    """

    key: str
    fault: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.fault}; {self.fix}"


class ConfigurationError(Exception):
    """The configuration is refused. All problems that were found are in it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, key: str, fault: str, fix: str) -> ConfigurationError:
        """Make the error for a single problem."""
        return cls((Problem(key, fault, fix),))
