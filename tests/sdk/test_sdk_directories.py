"""The directory methods of the SDK: requests, results, what is repeated, and answers that break the protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import grpc
import pytest
from fake_directories import DIRECTORY, FILE, entry
from fake_file_gateway import FakeGateway, PlainStatus
from openshell_files import (
    Condition,
    DirectoryEntry,
    Durability,
    FileType,
    LeafLink,
    SandboxFiles,
)
from openshell_files.errors import (
    DirectoryNotEmpty,
    FilesError,
    InternalError,
    MountPoint,
    OtherFileSystem,
    OutcomeUnknown,
    StorageError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect

#: Method of the gateway → call, and its request with the fields that the call gives.
CHANGES: dict[str, Callable[[SandboxFiles], object]] = {
    methods.MAKE_DIRECTORY: lambda files: files.make_directory("d"),
    methods.REMOVE_PATH: lambda files: files.remove("d", recursive=True),
    methods.MOVE_PATH: lambda files: files.move("a", "b"),
    methods.COPY_PATH: lambda files: files.copy("a", "b", recursive=True),
}


def requests(gateway: FakeGateway, method: str) -> list[Any]:
    return [request for called, request in gateway.calls if called == method]


def test_entries(sandbox: SandboxFiles, gateway: FakeGateway) -> None:
    """DIR-3: page by page, with names that are not UTF-8."""
    link = entry(b"c", type=files_pb2.FILE_TYPE_SYMLINK, link_target=b"\xff", mode=0o777)
    described = entry(b"caf\xe9", size_bytes=5, mode=0o640, version="v", allocated_bytes=4096)
    described.modified_time.FromNanoseconds(1_700_000_000_000_000_001)
    gateway.pages = [[entry(b"a"), link], [described], [entry(b"d", type=files_pb2.FILE_TYPE_DIRECTORY)]]
    found = list(sandbox.list_directory("x"))
    assert [one.name for one in found] == ["a", "c", "caf\udce9", "d"]
    assert (found[1].type, found[1].link_target) == (FileType.SYMLINK, "\udcff")
    assert found[2] == DirectoryEntry(
        "caf\udce9", FileType.REGULAR, 5, 0o640, 1_700_000_000_000_000_001, "v", 4096
    )
    tokens = [request.page_token for request in requests(gateway, methods.LIST_DIRECTORY)]
    assert tokens == [b"", b"c", b"caf\xe9"]
    assert found[2].modified_time is not None
    assert found[0].modified_time is None


def test_pages_are_fetched_while_they_are_needed(connect: Connect, gateway: FakeGateway) -> None:
    """DIR-4."""
    gateway.pages = [[entry(b"a")], [entry(b"b")]]
    listing = iter(connect().list_directory())
    assert next(listing).name == "a"
    if not isinstance(listing, type(iter([]))):
        assert len(requests(gateway, methods.LIST_DIRECTORY)) == 1
    assert [one.name for one in listing] == ["b"]


def test_a_listing_is_repeated_where_it_stopped(sandbox: SandboxFiles, gateway: FakeGateway) -> None:
    """DIR-16: pages are retried like every call that changes nothing."""
    gateway.pages = [[entry(b"a")], [entry(b"b")]]
    gateway.failures[methods.LIST_DIRECTORY].extend(
        [PlainStatus(grpc.StatusCode.UNAVAILABLE), None, TransferError(Reason.RELAY_LOST, "lost")]
    )
    assert [one.name for one in sandbox.list_directory()] == ["a", "b"]
    assert len(requests(gateway, methods.LIST_DIRECTORY)) == 4


#: What a caller calls → the request's method and the fields that the call gives.
REQUESTS: list[tuple[Callable[[SandboxFiles], object], str, dict[str, object]]] = [
    (lambda f: list(f.list_directory()), methods.LIST_DIRECTORY, {"path": b".", "recursive": False}),
    (
        lambda f: list(f.list_directory(PurePosixPath("/x/./y"), recursive=True)),
        methods.LIST_DIRECTORY,
        {"path": b"/x/y", "recursive": True, "page_size": 10_000},
    ),
    (
        lambda f: f.make_directory("a\udcff/", mode=0o750, parents=True, exist_ok=True),
        methods.MAKE_DIRECTORY,
        {
            "path": b"a\xff/",
            "mode": 0o750,
            "parents": files_pb2.PARENT_POLICY_CREATE,
            "exist_ok": True,
        },
    ),
    (lambda f: f.make_directory("a", mode=0), methods.MAKE_DIRECTORY, {"mode": 0o40000}),
    (lambda f: f.make_directory("a", mode=0o40755), methods.MAKE_DIRECTORY, {"mode": 0o755}),
    (
        lambda f: f.make_directory("a"),
        methods.MAKE_DIRECTORY,
        {"mode": 0, "parents": files_pb2.PARENT_POLICY_FAIL, "exist_ok": False},
    ),
    (
        lambda f: f.remove("a", missing_ok=True, if_version="v"),
        methods.REMOVE_PATH,
        {"path": b"a", "recursive": False, "missing_ok": True, "if_version": "v"},
    ),
    (
        lambda f: f.move("a", "/b", parents=True, source_version="v"),
        methods.MOVE_PATH,
        {
            "source": b"a",
            "destination": b"/b",
            "replace": directories_pb2.REPLACE_POLICY_NEVER,
            "source_version": "v",
            "parents": files_pb2.PARENT_POLICY_CREATE,
        },
    ),
    (
        lambda f: f.move("a", "b", replace=True),
        methods.MOVE_PATH,
        {"replace": directories_pb2.REPLACE_POLICY_FILE},
    ),
    (
        lambda f: f.move("a", "b", condition=Condition.version("v")),
        methods.MOVE_PATH,
        {
            "replace": directories_pb2.REPLACE_POLICY_FILE,
            "condition": files_pb2.UploadCondition(version="v"),
        },
    ),
    (
        lambda f: f.copy("a", "b", condition=Condition.absent()),
        methods.COPY_PATH,
        {"replace": directories_pb2.REPLACE_POLICY_NEVER},
    ),
    (
        lambda f: f.copy("a", "b", recursive=True, durability=Durability.RENAME, leaf_link=LeafLink.NOFOLLOW),
        methods.COPY_PATH,
        {
            "recursive": True,
            "durability": files_pb2.DURABILITY_RENAME,
            "leaf_link": files_pb2.LEAF_LINK_POLICY_NOFOLLOW,
        },
    ),
]


@pytest.mark.parametrize(("call", "method", "fields"), REQUESTS)
def test_requests(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    call: Callable[[SandboxFiles], object],
    method: str,
    fields: dict[str, object],
) -> None:
    call(sandbox)
    (request,) = requests(gateway, method)
    assert {name: getattr(request, name) for name in fields} == fields
    assert request.sandbox.name == "demo"


def test_results(sandbox: SandboxFiles) -> None:
    made = sandbox.make_directory("d")
    assert (made.created, made.directory.path, made.directory.type) == (True, "/d", FileType.DIRECTORY)
    assert sandbox.remove("d").entries == 3
    moved = sandbox.move("a", "b")
    assert (moved.replaced, moved.file.path) == (True, "/to")
    copied = sandbox.copy("a", "b")
    assert (copied.entries, copied.bytes, copied.shared_bytes, copied.replaced) == (2, 5, 4, False)
    assert copied.durability is Durability.FSYNC


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    "error",
    [
        TransferError(Reason.SUPERVISOR_NOT_CONNECTED, "away"),
        TransferError(Reason.TOO_MANY_TRANSFERS, "busy"),
        TransferError(Reason.RELAY_REFUSED, "no"),
        TransferError(Reason.RELAY_TIMEOUT, "late"),
    ],
    ids=lambda error: error.reason.name,
)
def test_a_change_that_did_not_reach_the_sandbox_is_repeated(
    sandbox: SandboxFiles, gateway: FakeGateway, method: str, error: TransferError
) -> None:
    """DIR-16."""
    gateway.failures[method].append(error)
    CHANGES[method](sandbox)
    assert len(requests(gateway, method)) == 2


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    "error",
    [
        PlainStatus(grpc.StatusCode.UNAVAILABLE),
        PlainStatus(grpc.StatusCode.DEADLINE_EXCEEDED),
        PlainStatus(grpc.StatusCode.CANCELLED),
        PlainStatus(grpc.StatusCode.UNKNOWN),
        PlainStatus(grpc.StatusCode.INTERNAL),
        TransferError(Reason.RELAY_LOST, "lost"),
        TransferError(Reason.TRANSFER_IDLE, "idle"),
        TransferError(Reason.AGENT_PROTOCOL_ERROR, "broken"),
        TransferError(Reason.INTERNAL, "a bug"),
        TransferError(Reason.GATEWAY_SHUTTING_DOWN, "ends"),
    ],
    ids=lambda error: getattr(getattr(error, "reason", None), "name", "") or error.code.name,
)
def test_a_lost_answer_leaves_the_outcome_unknown(
    sandbox: SandboxFiles, gateway: FakeGateway, method: str, error: Exception
) -> None:
    """DIR-16: the request is not repeated."""
    gateway.failures[method].append(error)
    with pytest.raises(OutcomeUnknown) as caught:
        CHANGES[method](sandbox)
    assert caught.value.path in {"d", "a"}
    assert isinstance(caught.value.__cause__, FilesError)
    assert len(requests(gateway, method)) == 1


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.DIRECTORY_NOT_EMPTY, DirectoryNotEmpty),
        (Reason.OTHER_FILE_SYSTEM, OtherFileSystem),
        (Reason.MOUNT_POINT, MountPoint),
        (Reason.IO_ERROR, StorageError),
        (Reason.DISK_FULL, OSError),
        (Reason.FILE_EXISTS, FileExistsError),
        (Reason.FILE_NOT_FOUND, FileNotFoundError),
        (Reason.FILE_CHANGED, FilesError),
    ],
)
def test_the_agents_answer_is_the_error(
    sandbox: SandboxFiles, gateway: FakeGateway, method: str, reason: Reason, kind: type[Exception]
) -> None:
    """DIR-16, DIR-17: and not repeated, even if a later try might succeed."""
    gateway.failures[method].append(TransferError(reason, "said", {"removed_entries": "7", "path": "/d/x"}))
    with pytest.raises(kind) as caught:
        CHANGES[method](sandbox)
    assert isinstance(caught.value, FilesError)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert caught.value.metadata["removed_entries"] == "7"
    assert len(requests(gateway, method)) == 1


@pytest.mark.parametrize("method", CHANGES)
def test_a_gateway_that_is_away(connect: Connect, gateway: FakeGateway, method: str) -> None:
    """DIR-16: a request that could not be sent is no unknown outcome."""
    gateway.stop()
    with pytest.raises(Unavailable) as caught:
        CHANGES[method](connect())
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("method", CHANGES)
def test_a_token_that_is_refused(connect: Connect, gateway: FakeGateway, method: str) -> None:
    """DIR-16: by a gateway that had not carried anything out."""
    gateway.accepted_tokens = {"another"}
    with pytest.raises(Unauthenticated):
        CHANGES[method](connect())


@pytest.mark.parametrize("method", CHANGES)
def test_a_sandbox_without_the_methods(sandbox: SandboxFiles, gateway: FakeGateway, method: str) -> None:
    """DIR-1."""
    gateway.failures[method].append(TransferError(Reason.METHOD_UNSUPPORTED, "unknown to this file agent"))
    with pytest.raises(Unsupported):
        CHANGES[method](sandbox)


def _bounded(gateway: FakeGateway) -> None:
    """Let a client that asks for pages for ever fail, instead of the test's timeout."""
    asked: list[None] = []

    def before() -> None:
        asked.append(None)
        assert len(asked) < 10, "pages without an end"

    gateway.before[methods.LIST_DIRECTORY] = before


def _page(*names: bytes, token: bytes = b"", **fields: Any) -> directories_pb2.ListDirectoryResponse:
    return directories_pb2.ListDirectoryResponse(
        entries=[entry(name, **fields) for name in names], next_page_token=token, directory=DIRECTORY
    )


@pytest.mark.parametrize(
    "page",
    [
        _page(b".."),
        _page(b"."),
        _page(b"/etc"),
        _page(b"a//b"),
        _page(b"a/../b"),
        _page(b"a\0"),
        _page(b"a/b"),
        _page(b"b", b"a"),
        _page(b"a", b"a"),
        _page(token=b"x"),
        _page(b"a", type=files_pb2.FILE_TYPE_UNSPECIFIED),
        directories_pb2.ListDirectoryResponse(),
        _page(b"a", size_bytes=1 << 63),
    ],
)
def test_pages_that_break_the_protocol(
    sandbox: SandboxFiles, gateway: FakeGateway, page: directories_pb2.ListDirectoryResponse
) -> None:
    """DIR-3, DIR-4: a name never leads out of the listed directory, and a listing ends."""
    gateway.answers[methods.LIST_DIRECTORY] = page.SerializeToString()
    _bounded(gateway)
    with pytest.raises(InternalError, match="breaks the protocol"):
        list(sandbox.list_directory())


def test_a_listing_that_never_ends(sandbox: SandboxFiles, gateway: FakeGateway) -> None:
    """DIR-4: the same page again is refused."""
    gateway.answers[methods.LIST_DIRECTORY] = _page(b"a", b"b", token=b"b").SerializeToString()
    _bounded(gateway)
    with pytest.raises(InternalError, match="breaks the protocol"):
        list(sandbox.list_directory())


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (methods.MAKE_DIRECTORY, directories_pb2.MakeDirectoryResponse(created=True)),
        (methods.MOVE_PATH, directories_pb2.MovePathResponse()),
        (methods.COPY_PATH, directories_pb2.CopyPathResponse(file=FILE)),
    ],
)
def test_answers_that_break_the_protocol(
    sandbox: SandboxFiles, gateway: FakeGateway, method: str, answer: Any
) -> None:
    """DIR-16: the change may have been made."""
    gateway.answers[method] = answer.SerializeToString()
    with pytest.raises(OutcomeUnknown, match="breaks the protocol"):
        CHANGES[method](sandbox)
