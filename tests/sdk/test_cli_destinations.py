"""Which file is meant: one reading only, or a refusal that says how to write each of two (PTH-1)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_scene import Cli, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.transfer.destinations import Copy, downloads, uploads


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a current directory with some files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d/a", "demo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())


def copy_of(pair: str) -> Copy:
    source, destination = pair.split(":")
    return Copy(source, destination)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "to", "pairs"),
    [
        (["a"], None, ["a:a"]),
        (["/x/a"], None, ["/x/a:a"]),
        (["a", "new"], None, ["a:new"]),
        (["a", "a"], None, ["a:a"]),
        (["a", "./a"], None, ["a:./a"]),
        (["a", "dir/"], None, ["a:dir/a"]),
        (["a", "."], None, ["a:a"]),
        (["a", "./"], None, ["a:a"]),
        (["a", "/"], None, ["a:/a"]),
        (["a", "./dir/"], None, ["a:dir/a"]),
        (["a", "b", "dir/"], None, ["a:dir/a", "b:dir/b"]),
        (["a", "b", "./"], None, ["a:a", "b:b"]),
        (["a", "b"], "dir/", ["a:dir/a", "b:dir/b"]),
        (["a"], "b", ["a:b"]),
        (["-", "b"], None, ["-:b"]),
        (["-"], "b", ["-:b"]),
    ],
)
def test_uploads(words: list[str], to: str | None, pairs: list[str]) -> None:
    assert uploads("demo", words, to) == [copy_of(pair) for pair in pairs]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "to", "said"),
    [
        (["a", "b"], None, "--to b"),
        (["a", "b", "c"], None, "`/`"),
        (["a", "b", "b"], None, "`/`"),
        (["a", "b"], "c", "`/`"),
        (["a", "d/a", "x/"], None, "x/a"),
        (["a", "a", "x/"], None, "x/a"),
        (["a", "-", "x/"], None, "standard input"),
        (["-"], None, "standard input"),
        (["-", "x/"], None, "standard input"),
        (["a", ""], None, "DEST"),
        (["missing/"], None, "names no file"),
        (["\udcff"], None, "not valid UTF-8"),
        (["a", "\udcff"], None, "not valid UTF-8"),
        (["other:dir/"], None, "openshell-files upload other demo dir/"),
    ],
)
def test_uploads_refused(words: list[str], to: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        uploads("demo", words, to)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["/x/a"], ["/x/a:a"]),
        (["x", "new"], ["x:new"]),
        (["x", "d"], ["x:d/x"]),
        (["x", "d/"], ["x:d/x"]),
        (["x", "-"], ["x:-"]),
        (["x", "y", "d"], ["x:d/x", "y:d/y"]),
        (["x", "y", "new/"], ["x:new/x", "y:new/y"]),
    ],
)
def test_downloads(words: list[str], pairs: list[str]) -> None:
    assert downloads("demo", words) == [copy_of(pair) for pair in pairs]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("demo", ["x", "y", "new"], "end it with `/`"),
        ("demo", ["x", "y", "-"], "end it with `/`"),
        ("demo", ["d/x", "x", "new/"], "new/x"),
        ("demo", ["/"], "give DEST"),
        ("demo", ["", "x"], "empty"),
        ("demo", ["\udcff"], "not valid UTF-8"),
        ("demo:/x", ["y"], "openshell-files download demo /x y"),
        ("", ["y"], "NAME"),
    ],
)
def test_downloads_refused(name: str, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        downloads(name, words)


def test_two_matches_of_a_pattern_lose_nothing(cli: Cli, gateway: FakeGateway) -> None:
    """`upload demo *.json` put the first file's content into the second one's name."""
    for name in ("a.json", "b.json"):
        (cli.home / name).write_bytes(name.encode())
    failed(cli("upload", "demo", "a.json", "b.json"), ExitCode.USAGE, "--to b.json", "./")
    assert not gateway.files
    done = cli("upload", "demo", "a.json", "b.json", "./")
    assert done.status == 0
    assert done.out.count("\n") == 2
    assert {name: file.content for name, file in gateway.files.items()} == {
        "a.json": b"a.json",
        "b.json": b"b.json",
    }
    assert cli("upload", "demo", "a.json", "--to", "b.json").status == 0
    assert gateway.files["b.json"].content == b"a.json"


def test_the_first_failure_of_several_says_how_far_it_came(cli: Cli, gateway: FakeGateway) -> None:
    (cli.home / "a").write_bytes(b"1")
    failed(cli("upload", "demo", "a", "gone", "d/", "-q"), ExitCode.LOCAL_FILE, "gone", "1 of 2 files")
    line = cli("upload", "demo", "a", "gone", "d/", "--json")
    assert (line.json["ok"], [one["path"] for one in line.json["uploaded"]]) == (False, ["/d/a"])
    assert line.status == ExitCode.LOCAL_FILE
    gateway.files["x"] = FakeFile(b"2")
    (cli.home / "into").mkdir()
    down = cli("download", "demo", "x", "d/a", "into", "--json")
    assert [one["local"] for one in down.json["downloaded"]] == ["into/x", "into/a"]


@pytest.mark.parametrize(
    "words",
    [["stat", "demo:/x", "y"], ["uploads", "demo:"], ["abort", "demo:x", "u"], ["download", "demo:/x", "y"]],
)
def test_another_tools_form_gets_a_hint(cli: Cli, words: list[str]) -> None:
    failed(cli(*words), ExitCode.USAGE, "two words", "openshell-files")
