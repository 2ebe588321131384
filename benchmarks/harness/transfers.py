"""One transfer through the gateway under test, with every process watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.processes import Measured, Worker
from harness.rounds import Watched
from harness.stack import Stack


@dataclass(frozen=True)
class Transfers:
    """Our SDK in a client process.

    Attributes:
        stack: the gateway under test.
        client: an `sdk_worker`.
        watched: the fixture of that name.
    """

    stack: Stack
    client: Worker
    watched: Watched

    @property
    def processes(self) -> Mapping[str, list[int]]:
        """All that take part."""
        return {"client": [self.client.pid], **self.stack.pids}

    def up(self, source: Path, remote: str = "large", durable: str = "rename") -> Measured:
        """Upload a file."""
        name = self.stack.sandboxes[0].name
        return self.watched(
            lambda: self.client.ask(
                do="upload", sandbox=name, source=str(source), remote=remote, durable=durable
            ),
            self.processes,
        )

    def down(self, remote: str = "large", target: str = "got") -> Measured:
        """Download a file."""
        name, there = self.stack.sandboxes[0].name, str(self.stack.scratch / target)
        return self.watched(
            lambda: self.client.ask(do="download", sandbox=name, remote=remote, target=there), self.processes
        )

    def here(self, name: str, size: int) -> Path:
        """Make a local file of zeros' opposite, random bytes, once."""
        return random_file(self.stack.scratch / name, size)


def random_file(path: Path, size: int) -> Path:
    """Make a file of random bytes, unless it is there: nothing can be saved by compressing them."""
    if not path.exists():
        with path.open("wb") as file, open("/dev/urandom", "rb") as source:
            for begin in range(0, size, 1 << 20):
                file.write(source.read(min(1 << 20, size - begin)))
    return path
