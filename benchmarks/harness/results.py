"""Reads what a run wrote (pytest-benchmark's JSON, and what the harness put beside it)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True)
class Test:
    """One benchmark.

    Attributes:
        name: of the test function, with its parameters.
        group: what the report puts together.
        seconds: what each round of ours took.
        extra: what the harness noted (`harness.rounds`).
    """

    name: str
    group: str
    seconds: Sequence[float]
    extra: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """What each round moved; 0 if that is not known."""
        size: int = self.extra.get("bytes", 0)
        return size

    @property
    def median(self) -> float:
        """Seconds, of ours."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """MiB/s, of ours."""
        return self.bytes / self.median / MIB

    @property
    def baseline_rate(self) -> float | None:
        """MiB/s, of what it is compared with."""
        seconds = self.extra.get("baseline_seconds")
        return None if not seconds else self.bytes / statistics.median(seconds) / MIB

    @property
    def cpu_per_gib(self) -> Mapping[str, float]:
        """CPU seconds for each GiB, by process, of ours."""
        if not self.bytes:
            return {}
        used: Mapping[str, Sequence[float]] = self.extra.get("ours_cpu", {})
        return {name: statistics.median(cpu) / self.bytes * GIB for name, cpu in used.items()}

    @property
    def share(self) -> Sequence[float]:
        """Percent of the link that was used, by round; none if it has no limit."""
        found: Sequence[float] = self.extra.get("share") or ()
        return found

    @property
    def latencies(self) -> Mapping[str, Sequence[float]]:
        """Seconds of single calls, by what was called."""
        found: Mapping[str, Sequence[float]] = self.extra.get("latencies", {})
        return found


@dataclass(frozen=True)
class Results:
    """One run.

    Attributes:
        tests: in the order they ran.
        targets: by key, as `harness.targets` has them, with what was reached.
        machine: the facts that figures depend on.
        settings: options of the run.
        when: it began.
        commit: of the code that was measured, with a word if it was changed; "" if it is not known.
    """

    tests: tuple[Test, ...]
    targets: Mapping[str, Mapping[str, Any]]
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    when: str
    commit: str = ""


def read(path: Path) -> Results:
    """Read a file that `--benchmark-json` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; `make bench` and others write results"
        ) from None
    except ValueError:
        document = None
    found = cast("dict[str, Any]", document if isinstance(document, dict) else {})
    if "benchmarks" not in found:
        raise ValueError(f"{path} is not a result of pytest-benchmark; make one with `make bench`")
    return Results(
        tuple(
            Test(
                one["name"],
                one["group"] or "",
                one["extra_info"].get("ours_seconds") or one["stats"]["data"],
                one["extra_info"],
            )
            for one in found["benchmarks"]
        ),
        found.get("targets", {}),
        found.get("machine_info", {}),
        found.get("settings", {}),
        found.get("datetime", ""),
        _commit(found.get("commit_info") or {}),
    )


def _commit(info: Mapping[str, Any]) -> str:
    """Return what git said when the run began."""
    identity = str(info.get("id") or "")
    if not identity or identity == "unknown":
        return ""
    return identity[:12] + (", with changes that are not committed" if info.get("dirty") else "")
