"""Trees up: what is sent, what the sandbox says of it, lost streams, atomic trees, and sandboxes that lie."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from digest_values import UNKNOWN
from fake_file_gateway import EndWithoutWord, FakeGateway, PlainStatus, Stall
from fake_trees import STARTED, TREE, Up, UpAnswer, directory, file
from openshell_files import (
    NO_RETRY,
    Durability,
    Links,
    RetryPolicy,
    SandboxFiles,
    TreeOptions,
    TreeProblem,
    TreeProgress,
    errors,
    tree_so_far,
)
from openshell_files._async.trees import transfers as asynchronous
from openshell_files._sync.trees import transfers as blocking
from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason
from scripted_sender import ScriptedSender
from sdk_flavours import Connect

Start = trees_pb2.UploadTreeStart
CONTENT = {number: entry.path for number, entry in enumerate(TREE)}


@pytest.fixture(autouse=True)
def senders(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedSender]:
    """Return the senders that the driver makes; each sends `TREE`, whose files' content is their path."""
    made: list[ScriptedSender] = []

    def make(*_: object) -> ScriptedSender:
        made.append(ScriptedSender([TREE], CONTENT))
        return made[-1]

    use(monkeypatch, make)
    return made


def use(monkeypatch: pytest.MonkeyPatch, make: Callable[..., ScriptedSender]) -> None:
    monkeypatch.setattr(asynchronous, "make_sender", make)
    monkeypatch.setattr(blocking, "make_sender", make)


@pytest.fixture(autouse=True)
def place(gateway: FakeGateway, tmp_path: Path) -> Path:
    """Return the directory that stands for the sandbox."""
    gateway.tree_place = tmp_path / "sandbox"
    gateway.tree_place.mkdir()
    return gateway.tree_place


def answers(*messages: UpAnswer | bytes) -> Callable[..., Iterable[UpAnswer | bytes]]:
    """Return a hook that answers this, whatever comes."""
    return lambda *_: iter(messages)


def reply(decided: int, **fields: Any) -> UpAnswer:
    return UpAnswer(reply=trees_pb2.TreeReply(decided_entries=decided, **fields))


RESULT = UpAnswer(
    result=trees_pb2.UploadTreeResult(
        directory=files_pb2.FileInfo(path="/tree", type=files_pb2.FILE_TYPE_DIRECTORY), created=True
    )
)


def test_a_tree(sandbox: SandboxFiles, place: Path, senders: list[ScriptedSender]) -> None:
    seen: list[TreeProgress] = []
    result = sandbox.upload_tree("local", "t", progress=seen.append)
    assert (place / "t/a.txt").read_bytes() == b"a.txt"
    assert (place / "t/link").readlink() == Path("a.txt")
    assert os.path.samefile(place / "t/a.txt", place / "t/other-name")
    assert os.path.exists(os.fsencode(place) + b"/t/sub/\xff")
    assert (result.path, result.source) == (str(place / "t"), "local")
    assert (result.entries, result.sent, result.made, result.unchanged) == (7, 2, 5, 0)
    assert (result.content_bytes, result.total_bytes, result.attempts) == (10, 10, 1)
    assert (result.complete, result.created, result.durability) == (True, True, Durability.FSYNC)
    last = seen[-1]
    assert (last.entries_done, last.entries_total, last.bytes_done, last.bytes_total) == (7, 7, 10, 10)
    again = sandbox.upload_tree("local", "t")
    assert (again.unchanged, again.content_bytes, again.created) == (7, 0, False)
    assert [sender.closed for sender in senders] == [True, True]
    assert senders[0].algorithm is DigestAlgorithm.BLAKE3


def test_options_are_sent(
    sandbox: SandboxFiles, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    def make(*arguments: Any) -> ScriptedSender:
        made.append(arguments)
        return ScriptedSender([TREE], CONTENT, compare=arguments[1].checksum)

    use(monkeypatch, make)
    options = TreeOptions(include=["*.txt"], exclude=["b"], links=Links.FOLLOW, checksum=True)
    sandbox.upload_tree("local", "t", options=options, parents=True, durability=Durability.RENAME)
    path, chosen, only = made[0]
    assert (path, only) == ("local", None)
    assert (chosen.include, chosen.exclude, chosen.links) == (("*.txt",), ("b",), Links.FOLLOW)
    sandbox.upload_tree("local", "x", atomic=True)
    sandbox.upload_tree("local", "y", delete=True, dry_run=True)
    first, second, third = gateway.method_calls(methods.UPLOAD_TREE)
    assert isinstance(first, Start)
    assert isinstance(second, Start)
    assert isinstance(third, Start)
    assert (first.path, first.sandbox.name, first.compare_content) == (b"t", "demo", True)
    assert (first.parents, first.durability) == (files_pb2.PARENT_POLICY_CREATE, files_pb2.DURABILITY_RENAME)
    assert (second.atomic, second.delete_others, second.dry_run) == (True, False, False)
    assert (third.atomic, third.delete_others, third.dry_run) == (False, True, True)


def test_gitignore(sandbox: SandboxFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What git takes is found out before a stream begins, and a directory that is not there is its own error."""
    made: list[Any] = []

    def make(_path: str, _options: TreeOptions, only: frozenset[bytes] | None) -> ScriptedSender:
        made.append(only)
        return ScriptedSender([TREE], CONTENT)

    def taken(_path: str, _seconds: float | None) -> frozenset[bytes]:
        return frozenset([b"a.txt"])

    use(monkeypatch, make)
    for module in (asynchronous, blocking):
        monkeypatch.setattr(module, "git_files", taken)
    sandbox.upload_tree(tmp_path, "t", gitignore=True)
    assert made == [frozenset([b"a.txt"])]
    with pytest.raises(errors.LocalFileError, match="cannot read the directory"):
        sandbox.upload_tree(tmp_path / "missing", "t", gitignore=True)


def test_a_checksum_waits_for_the_algorithm(
    sandbox: SandboxFiles, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRE-3: no digest is sent before the answer that names its algorithm."""
    gateway.digests = [files_pb2.DIGEST_ALGORITHM_SHA256]
    order: list[str] = []
    asked = threading.Event()

    def late(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        asked.wait(0.1)
        order.append("started")
        yield from gateway.receive(start, requests)

    gateway.on_upload_tree = late

    def note() -> None:
        order.append("next")
        asked.set()

    def make(*_: object) -> ScriptedSender:
        sender = ScriptedSender([TREE], CONTENT, compare=True)
        sender.on_next = note
        return sender

    use(monkeypatch, make)
    sandbox.upload_tree("local", "t", checksum=True)
    assert order[0] == "started"


def test_dry_run(
    sandbox: SandboxFiles,
    place: Path,
) -> None:
    (place / "t").mkdir()
    (place / "t/old").touch()
    result = sandbox.upload_tree("local", "t", dry_run=True, delete=True)
    assert sorted(path.name for path in place.iterdir()) == ["t"]
    assert (result.sent, result.deleted, result.content_bytes, result.durability) == (2, 1, 0, None)
    assert result.deleted_paths == ("old",)
    assert {"a.txt", "sub/\udcff"} <= set(result.changed_paths)


def test_problems(
    sandbox: SandboxFiles,
    place: Path,
) -> None:
    """What does not get into place is in the result, and everything else arrives."""
    (place / "t/a.txt").mkdir(parents=True)
    result = sandbox.upload_tree("local", "t")
    assert (result.problems[0].path, result.problems[0].reason) == ("a.txt", "IS_A_DIRECTORY")
    assert (result.complete, result.sent) == (False, 1)


def test_a_lost_stream_goes_on(
    sandbox: SandboxFiles, gateway: FakeGateway, place: Path, senders: list[ScriptedSender]
) -> None:
    """TRE-55: with the same arguments; what arrived is unchanged then, and not sent again."""

    def twice(number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            yield answer
            if number == 1 and answer.reply.changed and (place / "t/a.txt").exists():
                raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_upload_tree = twice
    result = sandbox.upload_tree("local", "t", delete=True)
    assert (result.attempts, result.entries, result.sent, result.complete) == (2, 7, 1, True)
    first, second = gateway.method_calls(methods.UPLOAD_TREE)
    assert first == second
    assert [sender.closed for sender in senders] == [True, True]


@pytest.mark.parametrize("stays", ["nothing", "what arrived"])
def test_an_attempt_that_gets_no_further_is_no_progress(
    connect: Connect, gateway: FakeGateway, place: Path, stays: str
) -> None:
    """A full disk ends the call, though each attempt changes directories, or sends a file that does not stay as it was."""

    def full(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            yield answer
            if len(answer.reply.changed) and (place / "t/a.txt").exists():
                if stays == "nothing":
                    os.utime(place / "t/a.txt", (1, 1))
                raise TransferError(Reason.DISK_FULL, "no space left")

    gateway.on_upload_tree = full
    policy = RetryPolicy(attempts=3, initial_delay=0)
    with pytest.raises(errors.DiskFull) as caught:
        connect(retry=policy).upload_tree("local", "t", timeout=20)
    assert (found := tree_so_far(caught.value)) is not None
    assert found.attempts <= 5


def test_what_is_lost_for_good(
    connect: Connect,
    gateway: FakeGateway,
) -> None:
    """The error tells what has arrived."""

    def lost(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            yield answer
            if answer.reply.needed:
                raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_upload_tree = lost
    with pytest.raises(errors.Unavailable) as caught:
        connect(retry=NO_RETRY).upload_tree("local", "t")
    assert (found := tree_so_far(caught.value)) is not None
    assert (found.entries, found.unknown, found.complete, found.attempts) == (7, 2, False, 1)
    assert caught.value.path == "t"


@pytest.mark.parametrize("word", [EndWithoutWord(), None])
def test_a_stream_without_its_result(connect: Connect, gateway: FakeGateway, word: Exception | None) -> None:
    """TRE-53: status OK alone is no success."""

    def short(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            if answer.HasField("result"):
                return
            yield answer
            if word is not None:
                raise word

    gateway.on_upload_tree = short
    with pytest.raises(errors.Unavailable):
        connect(retry=NO_RETRY).upload_tree("local", "t")


def test_the_callers_errors_are_not_repeated(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
) -> None:
    gateway.failures[methods.UPLOAD_TREE].append(TransferError(Reason.LEAF_IS_LINK, "/t is a link"))
    with pytest.raises(errors.LeafIsLink):
        sandbox.upload_tree("local", "t")
    assert gateway.streams(methods.UPLOAD_TREE) == 1


def test_a_dry_run_is_not_repeated(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
) -> None:
    def lost(*_: object) -> Iterable[UpAnswer]:
        yield UpAnswer(started=STARTED)
        raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_upload_tree = lost
    with pytest.raises(errors.Unavailable):
        sandbox.upload_tree("local", "t", dry_run=True)
    assert gateway.streams(methods.UPLOAD_TREE) == 1


def test_nothing_is_left(
    sandbox: SandboxFiles, gateway: FakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = [directory(), file(b"a", 1, excluded=True)]
    use(monkeypatch, lambda *_: ScriptedSender([left_out], {}))
    with pytest.raises(errors.NothingMatched) as caught:
        sandbox.upload_tree("local", "t", include=["*.none"])
    assert caught.value.reason == "NOTHING_MATCHED"
    assert list(place.iterdir()) == []
    assert gateway.streams(methods.UPLOAD_TREE) <= 1
    use(monkeypatch, lambda *_: ScriptedSender([[directory()]], {}))
    assert sandbox.upload_tree("local", "u").complete


def test_the_local_disk_fails(
    sandbox: SandboxFiles, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = ScriptedSender([TREE], CONTENT)

    def fail() -> None:
        raise TransferError(Reason.IO_ERROR, "reading /local: Input/output error", {"errno": "EIO"})

    sender.on_next = fail
    use(monkeypatch, lambda *_: sender)
    with pytest.raises(errors.LocalFileError, match="cannot read local: reading /local") as caught:
        sandbox.upload_tree("local", "t")
    assert caught.value.path == "local"
    assert sender.closed
    # The stream may have ended before it reached the gateway.
    assert gateway.streams(methods.UPLOAD_TREE) <= 1


def test_a_callback_that_raises(sandbox: SandboxFiles, senders: list[ScriptedSender]) -> None:
    """As Ctrl-C does: the stream ends, the sender is closed, and what arrived is told."""

    def interrupt(progress: TreeProgress) -> None:
        if progress.entries_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        sandbox.upload_tree("local", "t", progress=interrupt)
    assert senders[0].closed
    assert (found := tree_so_far(caught.value)) is not None
    assert found.entries == 7


# Atomic trees


def failing_after_the_end(gateway: FakeGateway, *, published: bool) -> None:
    """Lose the stream after the tree was sent; it is published or not, and StatFile tells."""

    def lost(number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        if number > 1:
            yield from gateway.receive(start, requests)
            return
        for answer in gateway.receive(start, requests if published else until_the_end(requests)):
            if answer.HasField("result"):
                break
            yield answer
        raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")

    gateway.on_upload_tree = lost


def until_the_end(requests: Iterator[Up]) -> Iterator[Up]:
    """Pass everything up to the end, which is read."""
    for request in requests:
        if request.HasField("end"):
            return
        yield request


def describe(gateway: FakeGateway, path: Path, **fields: Any) -> None:
    """Let StatFile describe what was published; in seconds and nanoseconds of `TREE`."""
    info = files_pb2.FileInfo(path=str(path), type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755, version="v")
    info.modified_time.FromNanoseconds(1_700_000_000_000_000_005)
    info.MergeFrom(files_pb2.FileInfo(**fields))
    gateway.answers[methods.STAT_FILE] = files_pb2.StatFileResponse(file=info).SerializeToString()


def test_an_atomic_tree_that_was_published(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    place: Path,
) -> None:
    """The stream was lost after its end, and the path has the tree: a success that is not sent again."""
    failing_after_the_end(gateway, published=True)
    describe(gateway, place / "t")
    result = sandbox.upload_tree("local", "t", atomic=True)
    assert (place / "t/a.txt").exists()
    assert (result.complete, result.unknown, result.created, result.attempts) == (True, 0, True, 1)
    assert result.durability is None
    assert gateway.streams(methods.UPLOAD_TREE) == 1


@pytest.mark.parametrize(
    "other", [{"mode": 0o700}, {"modified_time": {"seconds": 5}}, {"type": files_pb2.FILE_TYPE_REGULAR}]
)
def test_an_atomic_tree_and_another_ones_directory(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    place: Path,
    other: dict[str, Any],
) -> None:
    failing_after_the_end(gateway, published=True)
    describe(gateway, place / "t", **other)
    with pytest.raises(errors.OutcomeUnknown):
        sandbox.upload_tree("local", "t", atomic=True)


def test_an_atomic_tree_that_was_not_published(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    place: Path,
) -> None:
    failing_after_the_end(gateway, published=False)
    result = sandbox.upload_tree("local", "t", atomic=True)
    assert (result.attempts, result.complete, (place / "t/a.txt").exists()) == (2, True, True)


def test_an_atomic_tree_that_is_published_later(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    place: Path,
) -> None:
    """The path was free when the SDK looked; the agent of the lost stream published a moment later."""
    failing_after_the_end(gateway, published=True)
    gateway.failures[methods.STAT_FILE].append(TransferError(Reason.FILE_NOT_FOUND, "nothing yet"))
    describe(gateway, place / "t")
    result = sandbox.upload_tree("local", "t", atomic=True)
    assert (result.attempts, result.complete, result.entries) == (2, True, 7)


@pytest.mark.parametrize("look", ["fails", "finds nothing"])
def test_an_atomic_tree_of_which_nothing_is_known(connect: Connect, gateway: FakeGateway, look: str) -> None:
    """Without a retry a path that is free now may be taken a moment later."""
    failing_after_the_end(gateway, published=False)
    if look == "fails":
        gateway.failures[methods.STAT_FILE].append(TransferError(Reason.RELAY_LOST, "lost"))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        connect(retry=NO_RETRY).upload_tree("local", "t", atomic=True)
    assert tree_so_far(caught.value) is not None


def test_an_atomic_tree_with_a_problem(
    sandbox: SandboxFiles, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = [directory(), file(b"a", 1, reason="ACCESS_DENIED", message="locked"), file(b"b", 1)]
    use(monkeypatch, lambda *_: ScriptedSender([tree], {2: b"b"}))
    with pytest.raises(errors.TreeIncomplete) as caught:
        sandbox.upload_tree("local", "t", atomic=True)
    assert list(place.iterdir()) == []
    assert (found := tree_so_far(caught.value)) is not None
    assert found.problems == (TreeProblem("a", "ACCESS_DENIED", "locked"),)


def test_an_atomic_tree_and_a_path_that_exists(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    place: Path,
) -> None:
    (place / "t").mkdir()
    with pytest.raises(errors.FileExists):
        sandbox.upload_tree("local", "t", atomic=True)
    assert gateway.streams(methods.UPLOAD_TREE) == 1


# Hostile sandboxes

#: Name → answers that break the protocol, and a part of the error.
BROKEN: dict[str, tuple[list[UpAnswer | bytes], str]] = {
    "no start": ([reply(0)], "it begins with reply"),
    "digest": (
        [UpAnswer(started=trees_pb2.TreeStarted(path=b"/t", digest_algorithm=UNKNOWN))],
        "its digest is 99",
    ),
    "path": (
        [
            UpAnswer(
                started=trees_pb2.TreeStarted(path=b"t", digest_algorithm=files_pb2.DIGEST_ALGORITHM_SHA256)
            )
        ],
        "no absolute path",
    ),
    "garbage": ([UpAnswer(started=STARTED), b"\xff"], "cannot be parsed"),
    "empty": ([UpAnswer(started=STARTED), UpAnswer()], "a message is empty"),
    "an early result": ([UpAnswer(started=STARTED), RESULT], "undecided"),
    "a result of nothing": (
        [UpAnswer(started=STARTED), UpAnswer(result=trees_pb2.UploadTreeResult())],
        "directory is missing",
    ),
    "behind the result": ([UpAnswer(started=STARTED), RESULT, reply(0)], "follows the last one"),
    "too many": ([UpAnswer(started=STARTED), reply(1_000_000)], "decided"),
}


@pytest.mark.parametrize(("messages", "fault"), BROKEN.values(), ids=BROKEN)
def test_a_broken_stream(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    senders: list[ScriptedSender],
    messages: list[UpAnswer | bytes],
    fault: str,
) -> None:
    gateway.on_upload_tree = answers(*messages)
    with pytest.raises(errors.InternalError, match="the answer to UploadTree breaks the protocol") as caught:
        sandbox.upload_tree("local", "t")
    assert fault in caught.value.message
    assert gateway.streams(methods.UPLOAD_TREE) == 1
    assert senders[0].closed


def test_a_result_before_the_end(
    sandbox: SandboxFiles, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that was announced is decided, but the tree was not announced to its end."""
    use(monkeypatch, lambda *_: ScriptedSender([[directory()]], {}, ends=False))

    def early(_number: int, _start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        yield UpAnswer(started=STARTED)
        next(requests)
        yield reply(1)
        yield RESULT

    gateway.on_upload_tree = early
    with pytest.raises(errors.InternalError, match="0 of 1 entries are undecided"):
        sandbox.upload_tree("local", "t")


def test_a_reader_that_never_waits_for_the_writer(
    sandbox: SandboxFiles,
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sandbox reads nothing more until its reply was read, while the SDK has much to send."""
    tree = [[directory(), *(file(b"f%04d" % n, 200_000) for n in range(60))]]
    content = dict.fromkeys(range(1, 61), b"x" * 200000)
    use(monkeypatch, lambda *_: ScriptedSender(tree, content))

    def slow(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            yield answer
            for _ in range(200 if answer.HasField("started") else 0):
                yield UpAnswer(working=trees_pb2.TreeWorking())

    gateway.on_upload_tree = slow
    assert sandbox.upload_tree("local", "t").sent == 60


def test_idle(
    connect: Connect,
    gateway: FakeGateway,
) -> None:
    """A stream in which neither side moves is lost; `working` is movement (TRE-16)."""

    def silent(number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        yield UpAnswer(working=trees_pb2.TreeWorking())
        if number == 1:
            raise Stall
        yield from gateway.receive(start, requests)

    gateway.on_upload_tree = silent
    assert connect(idle_timeout=0.3).upload_tree("local", "t").attempts == 2


def test_waiting(connect: Connect, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAI-2: a local disk that takes long is reported, so that the stream is not idle."""
    gateway.max_pause, gateway.idle_timeout = 60.0, 0.15
    seen = threading.Event()
    sender = ScriptedSender([TREE], CONTENT, compare=True)
    sender.on_next = lambda: None if seen.wait(10) else pytest.fail("no message `waiting`")
    use(monkeypatch, lambda *_: sender)

    def watch(_number: int, start: Start, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        def watched() -> Iterator[Up]:
            for request in requests:
                if request.HasField("waiting"):
                    seen.set()
                yield request

        yield from gateway.receive(start, watched())

    gateway.on_upload_tree = watch
    assert connect().upload_tree("local", "t", checksum=True).complete


@pytest.mark.parametrize("how", ["gateway", "sandbox"])
def test_without_trees(
    connect: Connect, gateway: FakeGateway, senders: list[ScriptedSender], how: str
) -> None:
    """TRE-1: the error names the alternatives."""
    if how == "sandbox":
        gateway.failures[methods.UPLOAD_TREE].append(TransferError(Reason.METHOD_UNSUPPORTED, "no trees"))
    else:
        gateway.stop()
        gateway.lacks |= {"UploadTree"}
        gateway.start()
    with pytest.raises(errors.Unsupported) as caught:
        connect().upload_tree("local", "t")
    assert "upload_path" in caught.value.fix
    assert senders[0].closed


@pytest.mark.parametrize("last", ["selected", "excluded"])
def test_more_is_left_out_than_a_sender_may_announce(
    sandbox: SandboxFiles, place: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Entries that are left out are sent when there are too many to be held back, and what follows is found."""
    out = [file(b"f%05d" % number, 0, excluded=True) for number in range(MAX_OPEN_ENTRIES)]
    entries = [directory(), *out]
    manifests = [entries[number : number + 1024] for number in range(0, len(entries), 1024)]
    if last == "selected":
        manifests.append([directory(b"d")])
    use(monkeypatch, lambda *_: ScriptedSender(manifests, {}, window=MAX_OPEN_ENTRIES))
    if last == "selected":
        assert sandbox.upload_tree("local", "t", exclude=["f*"]).excluded == MAX_OPEN_ENTRIES
        assert (place / "t/d").is_dir()
        return
    with pytest.raises(errors.NothingMatched):
        sandbox.upload_tree("local", "t", exclude=["f*"])
