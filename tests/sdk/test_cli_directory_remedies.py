"""Remedies of `mkdir`, `rm`, `mv` and `cp`: each fits the words that were given, and is printed once."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Callable
from functools import partial

import pytest
from cli_scene import Cli, failed
from fake_file_gateway import FakeGateway
from openshell_files import FilesClient, RetryPolicy
from openshell_files._known_errors import error_from_reason
from openshell_files.cli.directories.remedies import mkdir_fix, place_fix, rm_fix
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.output.wording import Where, failure_words, fix_of
from openshell_files.errors import DeadlineExceeded, FilesError
from openshell_files_protocol import methods
from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.reasons import Reason

MKDIR, MKDIR_P = partial(mkdir_fix, parents=False), partial(mkdir_fix, parents=True)
RM, RM_R = partial(rm_fix, recursive=False), partial(rm_fix, recursive=True)
MV, MV_N = (partial(place_fix, no_clobber=n, moves=True) for n in (False, True))
CP, CP_N = (partial(place_fix, no_clobber=n, moves=False) for n in (False, True))

Fix = Callable[[], Callable[[FilesError], str]]

CASES: list[tuple[Fix, Reason, str, str]] = [
    (MV, Reason.INVALID_REQUEST, "destination: a/b is inside the source a", "Choose another DEST."),
    (CP, Reason.INVALID_REQUEST, "destination: f is the source", "Choose another DEST."),
    (MKDIR, Reason.FILE_EXISTS, "path: data exists", "Choose another name; if it is a directory, -p accepts it."),
    (MKDIR_P, Reason.FILE_EXISTS, "path: f exists", "Choose another name: an entry that is no directory has this one."),
    (MKDIR, Reason.PARENT_NOT_FOUND, "path: x does not exist", "-p makes it."),
    (MKDIR, Reason.INVALID_PATH, "path: has `..`", "Give a path without `..`, whose names have at most 255 bytes."),
    (MV, Reason.FILE_EXISTS, "destination: b exists", "Choose another DEST."),
    (MV_N, Reason.FILE_EXISTS, "destination: b exists", "Choose another DEST, or leave -n out."),
    (CP_N, Reason.FILE_EXISTS, "destination: b exists", "Choose another DEST, or leave -n out."),
    (CP, Reason.IS_A_DIRECTORY, "source: d is a directory; set recursive", "-r copies a directory."),
    (CP, Reason.IS_A_DIRECTORY, "destination: d is a directory", "Choose another DEST."),
    (MV, Reason.IS_A_DIRECTORY, "destination: d is a directory", "Choose another DEST."),
    (MV, Reason.PARENT_NOT_FOUND, "destination: p does not exist", "--parents makes the directories above DEST."),
    (CP, Reason.PARENT_NOT_FOUND, "source: p does not exist", "Check SRC."),
    (RM, Reason.DIRECTORY_NOT_EMPTY, "removing d: Directory not empty", "-r removes it with its content."),
    (RM_R, Reason.DIRECTORY_NOT_EMPTY, "removing d: Directory not empty", "Repeat the command: a program makes entries in it."),
    (RM, Reason.FILE_NOT_FOUND, "path: f does not exist", "Check the path; -f accepts that."),
]  # fmt: skip


@pytest.mark.parametrize(("fix", "reason", "message", "remedy"), CASES)
def test_the_remedy_fits(fix: Fix, reason: Reason, message: str, remedy: str) -> None:
    where = Where("demo", by_id=False, workspace="w", endpoint="gw:1", own_fix=fix())
    field = message.partition(":")[0]
    violations = (FieldViolation(field, message),) if reason is Reason.INVALID_REQUEST else ()
    error = error_from_reason(reason, message, field_violations=violations)
    assert fix_of(error, where) == remedy
    assert failure_words(error, where).endswith(f"[{reason.name}]. {remedy}")


@pytest.mark.parametrize("fix", [RM, RM_R, MV])
def test_a_place_that_stays(fix: Fix) -> None:
    error = error_from_reason(Reason.PATH_FORBIDDEN, "/ is the sandbox's root")
    assert "working directory" in fix()(error)


@pytest.mark.parametrize("shown", [True, False])
def test_a_wrong_field_is_described_once(*, shown: bool) -> None:
    message = "destination: f is the source" if shown else "the request is invalid"
    violation = FieldViolation("destination", "f is the source")
    error = error_from_reason(Reason.INVALID_REQUEST, message, field_violations=(violation,))
    words = failure_words(error, Where("demo", by_id=False, workspace="w", endpoint="gw:1"))
    assert words.count("destination: f is the source") == 1


@pytest.fixture
def unused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_missing_connection_is_the_cause_at_the_end_of_the_time(cli: Cli, unused: str) -> None:
    # Time enough for a first attempt on a busy machine.
    many = ("--attempts", "1000", "--timeout", "2")
    for words in (("ls", "demo"), ("stat", "demo", "f"), ("mkdir", "demo", "d"), ("download", "demo", "f")):
        failed(cli(*words, "--endpoint", unused, *many), ExitCode.UNAVAILABLE, "nothing listens there")


def test_the_timeout_is_printed_as_given(gateway: FakeGateway) -> None:
    lost = TransferError(Reason.RELAY_LOST, "the relay broke")
    gateway.failures[methods.LIST_DIRECTORY].extend([lost] * 10_000)
    policy = RetryPolicy(attempts=10_000, initial_delay=0.01, max_delay=0.01)
    with FilesClient(gateway.address, retry=policy) as client:
        entries = iter(client.sandbox("demo").list_directory("x", timeout=0.3))
        with pytest.raises(DeadlineExceeded, match=r"the call took longer than its timeout of 0\.3 seconds"):
            next(entries)


def test_ls_shows_what_it_waits_for(cli: Cli, unused: str) -> None:
    leader, follower = pty.openpty()
    cli.env |= {"TERM": "xterm", "COLUMNS": "200"}
    process = cli.start(
        "ls", "demo", "--endpoint", unused, "--attempts", "1000", "--timeout", "4", stderr=follower
    )
    os.close(follower)
    shown = b""
    while b"waiting for gateway" not in shown:
        shown += os.read(leader, 65536)
    process.kill()
    process.communicate(timeout=30)
    os.close(leader)
