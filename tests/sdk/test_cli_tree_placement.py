"""Where a directory lands: a case for each row of the table in docs/trees.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_scene import Cli, failed
from fake_file_gateway import FakeGateway
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.transfer.destinations import SourceType, downloads, uploads
from openshell_files.cli.trees.placement import check_deletion
from openshell_files_protocol import methods

ROOT = Path(__file__).parents[2]

#: Rows about what is at the place: tests/integration/test_cli_trees.py.
ON_THE_DISK = {15, 16, 17}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a current directory with files and directories."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "dir/a", "one/a", "two/a", "out/old", "deep/dir/a", "deep/two/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link").symlink_to("dir")


UPLOADS: list[tuple[int, list[str], list[str]]] = [
    (1, ["dir"], ["dir"]),
    (1, ["deep/dir"], ["dir"]),
    (1, ["./dir"], ["dir"]),
    (2, ["dir/"], ["dir"]),
    (2, ["deep/dir//", "x"], ["x/dir"]),
    (3, ["dir", "x"], ["x/dir"]),
    (3, ["dir", "x/"], ["x/dir"]),
    (3, ["dir", "x//"], ["x/dir"]),
    (3, ["dir", "./x"], ["x/dir"]),
    (3, ["dir", "/w/x"], ["/w/x/dir"]),
    (3, ["dir", "/"], ["/dir"]),
    (4, ["dir", "."], ["dir"]),
    (4, ["dir", "./"], ["dir"]),
    (5, ["dir/.", "x"], ["x"]),
    (5, ["dir/.", "x/"], ["x"]),
    (5, ["dir/./", "/w/x"], ["/w/x"]),
    (5, ["dir/.", "/"], ["/"]),
    (5, ["dir/."], ["."]),
    (6, ["."], ["."]),
    (6, ["./", "."], ["."]),
    (6, [".", "x"], ["x"]),
    (6, ["..", "x"], ["x"]),
    (6, ["dir/..", "x/"], ["x"]),
    (6, ["/", "x"], ["x"]),
    (12, ["a", "dir", "x/"], ["x/a", "x/dir"]),
    (12, ["dir", "deep/two", "./"], ["dir", "two"]),
    (13, ["dir", "dir"], ["dir/dir"]),
    (13, ["one", "two/"], ["two/one"]),
    (13, ["deep/dir", "one"], ["one/dir"]),
    (18, ["link"], ["link"]),
    (18, ["link/", "x"], ["x/link"]),
]


@pytest.mark.parametrize(("row", "words", "places"), UPLOADS)
def test_uploads(row: int, words: list[str], places: list[str]) -> None:
    copies = uploads("demo", words)
    assert [copy.destination for copy in copies] == places, f"PLC-{row}"
    assert [copy.type is SourceType.TREE for copy in copies] == [copy.source != "a" for copy in copies]


def test_dest_as_an_option_has_one_reading() -> None:
    assert [copy.destination for copy in uploads("demo", ["one"], "two")] == ["two/one"]


DOWNLOADS: list[tuple[int, list[str], list[str]]] = [
    (7, ["/w/x"], ["x"]),
    (7, ["x/"], ["x"]),
    (8, ["x", "new/"], ["new/x"]),
    (8, ["x/", "new/"], ["new/x"]),
    (8, ["x", "out/"], ["out/x"]),
    (8, ["x", "."], ["x"]),
    (8, ["x", "./"], ["x"]),
    (8, ["x", ".."], ["../x"]),
    (9, ["x", "new"], ["new"]),
    (9, ["x", "out"], ["out"]),
    (9, ["x/", "out"], ["out"]),
    (9, ["x", "./out"], ["out"]),
    (9, ["x", "/tmp/new/x"], ["/tmp/new/x"]),
    (10, ["x/.", "new"], ["new"]),
    (10, ["x/.", "out/"], ["out"]),
    (10, ["x/.", "."], ["."]),
    (10, [".", "new"], ["new"]),
    (10, ["/", "new/"], ["new"]),
    (12, ["x", "y", "out"], ["out/x", "out/y"]),
    (12, ["x/", "y", "new/"], ["new/x", "new/y"]),
]


@pytest.mark.parametrize(("row", "words", "places"), DOWNLOADS)
def test_downloads(row: int, words: list[str], places: list[str]) -> None:
    copies = [copy.as_tree() for copy in downloads("demo", words)]
    assert [copy.destination for copy in copies] == places, f"PLC-{row}"


@pytest.mark.parametrize(
    ("word", "kind", "asked"),
    [
        ("x", SourceType.EITHER, "x"),
        ("x/", SourceType.TREE, "x"),
        ("/w/x/.", SourceType.TREE, "/w/x"),
        (".", SourceType.TREE, "."),
        ("/", SourceType.TREE, "/"),
        ("/.", SourceType.TREE, "/"),
        ("\udcff/", SourceType.TREE, "\udcff"),
    ],
)
def test_a_word_that_only_a_directory_has(word: str, kind: SourceType, asked: str) -> None:
    (copy,) = downloads("demo", [word, "new"])
    assert (copy.type, copy.as_tree().source) == (kind, asked)


REFUSED: list[tuple[int, str, list[str], str]] = [
    (11, "download", ["x/."], "give DEST"),
    (11, "download", ["."], "give DEST"),
    (11, "download", ["/"], "give DEST"),
    (12, "upload", ["a", "dir", "x"], "end"),
    (12, "upload", ["a", "dir/.", "x/"], "cannot be one of several"),
    (12, "upload", [".", "dir", "x/"], "cannot be one of several"),
    (12, "upload", ["dir", "deep/dir", "x/"], "x/dir"),
    (12, "download", ["x", "y", "new"], "end it with `/`"),
    (12, "download", ["x", "y/.", "new/"], "cannot be one of several"),
    (13, "upload", ["one", "two"], "--to two"),
    (13, "upload", ["deep/dir", "deep/two"], "--to deep/two"),
    (13, "upload", ["a", "dir"], "--to dir"),
    (13, "upload", ["dir", "a"], "--to a"),
    (19, "download", ["x/", "-"], "standard output"),
    (19, "download", ["x/.", "-"], "standard output"),
]


@pytest.mark.parametrize(("command", "words", "said"), [case[1:] for case in REFUSED])
def test_refused(command: str, words: list[str], said: str) -> None:
    resolve = uploads if command == "upload" else downloads
    with pytest.raises(ValueError, match=re.escape(said)):
        resolve("demo", words)


DELETIONS: list[tuple[int, list[str], str]] = [
    (14, ["x", "out"], "`x/. out`"),
    (14, ["/w/x/", "new"], "`/w/x/. new`"),
    (14, ["x", "out/"], ""),
    (14, ["x/.", "out"], ""),
    (14, ["x", "deep/x"], ""),
    (14, ["x", "."], ""),
]


@pytest.mark.parametrize(("words", "said"), [case[1:] for case in DELETIONS])
def test_a_deletion_has_one_reading(words: list[str], said: str) -> None:
    """`cp` would put `x` into an existing `out`; deleting what is in `out` is no way to learn the difference."""
    if not said:
        check_deletion(*words)
        return
    with pytest.raises(ValueError, match=re.escape(said)):
        check_deletion(*words)


def test_a_deletion_is_refused_before_any_call(cli: Cli, gateway: FakeGateway) -> None:
    failed(cli("download", "demo", "x", "out", "--delete"), ExitCode.USAGE, "`x/. out`", "`out/`")
    assert not gateway.method_calls(methods.STAT_FILE)


def test_every_row_of_the_table_has_a_case() -> None:
    rows = {
        int(n) for n in re.findall(r"^\| PLC-(\d+) \|", (ROOT / "docs/trees.md").read_text(), re.MULTILINE)
    }
    cases = {case[0] for case in (*UPLOADS, *DOWNLOADS, *REFUSED, *DELETIONS)}
    assert rows == cases | ON_THE_DISK
    tested = (ROOT / "tests/integration/test_cli_trees.py").read_text()
    assert {row for row in ON_THE_DISK if f"Row {row} of the placement table" in tested} == ON_THE_DISK
