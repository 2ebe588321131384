# ruff: noqa: INP001 - a script, not a module
"""Writes the blocking client from the asynchronous one.

    python sdk/unasync.py            # write src/openshell_files/_sync
    python sdk/unasync.py --check    # fail if it is not up to date

Every module of `_async` has a twin in `_sync` without `await` and with the
names of the blocking flavour. The modules of `_BY_HAND` are written by hand
in each flavour: they wait by tasks in one and by threads in the other.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tokenize
from io import StringIO
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent / "src" / "openshell_files"
_BY_HAND: Final = frozenset(
    {
        "_calls.py",
        "_failures.py",
        "_io.py",
        "file_objects.py",
        "trees/beside.py",
        "trees/call.py",
        "upload/waiting.py",
    }
)

_NAMES: Final = {
    "AsyncClient": "Client",
    "AsyncFilesClient": "FilesClient",
    "AsyncGatewayClient": "GatewayClient",
    "AsyncRemoteReader": "RemoteReader",
    "AsyncRemoteWriter": "RemoteWriter",
    "AsyncSandboxFiles": "SandboxFiles",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_raw": "iter_raw",
    "anext": "next",
}

_HEADER: Final = "# Written by sdk/unasync.py from _async/{name}. Change that file instead.\n"

#: Types that exist in the asynchronous flavour only, after the exchange of names.
_PHRASES: Final = (
    (" | Iterable[bytes] | Iterable[bytes]", " | Iterable[bytes]"),
    ("Callable[[bytes], object | Awaitable[object]]", "Callable[[bytes], object]"),
    ("-> Awaitable[bytes]:", "-> bytes:"),
    ("-> Awaitable[FileInfo]:", "-> FileInfo:"),
    ("Callable[[_Request, Deadline], Awaitable[_Answer]]", "Callable[[_Request, Deadline], _Answer]"),
    ("Callable[[], Awaitable[None]]", "Callable[[], None]"),
    ("Callable[[Deadline], Awaitable[Capabilities]]", "Callable[[Deadline], Capabilities]"),
)


def blocking(source: str, name: str) -> str:
    """Return the blocking twin of a module, unformatted."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    text, copied = "", 0
    for token in tokenize.generate_tokens(StringIO(source).readline):
        begin = starts[token.start[0] - 1] + token.start[1]
        end = begin + len(token.string)
        if token.type == tokenize.NAME and token.string in {"async", "await"}:
            # The blank after the word is removed with it.
            replacement, end = "", end + 1
        elif token.type in {tokenize.NAME, tokenize.STRING, tokenize.COMMENT}:
            replacement = re.sub(r"\w+", lambda word: _NAMES.get(word[0], word[0]), token.string)
        else:
            continue
        text += source[copied:begin] + replacement
        copied = end
    text += source[copied:]
    text = re.sub(r"# ruff: noqa: ASYNC[^\n]*\n", "", text)
    text = re.sub(r"\bGenerator\[([\w.]+), None\]", r"Generator[\1, None, None]", text)
    for before, after in _PHRASES:
        text = text.replace(before, after)
    return _HEADER.format(name=name) + _without_doubles(text)


def _without_doubles(text: str) -> str:
    """Remove names that an import now has twice, and unused ones."""

    def once(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[2].split(",")]
        kept = sorted(set(names), key=lambda name: (not name.isupper(), name))
        used = [name for name in kept if name != "Awaitable"]
        return match[1] + ", ".join(used) + "\n" if used else ""

    return re.sub(r"(from collections\.abc import )([^\n]+)\n", once, text)


def tidy(text: str, path: Path) -> str:
    """Sort the imports and format."""
    tools = (
        ["check", "--select", "I,F401,UP028", "--fix", "--unsafe-fixes", "--quiet"],
        ["format", "--quiet"],
    )
    for command in tools:
        done = subprocess.run(  # noqa: S603 - our own tool, our own text
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"ruff {command[0]} {path.name}: {done.stdout}{done.stderr}")
        text = done.stdout
    return text


def _by_hand(name: str) -> bool:
    return name in _BY_HAND or name.endswith("__init__.py")


def main() -> int:
    """Write or check every module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on differences")
    check = parser.parse_args().check
    expected: dict[Path, str] = {}
    for source in sorted((_PACKAGE / "_async").rglob("*.py")):
        name = source.relative_to(_PACKAGE / "_async").as_posix()
        if not _by_hand(name):
            target = _PACKAGE / "_sync" / name
            expected[target] = tidy(blocking(source.read_text(), name), target)
    written = {
        path: path.relative_to(_PACKAGE / "_sync").as_posix() for path in (_PACKAGE / "_sync").rglob("*.py")
    }
    present = {path for path, name in written.items() if not _by_hand(name)}
    stale = [p for p, text in expected.items() if p not in present or p.read_text() != text]
    orphans = sorted(present - expected.keys())
    if check:
        for path in [*stale, *orphans]:
            sys.stderr.write(f"{path.name} in _sync is not what sdk/unasync.py writes\n")
        return 1 if stale or orphans else 0
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(expected[path])
    for path in orphans:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
