"""Patterns of gitignore: git is the judge of what they match (TRE-9, TRE-10, TRE-29)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openshell_files_disk.trees.patterns import MOST_PATTERNS, Patterns
from openshell_files_disk.trees.selection import Selection
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

FILES = [
    "a",
    "b",
    "ab",
    "a-",
    "]",
    "!a",
    "#b",
    "a b",
    "a ",
    "A1",
    "x\\y",
    "é",
    "aü",
    "日本",
    "\udcff",
    "a\u00a0",
    "\v",
]
DIRECTORIES = ["", "a.d/", "b.d/", "a.d/a.d/", "a.d/b.d/", "b.d/a.d/b.d/", "b.d/c/"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of git with some files of each kind of name in each directory."""
    top = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", top], check=True)
    for directory in DIRECTORIES:
        (top / directory).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if not (top / directory / name).is_dir():
                (top / directory / name).touch()
    return top


def not_ignored(top: Path, patterns: list[str]) -> set[str]:
    """Return the files that git does not ignore."""
    (top / ".git/info/exclude").write_bytes(b"".join(os.fsencode(pattern) + b"\n" for pattern in patterns))
    command = ["git", "-C", str(top), "ls-files", "-z", "--others", "--exclude-from=.git/info/exclude"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout
    return set(os.fsdecode(listed).split("\0")) - {""}


def selected(top: Path, selection: Selection) -> set[str]:
    """Return the files that a walk takes."""
    found = set[str]()
    for directory, below, names in os.walk(top):
        prefix = "" if directory == str(top) else os.path.relpath(directory, top) + "/"
        below[:] = [name for name in below if name != ".git" and selection.enters(os.fsencode(prefix + name))]
        found.update(prefix + name for name in names if selection.takes(os.fsencode(prefix + name)))
    return found


PIECES = [
    "a",
    "b",
    "a.d",
    "b.d",
    "c",
    "-",
    "1",
    "d",
    ".",
    "y",
    "*",
    "?",
    "??",
    "**",
    "é",
    r"\a",
    r"\!",
    r"\ ",
    r"\\",
]
BRACKETS = ["[ab]", "[!a]", "[^]a]", "[a-c]", "[[:digit:]]", "[]-]", r"[\]]", "[é]", "[à-ü]", "[[:space:]]"]

names = st.lists(st.sampled_from([*PIECES, *BRACKETS]), min_size=1, max_size=4).map("".join)
one_pattern = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "!", "/", "**/", "!/"]),
    st.lists(names | st.just("**"), min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "", "/", "/**", "/*"]),
    st.sampled_from(["", "", " "]),
)


@given(patterns=st.lists(one_pattern, min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_exclude_is_what_git_ignores(repository: Path, patterns: list[str]) -> None:
    """TRE-9: for any patterns that can be read."""
    readable = [pattern for pattern in patterns if is_readable(pattern)]
    assert selected(repository, Selection(exclude=readable)) == not_ignored(repository, readable)


@given(patterns=st.lists(one_pattern, min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_include_is_what_git_would_ignore(repository: Path, patterns: list[str]) -> None:
    """TRE-9: files that a pattern matches, or a directory above them."""
    readable = [pattern for pattern in patterns if is_readable(pattern)]
    if readable:
        everything = not_ignored(repository, [])
        assert selected(repository, Selection(include=readable)) == everything - not_ignored(
            repository, readable
        )


def is_readable(pattern: str) -> bool:
    try:
        Patterns("exclude", [pattern])
    except TransferError:
        return False
    return True


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        " ",
        "!",
        "/",
        "!/",
        "a\nb",
        "a\0",
        "a//b",
        "./a",
        "a/../b",
        "a\\",
        "[a",
        "[b-a]",
        "[[:word:]]",
        "#a",
    ],
)
def test_patterns_that_cannot_be_read(pattern: str) -> None:
    """TRE-29: what git takes for a pattern that matches nothing is a mistake, too."""
    with pytest.raises(TransferError) as raised:
        Patterns("include", ["*.py", pattern])
    assert raised.value.reason is Reason.INVALID_REQUEST
    assert raised.value.field_violations[0].field == "include[1]"


@pytest.mark.parametrize("patterns", [["a"] * (MOST_PATTERNS + 1), ["**/" + "a/" * 32 + "b"]])
def test_patterns_that_would_take_long_are_refused(patterns: list[str]) -> None:
    """TRE-29: their number, and the names beside `**`."""
    with pytest.raises(TransferError) as raised:
        Patterns("exclude", patterns)
    assert raised.value.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 100 + "b", "a" * 255),
        ("*a*a*a*a*a*a*a*b", "/".join(["a" * 255] * 15)),
        ("**/a/" * 10 + "b", "a/" * 2000 + "c"),
        ("**/*a*a*a*a*b/**/*a*a*a*b", "/".join(["a" * 255] * 15)),
    ],
)
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    """The agent's other callers wait while a name is matched: an expression for the whole pattern takes hours here."""
    patterns = Patterns("exclude", [pattern])
    began = time.process_time()
    assert not patterns.match(path.encode(), directory=False)
    assert time.process_time() - began < 1


def test_names_that_are_no_lines() -> None:
    """A line feed in a name is a character, also in the middle of a path and at its end."""
    patterns = Patterns("exclude", ["*.log", "d/*/x?"])
    assert patterns.match(b"a\nb/c.log", directory=False)
    assert patterns.match(b"d/\n/x\n", directory=False)
    assert not patterns.match(b"c.log\n", directory=False)


@pytest.mark.parametrize(
    "pattern",
    ["?", "??", "a?", "[é]", "[é][é]", "[!a]", "[!a][!a]", "a[^b]c", "[à-ü]*", "[[:space:]]", "é", "日??本"],
)
def test_letters_of_several_bytes(repository: Path, pattern: str) -> None:
    """TRE-9: git compares bytes, of which a letter may have several, and knows the spaces of ASCII only."""
    expected = not_ignored(repository, [pattern])
    assert selected(repository, Selection(exclude=[pattern])) == expected
    everything = not_ignored(repository, [])
    assert selected(repository, Selection(include=[pattern])) == everything - expected
