"""What a command imports before it begins: every module is a part of the time that a person waits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_scene import Cli
from fake_file_gateway import FakeFile, FakeGateway

#: Runs the command and writes the modules that it has imported.
LISTING = """
import os, sys
listing = os.environ.pop("LISTING")
before = set(sys.modules)
exit_ = os._exit
def end(status):
    with open(listing, "w") as file:
        file.write("\\n".join(set(sys.modules) - before))
    exit_(status)
os._exit = end
from openshell_files.cli import main
main()
"""

#: All of our own modules that the help of the whole command needs.
OF_HELP = {
    "openshell_files",
    "openshell_files._core",
    "openshell_files._core.resources",
    "openshell_files._local",
    "openshell_files._local.open_files",
    "openshell_files.cli",
    "openshell_files.cli.app",
    "openshell_files.cli.completing",
    "openshell_files.cli.exit_codes",
    "openshell_files.cli.leaving",
    "openshell_files.cli.mistakes",
    "openshell_files.cli.process",
    "openshell_files.cli.usage",
    "openshell_files.errors",
    "openshell_files_process",
    "openshell_files_process.command_help",
    "openshell_files_process.standard_streams",
    "openshell_files_protocol",
    "openshell_files_protocol.errors",
    "openshell_files_protocol.reasons",
}

#: Distributions that an upload needs besides ours. gRPC imports typing_extensions and asyncio by itself.
OF_UPLOAD = {"blake3", "click", "google", "google_crc32c", "grpc", "typing_extensions"}

#: What gRPC imports if it is there, without a use for it here.
OF_GRPC = {"cython_runtime", "grpc_health", "grpc_reflection", "grpc_tools"}

#: Parts of the standard library that only gRPC needs, or that only some commands need.
OF_A_CALL = {
    "asyncio",
    "concurrent",
    "email",
    "http",
    "json",
    "multiprocessing",
    "socket",
    "ssl",
    "subprocess",
}

#: What other commands than an upload of a file need.
OTHERS = (
    "openshell_files._async",
    "openshell_files._local.trees.engines",
    "openshell_files._official.asynchronous",
    "openshell_files._sync.tokens.requests",
    "openshell_files._sync.trees.attempts",
    "openshell_files._sync.trees.transfers",
    "openshell_files.cli.directories.change_commands",
    "openshell_files.cli.directories.list_command",
    "openshell_files.cli.directories.place_commands",
    "openshell_files.cli.state_commands",
    "openshell_files.cli.transfer.download_command",
    "openshell_files_disk.archives",
    "openshell_files_disk.filesystem",
    "openshell_files_disk.trees.receiver",
    "openshell_files_disk.trees.sender",
    "email",
    "http",
    "importlib.metadata",
)


def imported(cli: Cli, *words: str, status: int = 0) -> set[str]:
    """Return the modules that a command line has imported."""
    listing = cli.home / "listing"
    cli.env["LISTING"] = str(listing)
    ended = cli.programmed(LISTING, *words)
    assert ended.status == status, ended
    return set(listing.read_text().split())


def distributions(modules: set[str]) -> set[str]:
    """Return the top packages that are neither ours nor of the standard library."""
    tops = {name.partition(".")[0] for name in modules}
    return {top for top in tops - sys.stdlib_module_names if not top.startswith(("openshell_files", "_"))}


def of_a_call(modules: set[str]) -> set[str]:
    return distributions(modules) - OF_GRPC


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("openshell_files")}


def test_help_imports_its_own_modules_and_click(cli: Cli) -> None:
    modules = imported(cli, "--help")
    assert distributions(modules) == {"click"}
    assert ours(modules) == OF_HELP
    assert {name.partition(".")[0] for name in modules} & OF_A_CALL == set()


@pytest.mark.parametrize(
    "words",
    [["upload", "--help"], ["download", "-h"], ["ls", "--help"], ["cp", "--help"], ["stat", "--help"]],
    ids=" ".join,
)
def test_help_of_a_command_does_not_connect(cli: Cli, words: list[str]) -> None:
    modules = imported(cli, *words)
    assert distributions(modules) == {"click"}
    assert modules & {"openshell_files._official.blocking", "asyncio", "email"} == set()


@pytest.mark.parametrize(
    "words",
    [["uplod"], ["upload"], ["upload", "demo", "a", "--nonsense"], ["stat", "demo", "a", "--attempts", "0"]],
    ids=" ".join,
)
def test_a_wrong_command_line_does_not_connect(cli: Cli, words: list[str]) -> None:
    assert distributions(imported(cli, *words, status=2)) == {"click"}


def test_a_completion_does_not_connect(cli: Cli) -> None:
    cli.env |= {
        "_OPENSHELL_FILES_COMPLETE": "bash_complete",
        "COMP_WORDS": "openshell-files upload --d",
        "COMP_CWORD": "2",
    }
    assert distributions(imported(cli)) == {"click"}


def test_an_upload_of_a_file_imports_nothing_of_other_commands(cli: Cli, gateway: FakeGateway) -> None:
    (cli.home / "a").write_bytes(b"1")
    modules = imported(cli, "upload", "demo", "a", "x")
    assert gateway.files["x"].content == b"1"
    assert of_a_call(modules) == OF_UPLOAD
    assert {name for name in modules if name.startswith(OTHERS)} == set()


def test_a_download_of_a_file_imports_nothing_of_other_commands(
    cli: Cli, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.files["x"] = FakeFile(b"1")
    modules = imported(cli, "download", "demo", "x", str(tmp_path / "got"))
    assert of_a_call(modules) == OF_UPLOAD
    others = {name.replace("download_command", "upload_command") for name in OTHERS}
    assert {name for name in modules if name.startswith(tuple(others))} == set()
