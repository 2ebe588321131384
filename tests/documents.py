"""Reads the blocks of a document that a reader may copy, and runs them in order as a reader does.

A fenced block says what it is by its language, and a comment on the line
before it says what a reader cannot guess from it:

`<!-- serves until: TEXT -->`
    The last command goes on. The block is done when TEXT was printed, and
    what follows is typed in another terminal.
`<!-- saved as: FILE -->`
    The reader saves the block under that name.
`<!-- added to: FILE -->`
    The reader may add the block to a file that was saved.
`<!-- yours: WHAT -->`
    The values are the reader's own, so that the test has others.
`<!-- not run: WHY -->`
    The block shows something and is not run.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from conditions import block_until

#: Languages of blocks that nobody runs.
SHOWN: Final = frozenset({"text", "mermaid"})

#: Languages of blocks that a reader runs.
RUN: Final = frozenset({"console", "python"})

_DIRECTIVE: Final = re.compile(r"<!-- (serves until|saved as|added to|yours|not run): (.+) -->")
_FENCE: Final = re.compile(r"^( *)```(\S*) *$")
_MAKE: Final = re.compile(r"make ((?:[\w.]+=\S+ )*)([a-z][a-z-]*)")

#: A busy machine needs a while for a stack, or an import of gRPC.
_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: file and line, for messages.
        language: behind the fence.
        text: without the fences.
        directive: what the comment before it says, or "".
        value: behind the directive.
        section: the heading that it stands under.
    """

    place: str
    language: str
    text: str
    directive: str = ""
    value: str = ""
    section: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of a console block; a line ending with a backslash goes on."""
        found: list[str] = []
        for line in self.text.splitlines():
            if found and found[-1].endswith("\\"):
                found[-1] += f"\n{line.removeprefix('> ')}"
            elif line.startswith("$ "):
                found.append(line.removeprefix("$ "))
        return found

    @property
    def output(self) -> list[str]:
        """The lines of a console block that are no command."""
        commands = "\n".join(self.commands).splitlines()
        return [
            line
            for line in self.text.splitlines()
            if not line.startswith("$ ") and line.removeprefix("> ") not in commands
        ]


def blocks(document: Path, root: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order.

    Raises:
        ValueError: a fence is never closed.
    """
    lines = document.read_text("utf-8").splitlines()
    found: list[Block] = []
    number, section = 0, ""
    while number < len(lines):
        if lines[number].startswith("#"):
            section = lines[number].lstrip("# ")
        opened = _FENCE.match(lines[number])
        if not opened:
            number += 1
            continue
        place = f"{document.relative_to(root)}:{number + 1}"
        said = _DIRECTIVE.fullmatch(lines[number - 1].strip()) if number else None
        begin = number + 1
        while lines[begin : begin + 1] and lines[begin].strip() != "```":
            begin += 1
        if begin == len(lines):
            raise ValueError(f"{place}: the block has no end")
        indent = len(opened[1])
        text = "".join(f"{line[indent:]}\n" for line in lines[number + 1 : begin])
        directive, value = said.groups() if said else ("", "")
        found.append(Block(place, opened[2], text, directive, value, section))
        number = begin + 1
    return found


def made_targets(text: str) -> set[str]:
    """Return the targets of make that a text names."""
    return {match[2] for match in _MAKE.finditer(text)}


@dataclass
class Reader:
    """Somebody who types what documents say into terminals, one after another.

    Attributes:
        directory: where the terminals are opened.
        clean: the environment of a new terminal.
        yours: shell lines of the test instead of blocks that are marked so, by their value.
        patience: seconds for one block.
    """

    directory: Path
    clean: Mapping[str, str]
    yours: Mapping[str, str] = field(default_factory=dict[str, str])
    patience: float = _SECONDS
    _environment: dict[str, str] = field(default_factory=dict[str, str])
    _serving: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    _at: Path = Path()
    _count: int = 0

    def __post_init__(self) -> None:
        self.open_terminal()

    def open_terminal(self) -> None:
        """Forget what was exported, and be where the checkout is."""
        self._environment = dict(self.clean)
        self._at = self.directory

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: a command failed; the message has the place and what was printed.
        """
        match block.directive:
            case "not run" | "added to":
                pass
            case "saved as":
                (self.directory / block.value).write_text(block.text, "utf-8")
            case "yours":
                self._run(block, self.yours[block.value])
            case "serves until":
                *before, last = block.commands
                self._run(block, "\n".join(_checked(command) for command in before))
                self._serve(block, last)
            case _ if block.language == "console":
                printed = self._run(block, "\n".join(_checked(command) for command in block.commands))
                for line in block.output:
                    assert line in printed, f"{block.place}: {line!r} was not printed, but {printed}"
            case _ if block.language == "python":
                script = self.directory / f"block-{self._next()}.py"
                script.write_text(block.text, "utf-8")
                # An example is tried more than once.
                self._run(block, f"python {script}\npython {script}")
            case _:
                raise AssertionError(f"{block.place}: nothing says what a reader does with this block")

    def close(self) -> None:
        """Stop what serves, the last one first."""
        for process in reversed(self._serving):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._serving):
            process.wait(_SECONDS)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _run(self, block: Block, script: str) -> str:
        """Run shell lines, and keep what they exported."""
        state, place = self.directory.parent / "state", self.directory.parent / "place"
        # Line by line like a terminal, but the first failure is the end.
        whole = f"set -eo pipefail\n{script}\nset +e\npwd > {place}\nenv -0 > {state}\n"
        done = subprocess.run(
            ["bash", "-c", whole], cwd=self._at, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=self.patience, check=False,
        )  # fmt: skip
        printed = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{block.place}: exit status {done.returncode} of\n{script}\n{printed}"
        pairs = (pair.partition("=") for pair in state.read_text("utf-8").split("\0") if pair)
        self._environment = {name: value for name, _, value in pairs}
        self._at = Path(place.read_text("utf-8").rstrip("\n"))
        return printed

    def _serve(self, block: Block, command: str) -> None:
        printed = self.directory.parent / f"serving-{self._next()}"
        with printed.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._serving.append(process)
        block_until(
            lambda: block.value in printed.read_text("utf-8", "replace") or process.poll() is not None,
            f"{command} prints {block.value!r}",
            patience=_SECONDS,
        )
        assert process.poll() is None, (
            f"{block.place}: {command} ended:\n{printed.read_text('utf-8', 'replace')}"
        )
        self.open_terminal()


def _checked(command: str) -> str:
    """Return the command; of make only whether the target is there, since a target may take hours."""
    return f"make -n {command.removeprefix('make ')} >/dev/null" if command.startswith("make ") else command


@contextmanager
def reader(
    parent: Path,
    root: Path,
    yours: Mapping[str, str] | None = None,
    tools: Mapping[str, str] | None = None,
    *,
    elsewhere: bool = False,
) -> Generator[Reader, None, None]:
    """Give somebody with a fresh home and a checkout, whose files are links, so that nothing is written into ours.

    Args:
        parent: an empty directory.
        root: of the repository.
        yours: as in `Reader`.
        elsewhere: begins in an empty directory and not in the checkout.
        tools: variables that a reader has who has further tools; `PATH` is put before the common one.
    """
    checkout, home = parent / "checkout", parent / "home"
    checkout.mkdir()
    home.mkdir()
    for entry in root.iterdir():
        if entry.name not in {".git", ".venv", "dev.env"}:
            (checkout / entry.name).symlink_to(entry)
    # What `make setup` makes, wherever these tests have it.
    (checkout / ".venv").symlink_to(sys.prefix)
    clean = {
        "HOME": str(home),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
    }
    further = dict(tools or {})
    clean["PATH"] = ":".join([*([further.pop("PATH")] if "PATH" in further else []), clean["PATH"]])
    empty = parent / "empty"
    empty.mkdir()
    typing = Reader(empty if elsewhere else checkout, clean | further, yours or {})
    try:
        yield typing
    finally:
        typing.close()
