"""Directories on the command line: options, plan, report, exit status. The SDK's two methods are replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_scene import Cli, failed
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import Durability, SandboxFiles
from openshell_files._known_errors import error_from_reason
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.leaving import Told
from openshell_files.cli.output.wording import Where
from openshell_files.cli.trees.progress import TreeLine
from openshell_files.errors import ErrorFacts, FilesError, LocalFileError, LocalReason
from openshell_files.tree_options import Links, TreeOptions
from openshell_files.tree_results import TreeLoss, TreeProblem, TreeProgress, TreeResult, note_tree
from openshell_files_protocol import methods
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

DONE = TreeResult(
    path="/w/dir", source="dir", entries=2016, sent=2000, made=0, unchanged=12, excluded=3, failed=0, unknown=0,
    deleted=0, content_bytes=8_200_000, total_bytes=9_000_000, seconds=0.4, durability=Durability.FSYNC,
    created=False, dry_run=False, attempts=1,
)  # fmt: skip


def broken(count: int) -> TreeResult:
    """Return a result with problems."""
    problems = tuple(TreeProblem(f"sub/{n}\x1b", "ACCESS_DENIED", "permission denied") for n in range(count))
    return replace(DONE, failed=count, problems=problems)


class Tree:
    """Stands in for the SDK's methods: notes each call, and answers or raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, TreeOptions]] = []
        self.answers: list[TreeResult | BaseException] = []

    def __call__(self, name: str, source: str, destination: str, options: TreeOptions) -> TreeResult:
        self.calls.append((name, source, destination, options))
        answer = self.answers.pop(0) if self.answers else DONE
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def method(self, name: str) -> Callable[..., TreeResult]:
        def call(
            _sandbox: SandboxFiles,
            source: str,
            destination: str,
            *,
            options: TreeOptions,
            timeout: float | None,
            progress: Any,
        ) -> TreeResult:
            assert timeout is None
            assert progress is None, "standard error is no terminal"
            return self(name, source, destination, options)

        return call


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, cli: Cli, gateway: FakeGateway) -> Tree:
    made = Tree()
    for name in ("upload_tree", "download_tree"):
        monkeypatch.setattr(SandboxFiles, name, made.method(name))
    (cli.home / "dir/sub").mkdir(parents=True)
    (cli.home / "a").write_bytes(b"hello")
    gateway.files["f"] = FakeFile(b"hello")
    return made


def in_sandbox(gateway: FakeGateway, *, times: int = 1) -> None:
    """Let the gateway say that a download's path is a directory."""
    error = TransferError(Reason.IS_A_DIRECTORY, "remote_path: d is a directory")
    gateway.failures[methods.DOWNLOAD_FILE].extend([error] * times)


def test_an_upload_in_one_line(cli: Cli, tree: Tree) -> None:
    done = cli("upload", "demo", "dir", "x")
    assert (done.status, done.err) == (0, "")
    assert done.out == "uploaded 2000 files (8.2 MB), 12 unchanged, 3 excluded to demo:/w/dir in 0.40 s\n"
    assert tree.calls == [("upload_tree", "dir", "x/dir", TreeOptions())]
    assert cli("upload", "demo", "dir", "x", "-q").out == ""


def test_a_download_in_one_line(cli: Cli, tree: Tree, gateway: FakeGateway) -> None:
    tree.answers = [replace(DONE, sent=1, made=1, unchanged=0, excluded=0, deleted=4, content_bytes=0)]
    in_sandbox(gateway)
    done = cli("download", "demo", "/w/dir", "new")
    assert done.out == "downloaded 1 file, 1 other made or changed, 4 deleted to new in 0.40 s\n"
    assert tree.calls == [("download_tree", "/w/dir", "new", TreeOptions())]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--dry-run"], TreeOptions(dry_run=True)),
        (["--exclude", "*.pyc", "--exclude", "x/"], TreeOptions(exclude=("*.pyc", "x/"))),
        (["--include", "*.py", "--include", "*.md"], TreeOptions(include=("*.py", "*.md"))),
        (["--delete"], TreeOptions(delete=True)),
        (["--checksum"], TreeOptions(checksum=True)),
        (["--links", "skip"], TreeOptions(links=Links.SKIP)),
        (["--atomic", "--parents"], TreeOptions(atomic=True, parents=True)),
        (["--durability", "rename"], TreeOptions(durability=Durability.RENAME)),
        (["--gitignore"], TreeOptions(gitignore=True)),
        (["--links", "follow"], TreeOptions(links=Links.FOLLOW)),
    ],
)
def test_options_reach_the_call(cli: Cli, tree: Tree, words: list[str], options: TreeOptions) -> None:
    assert cli("upload", "demo", "dir", *words).status == 0
    assert tree.calls[-1][3] == options
    down = cli("download", "demo", "d/", *words)
    if options.gitignore or options.links is Links.FOLLOW:
        assert down.status == ExitCode.USAGE
    else:
        assert tree.calls[-1] == ("download_tree", "d", "d", options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["upload", "demo", "dir", "--mode", "600"], "--mode: is for files"),
        (["upload", "demo", "dir", "--no-preserve-mtime"], "--no-preserve-mtime: is for files"),
        (["upload", "demo", "dir", "--if-absent"], "--if-absent: is for files"),
        (["upload", "demo", "dir", "--if-match-version", "v"], "--if-match-version: is for files"),
        (["upload", "demo", "dir", "--resume"], "--resume: is for files"),
        (["upload", "demo", "dir", "--upload-id", "u"], "--upload-id: is for files"),
        (["upload", "demo", "dir", "--digest", "sha256"], "--digest: is for files"),
        (["upload", "demo", "dir", "--follow"], "--follow: is for files"),
        (["upload", "demo", "dir", "--replace-link"], "--replace-link: is for files"),
        (["upload", "demo", "dir", "--keep-read-only"], "--keep-read-only: is for files"),
        (["upload", "demo", "dir", "--skip-identical"], "--skip-identical: is for files"),
        (["upload", "demo", "a", "dir", "x/", "--skip-identical"], "'dir' is a directory"),
        (["upload", "demo", "a", "dir", "x/", "--exclude", "b"], "'a' is none"),
        (["upload", "demo", "a", "--dry-run"], "--dry-run: is for directories, and 'a' is none"),
        (
            ["upload", "demo", "-", "x", "--delete"],
            "--delete: is for directories, and a standard stream is none",
        ),
        (["upload", "demo", "dir", "--delete", "--atomic"], "--delete: does not fit --atomic"),
        (["upload", "demo", "dir", "--delete", "--resume"], "leave one of them out"),
        (["download", "demo", "d/", "--tail", "5"], "--tail: is for files"),
        (["download", "demo", "d/", "--mode", "600"], "--mode: is for files"),
        (["download", "demo", "d/", "--preserve-mode"], "--preserve-mode: is for files"),
        (["download", "demo", "d/", "--max-bytes", "5"], "--max-bytes: is for files"),
        (["download", "demo", "d", "-", "--exclude", "x"], "a standard stream is none"),
        (["download", "demo", "d", "--offset", "1", "--exclude", "x"], "leave one of them out"),
        (["download", "demo", "d", "--length", "1", "--durability", "rename"], "leave one of them out"),
        (["download", "demo", "d/", "--links", "follow"], "--links"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(
    cli: Cli, tree: Tree, gateway: FakeGateway, words: list[str], said: str
) -> None:
    failed(cli(*words), ExitCode.USAGE, said)
    assert not tree.calls
    assert not gateway.calls, "before any call"


def test_an_option_for_directories_and_a_file_in_the_sandbox(
    cli: Cli, tree: Tree, gateway: FakeGateway
) -> None:
    """It takes one call to know, and no content moves."""
    failed(
        cli("download", "demo", "f", "--exclude", "x"),
        ExitCode.USAGE,
        "--exclude",
        "'f' in the sandbox is none",
    )
    assert len(gateway.method_calls(methods.STAT_FILE)) == 1
    assert not gateway.streams(methods.DOWNLOAD_FILE)
    failed(cli("download", "demo", "gone", "--exclude", "x"), ExitCode.NOT_FOUND, "gone")
    assert not tree.calls


def test_a_directory_is_found_without_a_call_of_its_own_for_files(
    cli: Cli, tree: Tree, gateway: FakeGateway
) -> None:
    assert cli("download", "demo", "f", "got").status == 0
    assert not gateway.method_calls(methods.STAT_FILE)
    failed(cli("download", "demo", "gone"), ExitCode.NOT_FOUND, "gone")
    assert not tree.calls
    # With options or a destination for files it stays an error.
    in_sandbox(gateway, times=2)
    failed(
        cli("download", "demo", "d", "--tail", "3"),
        ExitCode.PATH_REFUSED,
        "d is a directory",
        "--tail is for files: leave it out",
    )
    failed(cli("download", "demo", "d", "-"), ExitCode.PATH_REFUSED, "d is a directory", "--archive")
    assert not tree.calls


def test_a_local_directory_in_the_place(cli: Cli, tree: Tree, gateway: FakeGateway) -> None:
    """As after the first of two same downloads: the file's call is not made, so the sandbox is asked."""
    info = files_pb2.FileInfo(path="/dir", type=files_pb2.FILE_TYPE_DIRECTORY)
    gateway.answers[methods.STAT_FILE] = files_pb2.StatFileResponse(file=info).SerializeToString()
    assert cli("download", "demo", "dir").status == 0
    assert tree.calls == [("download_tree", "dir", "dir", TreeOptions())]
    del gateway.answers[methods.STAT_FILE]
    (cli.home / "f").mkdir()
    failed(cli("download", "demo", "f"), ExitCode.LOCAL_FILE, "f")
    assert len(tree.calls) == 1


@pytest.mark.parametrize(("count", "listed"), [(1, 1), (20, 20), (21, 20), (500, 20)])
def test_problems(cli: Cli, tree: Tree, count: int, listed: int) -> None:
    tree.answers = [broken(count)] * 2
    done = cli("upload", "demo", "dir", "x", "-q")
    assert (done.status, done.out) == (ExitCode.PARTIAL, "")
    *lines, last = done.err.splitlines()
    assert lines[0] == "openshell-files: dir/sub/0\\x1b: permission denied [ACCESS_DENIED]"
    assert sum("ACCESS_DENIED" in line for line in lines) == listed
    assert lines[listed:] == (
        [f"openshell-files: and {count - 20} more; --json lists all of them"] if count > 20 else []
    )
    assert last.startswith("openshell-files: error: uploaded 2000 files (8.2 MB), 12 unchanged, 3 excluded, ")
    assert f"{count} failed to demo:/w/dir in 0.40 s [PARTIAL]. Mend what is listed and repeat" in last
    as_json = cli("upload", "demo", "dir", "x", "--json")
    assert (as_json.status, as_json.err, as_json.json["ok"]) == (17, "", False)
    assert len(as_json.json["problems"]) == count
    error = as_json.json["error"]
    assert (error["exit_code"], error["reason"], as_json.json["complete"]) == (17, "PARTIAL", False)
    assert error["fix"]


def test_json_of_a_tree(cli: Cli, tree: Tree) -> None:
    losses = (TreeLoss("s\udcff", ("special bits",)),)
    tree.answers = [replace(DONE, losses=losses), replace(DONE, losses=losses)]
    line = cli("upload", "demo", "dir", "--json")
    assert (line.status, line.err) == (0, "")
    fields = line.json
    assert (fields["local"], fields["path"], fields["tree"], fields["ok"]) == ("dir", "/w/dir", True, True)
    assert (fields["sent"], fields["unchanged"], fields["durability"]) == (2000, 12, "fsync")
    assert fields["losses"] == [{"path": "s\ufffd", "path_base64": "c/8=", "losses": ["special bits"]}]
    assert "changed_paths" not in fields
    told = cli("upload", "demo", "dir")
    assert told.err == (
        "openshell-files: note: 1 entry arrived without special mode bits or owner, the first is dir/s\\udcff "
        "(special bits)\n"
    )


def test_a_dry_run_prints_the_plan(cli: Cli, tree: Tree) -> None:
    plan = replace(
        DONE,
        dry_run=True,
        sent=1,
        content_bytes=0,
        deleted=1,
        changed_paths=("n\n",),
        deleted_paths=("old",),
        excluded_paths=(".git",),
    )
    tree.answers = [plan] * 3
    done = cli("upload", "demo", "dir", "x", "--dry-run", "--exclude", ".git", "--delete", "-q")
    assert done.out.splitlines() == ["send dir/n\\n", "delete x/dir/old", "skip dir/.git (--exclude)"]
    done = cli("download", "demo", "d/.", "new", "--dry-run", "--include", "*.c", "--links", "skip")
    assert done.out.splitlines() == [
        "receive d/n\\n",
        "delete new/old",
        "skip d/.git (--include or --links skip)",
        "would download 1 file, 12 unchanged, 3 excluded, 1 deleted to new in 0.40 s",
    ]
    fields = cli("upload", "demo", "dir", "--dry-run", "--json").json
    assert fields["changed_paths"] == [{"path": "n\n"}]
    assert fields["excluded_paths"] == [{"path": ".git"}]


def test_files_and_directories_together(cli: Cli, tree: Tree, gateway: FakeGateway) -> None:
    tree.answers = [broken(1), DONE]
    (cli.home / "two").mkdir()
    done = cli("upload", "demo", "dir", "a", "two", "x/")
    assert done.status == 17
    assert [call[1:3] for call in tree.calls] == [("dir", "x/dir"), ("two", "x/two")]
    assert gateway.files["x/a"].content == b"hello", (
        "a problem of one source does not keep the next from its place"
    )
    assert [line.split()[0] for line in done.out.splitlines()] == ["a", "uploaded"]
    assert done.err.splitlines()[-1].startswith("openshell-files: error: 1 of the directories did not arrive")
    tree.answers = [broken(1), DONE]
    line = cli("upload", "demo", "dir", "a", "two", "x/", "--json")
    assert (line.json["ok"], line.status) == (False, 17)
    assert [one["local"] for one in line.json["uploaded"]] == ["dir", "a", "two"]
    assert cli("upload", "demo", "dir", "a", "x/", "--json").json["ok"]
    tree.answers = [error_from_reason(Reason.ACCESS_DENIED, "no")]
    failed(cli("upload", "demo", "a", "dir", "x/", "-q"), ExitCode.NOT_PERMITTED, "1 of 2")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            error_from_reason(Reason.PARENT_NOT_FOUND, "start.path: the directory /w/a does not exist"),
            "[PARENT_NOT_FOUND]. Create it in the sandbox, or give --parents. Nothing was changed\n",
        ),
        (
            error_from_reason(
                Reason.INVALID_REQUEST,
                "exclude[0]: must not be empty",
                field_violations=(FieldViolation("exclude[0]", "must not be empty"),),
            ),
            "Correct the pattern of --exclude. Nothing was changed\n",
        ),
        (
            LocalFileError(
                "gitignore: cannot list the files of dir: none", ErrorFacts(LocalReason.LOCAL_FILE)
            ),
            "Leave --gitignore out, or run the command with git and in a repository. Nothing was changed\n",
        ),
    ],
)
def test_a_refusal_does_not_promise_that_the_same_command_helps(
    cli: Cli, tree: Tree, error: FilesError, line: str
) -> None:
    tree.answers = [noted(error, replace(DONE, sent=0, unchanged=0))]
    done = cli("upload", "demo", "dir")
    assert done.err.endswith(line)
    assert "start.path" not in done.err


def noted(error: BaseException, result: TreeResult) -> BaseException:
    note_tree(error, result)
    return error


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ([], "2012 entries are in place, 8.2 MB were sent; the same command goes on from there"),
        (["--delete"], "2012 entries are in place, 8.2 MB were sent; the same command goes on from there"),
        (["--atomic"], "nothing was published; the same command begins again"),
        (["--dry-run"], "nothing was changed"),
    ],
)
def test_an_interruption_says_what_arrived(cli: Cli, tree: Tree, words: list[str], state: str) -> None:
    tree.answers = [
        noted(Told(2), DONE),
        noted(error_from_reason(Reason.RELAY_LOST, "the relay broke"), broken(1)),
    ]
    failed(cli("upload", "demo", "dir", *words), ExitCode.INTERRUPTED, f"interrupted; {state}")
    lost = cli("upload", "demo", "dir", *words)
    assert lost.status == ExitCode.UNAVAILABLE
    problem, line = lost.err.splitlines()
    assert "dir/sub/0\\x1b: permission denied" in problem
    assert f"{state[0].upper()}{state[1:]}" in line


def test_an_interruption_before_anything_was_sent(cli: Cli, tree: Tree) -> None:
    tree.answers = [Told(2)]
    failed(cli("upload", "demo", "dir"), ExitCode.INTERRUPTED, "nothing was changed")


@pytest.mark.parametrize(
    ("reason", "words", "said"),
    [
        (Reason.FILE_EXISTS, ["--atomic"], "leave --atomic out"),
        (Reason.TREE_INCOMPLETE, ["--atomic"], "leave --atomic out"),
        (Reason.TREE_TOO_LARGE, [], "--exclude"),
        (Reason.LEAF_IS_LINK, [], "Name the directory that the link leads to"),
        (Reason.NOT_A_DIRECTORY, [], "Choose another DEST"),
        (Reason.PARENT_NOT_FOUND, [], "give --parents"),
    ],
    ids=str,
)
def test_remedies(cli: Cli, tree: Tree, reason: Reason, words: list[str], said: str) -> None:
    error: FilesError = error_from_reason(reason, "as it happened")
    tree.answers = [error]
    outcome = cli("upload", "demo", "dir", *words)
    assert said in outcome.err
    assert reason.name in outcome.err


def test_a_directory_and_a_server_without_trees(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.stop()
    gateway.lacks = {"UploadTree", "DownloadTree"}
    gateway.start()
    cli = Cli(gateway, tmp_path)
    (cli.home / "dir").mkdir()
    failed(cli("upload", "demo", "dir", "--attempts", "1"), ExitCode.UNSUPPORTED)
    failed(cli("download", "demo", "dir/", "new", "--attempts", "1"), ExitCode.UNSUPPORTED)
    assert not (cli.home / "new").exists()


def test_names_that_are_no_utf8(cli: Cli, tree: Tree) -> None:
    os.mkdir(os.fsencode(cli.home) + b"/\xff")
    assert cli("upload", "demo", "\udcff").status == 0
    assert tree.calls[-1][1:3] == ("\udcff", "\udcff")


UP = Where("demo", by_id=False, workspace="w", endpoint="gw:1", path="a/b", uploading=True)


def test_the_progress_line_has_entries_and_bytes() -> None:
    line = TreeLine("dir", UP, 100, 0.0)
    assert "dir" in line.text(0.0)
    line.update_tree(TreeProgress(10, None, 1000, None, 1000, 10, 0, 0, 0, 1), 1.0)
    assert line.text(1.0) == "dir  10 entries, 1.0 kB"
    line.update_tree(TreeProgress(20, 40, 5000, 20_000, 1000, 10, 0, 0, 0, 1), 3.0)
    assert "20 of 40 entries, 5.0 kB of 20.0 kB" in line.text(3.0)
    assert " 25%" in line.text(3.0)
    line.update_tree(TreeProgress(30, 40, 5000, 20_000, 1000, 10, 0, 0, 0, 1), 5.0)
    assert "waiting" not in line.text(6.0), "an entry without content is a movement"
    assert "waiting for sandbox demo" in line.text(7.5)
    line.update_tree(TreeProgress(40, 40, 20_000, 20_000, 1000, 10, 0, 0, 0, 1), 8.0)
    assert "verifying in the sandbox" in line.text(8.0)
    down = TreeLine("dir", replace(UP, uploading=False), 100, 0.0)
    down.update_tree(TreeProgress(40, 40, 20_000, 20_000, 1000, 10, 0, 0, 0, 1), 8.0)
    assert "verifying" not in down.text(8.0)
    one = TreeLine("dir", UP, 100, 0.0)
    one.update_tree(TreeProgress(1, None, 0, None, 0, 1, 0, 0, 0, 1), 1.0)
    assert one.text(1.0).startswith("dir  1 entry, ")


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 40, 80])
def test_the_progress_line_fits_any_terminal(width: int) -> None:
    line = TreeLine("directory", UP, width, 0.0)
    line.update_tree(TreeProgress(20_000, 40_000, 5_000_000, 20_000_000, 1000, 10, 0, 0, 0, 1), 1.0)
    assert len(line.text(1.0)) <= max(1, width - 1)
