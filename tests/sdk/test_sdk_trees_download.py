"""Trees down: what arrives, what is refused, what a lost stream leaves, and sandboxes that lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_file_gateway import EndWithoutWord, FakeGateway, PlainStatus, Stall
from fake_trees import STARTED, TREE, Down, DownAnswer, directory, file, link, part
from openshell_files import (
    NO_RETRY,
    Durability,
    Links,
    SandboxFiles,
    TreeLoss,
    TreeOptions,
    TreeProblem,
    TreeProgress,
    errors,
    tree_so_far,
)
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect

Start = trees_pb2.DownloadTreeStart


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def names(top: Path) -> list[bytes]:
    """Return what is below a directory, with names of staging directories."""
    root = os.fsencode(top)
    return sorted(
        os.path.relpath(os.path.join(where, name), root)
        for where, directories, files in os.walk(root)
        for name in [*directories, *files]
    )


def test_a_tree(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """Files, links, hard links, empty directories, names that are not UTF-8; modes less the umask, as for files (D8)."""
    result = sandbox.download_tree("tree", tmp_path / "t")
    top = tmp_path / "t"
    assert names(top) == [b"a.txt", b"empty", b"link", b"other-name", b"sub", b"sub/\xff"]
    assert (top / "a.txt").read_bytes() == b"a.txt"
    assert (top / "link").readlink() == Path("a.txt")
    assert os.path.samefile(top / "a.txt", top / "other-name")
    assert stat.S_IMODE((top / "sub").stat().st_mode) == 0o755
    assert stat.S_IMODE(os.stat(os.fsencode(top) + b"/sub/\xff").st_mode) == 0o755
    assert top.stat().st_mtime_ns == (top / "sub").stat().st_mtime_ns == 1_700_000_000_000_000_005
    assert (result.path, result.source) == (str(top), "tree")
    assert (result.entries, result.sent, result.made, result.unchanged) == (7, 2, 5, 0)
    assert (result.content_bytes, result.total_bytes) == (10, 10)
    assert (result.complete, result.created, result.attempts, result.dry_run) == (True, True, 1, False)
    assert result.durability is Durability.FSYNC
    again = sandbox.download_tree("tree", tmp_path / "t")
    assert (again.sent, again.made, again.unchanged, again.content_bytes) == (0, 0, 7, 0)
    assert not again.created
    request = gateway.method_calls(methods.DOWNLOAD_TREE)[0]
    assert isinstance(request, Start)
    assert (request.path, request.sandbox.name) == (b"tree", "demo")


def test_options_are_sent(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    options = TreeOptions(include=["a*"], exclude=["b/"], links=Links.SKIP)
    sandbox.download_tree(
        "x/\udcff", tmp_path / "t", options=options, checksum=True, durability=Durability.RENAME
    )
    request = gateway.method_calls(methods.DOWNLOAD_TREE)[0]
    assert isinstance(request, Start)
    assert request.path == b"x/\xff"
    assert (list(request.include), list(request.exclude)) == (["a*"], ["b/"])
    assert (request.skip_links, request.compare_content) == (True, True)


def test_progress(sandbox: SandboxFiles, tmp_path: Path) -> None:
    seen: list[TreeProgress] = []
    result = sandbox.download_tree("tree", tmp_path / "t", progress=seen.append)
    assert [one.entries_done for one in seen] == sorted(one.entries_done for one in seen)
    last = seen[-1]
    assert (last.entries_done, last.entries_total) == (7, 7)
    assert (last.bytes_done, last.bytes_total, last.content_bytes) == (10, 10, 10)
    assert (last.sent, last.made, last.attempt) == (result.sent, result.made, 1)
    assert seen[0].entries_total is None


def test_a_callback_that_raises(sandbox: SandboxFiles, tmp_path: Path) -> None:
    """Also as Ctrl-C does: nothing staged is left, and what arrived is told."""

    def interrupt(progress: TreeProgress) -> None:
        if progress.sent:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        sandbox.download_tree("tree", tmp_path / "t", progress=interrupt)
    assert [name for name in names(tmp_path / "t") if b"openshell" in name] == []
    found = tree_so_far(caught.value)
    assert found is not None
    assert (found.sent, found.complete) == (1, False)
    assert (tmp_path / "t/a.txt").read_bytes() == b"a.txt"


def test_dry_run(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """TRE-11: nothing is made, not even the directories above, and the paths are listed."""
    gateway.tree = [*TREE[:2], file(b"b", 1, excluded=True)]
    (tmp_path / "t").mkdir()
    (tmp_path / "t/old").write_text("old")
    result = sandbox.download_tree("tree", tmp_path / "t", dry_run=True, delete=True)
    assert names(tmp_path / "t") == [b"old"]
    assert (result.dry_run, result.durability, result.content_bytes) == (True, None, 0)
    assert (result.sent, result.excluded, result.deleted) == (1, 1, 1)
    assert (result.deleted_paths, result.excluded_paths) == (("old",), ("b",))
    assert "a.txt" in result.changed_paths
    nowhere = sandbox.download_tree("tree", tmp_path / "no/where/t", dry_run=True, parents=True)
    assert (nowhere.sent, nowhere.created) == (1, True)
    assert not (tmp_path / "no").exists()


def test_delete(sandbox: SandboxFiles, tmp_path: Path) -> None:
    (tmp_path / "t/old/deep").mkdir(parents=True)
    kept = sandbox.download_tree("tree", tmp_path / "t")
    assert (kept.deleted, (tmp_path / "t/old/deep").is_dir()) == (0, True)
    result = sandbox.download_tree("tree", tmp_path / "t", delete=True)
    assert result.deleted == 2
    assert not (tmp_path / "t/old").exists()
    assert result.deleted_paths == ()


def test_problems_and_losses(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """What cannot be sent is told, and the rest arrives."""
    gateway.tree = [
        directory(),
        file(b"locked", 3, reason="ACCESS_DENIED", message="may not be read"),
        file(b"s", 1, losses=[trees_pb2.TREE_LOSS_SPECIAL_BITS, trees_pb2.TREE_LOSS_OWNER]),
    ]
    result = sandbox.download_tree("tree", tmp_path / "t")
    assert result.problems == (TreeProblem("locked", "ACCESS_DENIED", "may not be read"),)
    assert result.losses == (TreeLoss("s", ("special bits", "owner")),)
    assert (result.failed, result.sent, result.complete) == (1, 1, False)


def test_content_that_is_damaged(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """TRE-40, TRE-42: an entry whose content does not arrive is a problem; there is no half file."""

    def lying(_number: int, _start: Start, requests: Iterator[Down]) -> Iterable[DownAnswer]:
        yield DownAnswer(started=STARTED)
        tree = [directory(), file(b"a", 1), file(b"b", 1), file(b"c", 1)]
        yield DownAnswer(manifest=trees_pb2.TreeManifest(entries=tree))
        next(requests)
        changed = part(2, b"", last=False, digest=b"", reason="FILE_CHANGED", message="it grew")
        parts = [part(1, b"x", digest=bytes(32)), changed, part(3, b"c")]
        yield DownAnswer(content=trees_pb2.TreeContent(parts=parts))
        yield DownAnswer(end=trees_pb2.TreeEnd(entries=4))

    gateway.on_download_tree = lying
    result = sandbox.download_tree("tree", tmp_path / "t")
    assert {(one.path, one.reason) for one in result.problems} == {
        ("a", "DIGEST_MISMATCH"),
        ("b", "FILE_CHANGED"),
    }
    assert (result.failed, result.sent, names(tmp_path / "t")) == (2, 1, [b"c"])


def test_a_lost_stream_goes_on(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """TRE-55: what arrived is not sent again; the counts are those of the last attempt, the bytes of all."""

    def twice(number: int, _start: Start, requests: Iterator[Down]) -> Iterable[DownAnswer]:
        for answer in gateway.send(TREE, requests):
            yield answer
            if number == 1 and answer.HasField("content"):
                # After the file is in place.
                while not next(requests).reply.changed:
                    pass
                raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_download_tree = twice
    result = sandbox.download_tree("tree", tmp_path / "t")
    assert (result.attempts, result.sent, result.content_bytes, result.created) == (2, 1, 10, True)
    assert names(tmp_path / "t") == [b"a.txt", b"empty", b"link", b"other-name", b"sub", b"sub/\xff"]


def test_a_stream_without_its_end(connect: Connect, gateway: FakeGateway, tmp_path: Path) -> None:
    """TRE-53: a stream without its last message is incomplete, whatever its status is. Nothing is deleted by it."""

    def short(_number: int, _start: Start, _requests: Iterator[Down]) -> Iterable[DownAnswer]:
        yield DownAnswer(started=STARTED)
        yield DownAnswer(manifest=trees_pb2.TreeManifest(entries=[directory()]))
        raise EndWithoutWord

    gateway.on_download_tree = short
    (tmp_path / "t").mkdir()
    (tmp_path / "t/old").write_text("old")
    with pytest.raises(errors.Unavailable) as caught:
        connect(retry=NO_RETRY).download_tree("tree", tmp_path / "t", delete=True)
    assert names(tmp_path / "t") == [b"old"]
    assert (found := tree_so_far(caught.value)) is not None
    assert (found.entries, found.attempts) == (1, 1)


def test_a_dry_run_is_not_repeated(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    def lost(_number: int, _start: Start, _requests: Iterator[Down]) -> Iterable[DownAnswer]:
        yield DownAnswer(started=STARTED)
        raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_download_tree = lost
    with pytest.raises(errors.Unavailable):
        sandbox.download_tree("tree", tmp_path / "t", dry_run=True)
    assert gateway.streams(methods.DOWNLOAD_TREE) == 1


def test_an_outage_before_the_start(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.failures[methods.DOWNLOAD_TREE].append(TransferError(Reason.SUPERVISOR_NOT_CONNECTED, "away"))
    assert sandbox.download_tree("tree", tmp_path / "t", dry_run=True).attempts == 2


def test_nothing_is_left_of_a_tree(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.tree = [directory(), file(b"a", 1, excluded=True)]
    with pytest.raises(errors.NothingMatched, match="nothing of tree is left"):
        sandbox.download_tree("tree", tmp_path / "t", exclude=["a"])
    assert not (tmp_path / "t").exists()
    assert gateway.streams(methods.DOWNLOAD_TREE) == 1
    gateway.tree = [directory()]
    assert sandbox.download_tree("tree", tmp_path / "t").entries == 1


def test_nothing_is_left_and_the_destination_stays(
    sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path
) -> None:
    gateway.tree = [directory(), file(b"a", 1, excluded=True)]
    (tmp_path / "t").mkdir()
    (tmp_path / "t/old").write_text("old")
    with pytest.raises(errors.NothingMatched):
        sandbox.download_tree("tree", tmp_path / "t", exclude=["a"], delete=True)
    assert names(tmp_path / "t") == [b"old"]


def test_atomic(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    """TRE-12, TRE-13: all or nothing, and an existing path is refused before a stream begins."""
    sandbox.download_tree("tree", tmp_path / "t", atomic=True)
    assert (tmp_path / "t/sub").is_dir()
    with pytest.raises(errors.LocalFileError) as caught:
        sandbox.download_tree("tree", tmp_path / "t", atomic=True)
    assert isinstance(caught.value, OSError)
    assert gateway.streams(methods.DOWNLOAD_TREE) == 1
    gateway.tree = [directory(), file(b"a", 1, reason="ACCESS_DENIED", message="no"), file(b"b", 1)]
    with pytest.raises(errors.TreeIncomplete) as incomplete:
        sandbox.download_tree("tree", tmp_path / "u", atomic=True)
    assert not (tmp_path / "u").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]
    assert (found := tree_so_far(incomplete.value)) is not None
    assert [one.path for one in found.problems] == ["a"]


#: Name → entries behind the top directory, which no sandbox may send.
OUTSIDE = {
    "above": [file(b"../evil", 1)],
    "absolute": [file(b"/evil", 1)],
    "inner dots": [directory(b"a"), file(b"a/../../evil", 1)],
    "a link as a directory": [link(b"a", b".."), file(b"a/evil", 1)],
    "no parent": [file(b"a/evil", 1)],
    "nul": [file(b"ev\0il", 1)],
    "twice": [file(b"a", 1), file(b"a", 1)],
}


@pytest.mark.parametrize("entries", OUTSIDE.values(), ids=OUTSIDE)
def test_a_hostile_sandbox(
    sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path, entries: list[trees_pb2.TreeEntry]
) -> None:
    gateway.tree = [directory(), *entries]
    place = tmp_path / "inner"
    place.mkdir()
    with pytest.raises(errors.InternalError, match="the answer to DownloadTree breaks the protocol"):
        sandbox.download_tree("tree", place / "t")
    # Honest entries before it may be in place (TRE-54).
    assert [name for name in names(tmp_path) if not name.startswith(b"inner")] == []
    assert [name for name in names(place) if b"evil" in name or b"openshell" in name] == []
    assert gateway.streams(methods.DOWNLOAD_TREE) == 1


MANIFEST = DownAnswer(manifest=trees_pb2.TreeManifest(entries=[directory()]))
END = DownAnswer(end=trees_pb2.TreeEnd(entries=1))


def started(**fields: Any) -> DownAnswer:
    whole: dict[str, Any] = {"path": b"/tree", "digest_algorithm": files_pb2.DIGEST_ALGORITHM_SHA256} | fields
    return DownAnswer(started=trees_pb2.TreeStarted(**whole))


#: Name → answers that break the protocol, and a part of the error.
BROKEN: dict[str, tuple[list[DownAnswer | bytes], str]] = {
    "no start": ([MANIFEST, END], "it begins with manifest"),
    "two starts": ([started(), started()], "second first message"),
    "digest": ([started(digest_algorithm=7)], "its digest is 7"),
    "no digest": ([started(digest_algorithm=0)], "its digest is 0"),
    "path": ([started(path=b"tree")], "no absolute path"),
    "no bytes of a message": ([started(), b"\xff"], "cannot be parsed"),
    "empty": ([started(), DownAnswer()], "a message is empty"),
    "after the end": ([started(), MANIFEST, END, MANIFEST], "follows the last one"),
    "a number of entries": ([started(), MANIFEST, DownAnswer(end=trees_pb2.TreeEnd(entries=2))], "is 2"),
    "content of nothing": (
        [started(), MANIFEST, DownAnswer(content=trees_pb2.TreeContent(parts=[part(9, b"x")]))],
        "9",
    ),
}


@pytest.mark.parametrize(("answers", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_stream(
    sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path, answers: list[DownAnswer | bytes], fault: str
) -> None:
    gateway.on_download_tree = lambda _number, _start, _requests: iter(answers)
    with pytest.raises(errors.InternalError, match="breaks the protocol") as caught:
        sandbox.download_tree("tree", tmp_path / "t")
    assert fault in caught.value.message
    assert gateway.streams(methods.DOWNLOAD_TREE) == 1


def test_working_is_movement(connect: Connect, gateway: FakeGateway, tmp_path: Path) -> None:
    """A stream in which nothing moves for the idle timeout fails; one with `working` does not."""

    def silent(number: int, _start: Start, requests: Iterator[Down]) -> Iterable[DownAnswer]:
        yield DownAnswer(working=trees_pb2.TreeWorking())
        if number == 1:
            raise Stall
        yield from gateway.send(TREE, requests)

    gateway.on_download_tree = silent
    files = connect(idle_timeout=0.3)
    assert files.download_tree("tree", tmp_path / "t").attempts == 2


def test_a_timeout(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    def silent(_number: int, _start: Start, _requests: Iterator[Down]) -> Iterable[DownAnswer]:
        yield DownAnswer(started=STARTED)
        raise Stall

    gateway.on_download_tree = silent
    with pytest.raises(errors.DeadlineExceeded):
        sandbox.download_tree("tree", tmp_path / "t", timeout=0.3)


@pytest.mark.parametrize("how", ["gateway", "sandbox"])
def test_without_trees(connect: Connect, gateway: FakeGateway, tmp_path: Path, how: str) -> None:
    """TRE-1: a gateway or a sandbox that has no trees; the error names the alternatives."""
    if how == "sandbox":
        unsupported = TransferError(Reason.METHOD_UNSUPPORTED, "the supervisor has no trees")
        gateway.failures[methods.DOWNLOAD_TREE].append(unsupported)
    else:
        gateway.stop()
        gateway.lacks |= {"DownloadTree"}
        gateway.start()
    with pytest.raises(errors.Unsupported) as caught:
        connect().download_tree("tree", tmp_path / "t")
    assert "tar archive" in caught.value.fix
    assert not (tmp_path / "t").exists()


def test_errors_of_the_sandbox(sandbox: SandboxFiles, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.failures[methods.DOWNLOAD_TREE].append(TransferError(Reason.NOT_A_DIRECTORY, "/tree is a file"))
    with pytest.raises(errors.NotADirectory) as caught:
        sandbox.download_tree("tree", tmp_path / "t")
    assert caught.value.path == "tree"


#: Options that are only for uploads, or of the wrong kind → name in the error, and the kind of error.
WRONG: list[tuple[dict[str, Any], str, type[Exception]]] = [
    ({"gitignore": True}, "gitignore", ValueError),
    ({"links": Links.FOLLOW}, "links", ValueError),
    ({"include": [""]}, "include[0]", ValueError),
    ({"exclude": ["a\nb"]}, "exclude[0]", ValueError),
    ({"delete": True, "atomic": True}, "delete", ValueError),
    ({"links": "nothing"}, "links", ValueError),
    ({"include": "*.py"}, "include", TypeError),
    ({"exclude": [1]}, "exclude[0]", TypeError),
    ({"dry_run": 1}, "dry_run", TypeError),
    ({"destination": 5}, "destination", TypeError),
    ({"timeout": -1}, "timeout", ValueError),
]


@pytest.mark.parametrize(("options", "name", "kind"), WRONG, ids=[name for _, name, _ in WRONG])
def test_wrong_options(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    tmp_path: Path,
    options: dict[str, Any],
    name: str,
    kind: type[Exception],
) -> None:
    arguments: dict[str, Any] = {"source": "tree", "destination": tmp_path / "t"} | options
    with pytest.raises(kind) as caught:
        sandbox.download_tree(**arguments)
    assert str(caught.value).removeprefix("INVALID_REQUEST: ").startswith(f"{name}: ")
    assert gateway.calls == []
