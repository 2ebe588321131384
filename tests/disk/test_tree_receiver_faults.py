"""TreeReceiver where the disk fails, is full, or belongs to somebody else (TRE-34, TRE-47, TRE-52, TRE-59)."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from tree_receiving import TIME, directory, file, hard_link, link, loop, part, receiving

NOBODY = 65534
#: From linux/prctl.h.
PR_SET_DUMPABLE = 4


class Failing(FileSystem):
    """Fails one system call, every time or from some call on."""

    def __init__(self, call: str, code: int, after: int = 0) -> None:
        self._fails = call
        self._code = code
        self._left = after
        original = getattr(super(), call)

        def fail(*args: Any, **kwargs: Any) -> Any:
            if self._left:
                self._left -= 1
                return original(*args, **kwargs)
            raise OSError(self._code, os.strerror(self._code))

        setattr(self, call, fail)


FATAL = [
    (errno.ENOSPC, "DISK_FULL"),
    (errno.EDQUOT, "QUOTA_EXCEEDED"),
    (errno.EROFS, "READ_ONLY_FILE_SYSTEM"),
]


@pytest.mark.parametrize(("code", "reason"), FATAL)
@pytest.mark.parametrize("call", ["pwrite", "move", "symlink", "mkdir"])
def test_what_prevents_every_further_entry_ends_the_stream(
    tmp_path: Path, call: str, code: int, reason: str
) -> None:
    """TRE-59, TRE-54: what is in place stays, and nothing staged."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top/g").write_bytes(b"old")
    fs = Failing(call, code, after={"mkdir": 1, "symlink": 0}.get(call, 1))
    with receiving(tmp_path, fs=fs) as receiver:
        with pytest.raises(TransferError) as caught:  # noqa: PT012 - any of these steps may fail
            receiver.entries(directory(), file(b"f", b"abc"), file(b"g", b"new"))
            receiver.content(part(1, b"abc"), part(2, b"new"))
            receiver.entries(link(b"l", b"x"), directory(b"d"))
        assert caught.value.reason.name == reason
    assert (tmp_path / "top/f").read_bytes() == b"abc"
    assert (tmp_path / "top/g").read_bytes() == (b"old" if call in {"pwrite", "move"} else b"new")
    assert not [name for name in os.listdir(tmp_path / "top") if name.startswith(".")]


@pytest.mark.parametrize(
    ("call", "problems"),
    [
        ("pwrite", {1: "IO_ERROR", 3: "FILE_NOT_FOUND"}),
        ("chmod", {1: "IO_ERROR", 3: "FILE_NOT_FOUND"}),
        ("symlink", {2: "IO_ERROR"}),
        ("set_link_time", {2: "IO_ERROR"}),
        ("link_between", {3: "IO_ERROR"}),
        ("move", {1: "IO_ERROR", 2: "IO_ERROR", 3: "FILE_NOT_FOUND"}),
    ],
)
def test_a_call_that_fails_for_one_entry(tmp_path: Path, call: str, problems: dict[int, str]) -> None:
    """TRE-34: the others arrive, and nothing of the entry is left behind."""
    with receiving(tmp_path, fs=Failing(call, errno.EIO)) as receiver:
        receiver.entries(
            directory(), file(b"f", b"abc"), link(b"l", b"x"), hard_link(b"h", b"f"), directory(b"d")
        )
        receiver.content(part(1, b"abc"))
        said = receiver.finish()
    found = {number: reason for number, reason in said.problems.items() if number in {1, 2, 3}}
    assert found == problems
    there = {1: "f", 2: "l", 3: "h"}
    assert sorted(os.listdir(tmp_path / "top")) == sorted(
        ["d", *(name for number, name in there.items() if number not in problems)]
    )


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOVERFLOW, errno.ERANGE])
def test_a_file_system_that_refuses_a_time(tmp_path: Path, code: int) -> None:
    """Docs/adr/0032: the file arrives with another time, and is sent again the next time."""
    with receiving(tmp_path, fs=Failing("set_times", code)) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"))
        receiver.content(part(1, b"abc"))
        assert receiver.finish().problems == {}
    assert (tmp_path / "top/f").read_bytes() == b"abc"


def test_times_that_cannot_be_set_at_all(tmp_path: Path) -> None:
    with receiving(tmp_path, fs=Failing("set_times", errno.EPERM)) as receiver:
        receiver.entries(directory(), file(b"f", b"abc"))
        receiver.content(part(1, b"abc"))
        assert receiver.finish().problems == {1: "ACCESS_DENIED", 0: "ACCESS_DENIED"}


@pytest.mark.parametrize(
    ("code", "reason", "durable"),
    [(errno.EIO, "IO_ERROR", False), (errno.ENOSYS, None, False), (0, None, True)],
)
def test_flushing(tmp_path: Path, code: int, reason: str | None, *, durable: bool) -> None:
    """TRE-52: a failed flush is an error; without the call the tree is not durable, and that is said."""
    fs = Failing("sync_file_system", code) if code else FileSystem()
    with receiving(tmp_path, fs=fs, fsync=True) as receiver:
        receiver.entries(directory(), link(b"l", b"x"))
        if reason is None:
            receiver.finish()
        else:
            with pytest.raises(TransferError) as caught:
                receiver.finish()
            assert caught.value.reason.name == reason
        assert receiver.receiver.durable is durable
    assert os.listdir(tmp_path / "top") == ["l"]


def test_without_fsync_nothing_is_flushed(tmp_path: Path) -> None:
    with receiving(tmp_path, fs=Failing("sync_file_system", errno.EIO)) as receiver:
        receiver.entries(directory())
        receiver.finish()
        assert not receiver.receiver.durable


def test_a_failed_flush_publishes_nothing(tmp_path: Path) -> None:
    """TRE-12, TRE-52."""
    with receiving(tmp_path, fs=Failing("sync_file_system", errno.EIO), fsync=True, atomic=True) as receiver:
        receiver.entries(directory())
        with pytest.raises(TransferError):
            receiver.finish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
@pytest.mark.parametrize("taken", [False, True])
def test_publishing_without_an_exclusive_rename(tmp_path: Path, code: int, *, taken: bool) -> None:
    """TRE-12."""
    with receiving(tmp_path, fs=Failing("move_noreplace", code), atomic=True) as receiver:
        receiver.entries(directory(), link(b"l", b"x"))
        if taken:
            (tmp_path / "top").mkdir()
            with pytest.raises(TransferError) as caught:
                receiver.finish()
            assert caught.value.reason is Reason.FILE_EXISTS
        else:
            receiver.finish()
    assert os.listdir(tmp_path / "top") == ([] if taken else ["l"])
    assert os.listdir(tmp_path) == ["top"]


def test_what_cannot_be_deleted_is_a_problem_of_its_directory(tmp_path: Path) -> None:
    """TRE-34: once, whatever number of entries stay."""
    (tmp_path / "top/d").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / "top/d" / name).write_bytes(b"x")
    with receiving(tmp_path, fs=Failing("remove_file", errno.EACCES), delete_others=True) as receiver:
        receiver.entries(directory(), directory(b"d"))
        said = receiver.finish()
    assert said.problems == {1: "ACCESS_DENIED"}
    assert said.deleted == []
    assert len(os.listdir(tmp_path / "top/d")) == 3


# As a user who is not root


@pytest.fixture
def everybody() -> Generator[Path]:
    """Return a directory in which every user may write."""
    place = Path(tempfile.mkdtemp(prefix="trees-"))
    os.chmod(place, 0o777)
    yield place
    subprocess.run(["chmod", "-R", "u+rwx", str(place)], check=False)
    shutil.rmtree(place)


def as_nobody(place: Path, **options: Any) -> tuple[dict[str, str], list[str]]:
    """Send `source` to `top` as a user who is not root; return the problems, and what was sent."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            # That user need not be able to reach it by its path.
            os.chdir(place)
            if is_root():
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                # Such a process may not open its own descriptors otherwise.
                ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
            transfer = loop(Path("source"), Path(), **options)
            sent = [os.fsdecode(path) for path in transfer.sent]
            os.write(writing, json.dumps([transfer.said.problems, sent]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    problems, sent = json.loads(told)
    return problems, sent


def is_root() -> bool:
    return os.geteuid() == 0


def test_directories_without_permission_for_their_owner(everybody: Path) -> None:
    """TRE-47: they are received, received again, changed below, cleared of others, and keep their modes."""
    source = everybody / "source"
    (source / "closed/inner").mkdir(parents=True)
    for path in ("closed/f", "closed/inner/g"):
        (source / path).write_bytes(b"1")
        os.utime(source / path, ns=(TIME, TIME))
    modes = {"closed/inner": 0o500, "closed": 0o555, "": 0o555}
    if is_root():
        for one in (source, *source.rglob("*")):
            os.chown(one, NOBODY, NOBODY)
    for path, mode in modes.items():
        os.chmod(source / path, mode)
    assert as_nobody(everybody) == ({}, ["closed/f", "closed/inner/g"])
    assert as_nobody(everybody) == ({}, [])
    os.chmod(source / "closed", 0o755)
    (source / "closed/f").write_bytes(b"22")
    os.chmod(source / "closed", 0o555)
    assert as_nobody(everybody) == ({}, ["closed/f"])
    os.chmod(source / "closed/inner", 0o755)
    (source / "closed/inner/g").unlink()
    os.chmod(source / "closed/inner", 0o500)
    assert as_nobody(everybody, delete_others=True) == ({}, [])
    top = everybody / "top"
    assert {path: stat.S_IMODE((top / path).stat().st_mode) for path in modes} == modes
    assert sorted(path.relative_to(top).as_posix() for path in top.rglob("*")) == [
        "closed",
        "closed/f",
        "closed/inner",
    ]


@pytest.mark.skipif(not is_root(), reason="only root can make files of another user")
def test_what_belongs_to_somebody_else(everybody: Path) -> None:
    """TRE-34, TRE-59: each is a problem, and the others arrive."""
    source, top = everybody / "source", everybody / "top"
    for place in (source, top):
        for name in ("closed", "open"):
            (place / name).mkdir(parents=True)
    for path in ("closed/f", "open/f", "mine"):
        (source / path).write_bytes(b"1")
    os.chmod(top, 0o777)
    os.chmod(top / "open", 0o777)
    problems, sent = as_nobody(everybody)
    assert sent == ["mine", "closed/f", "open/f"]
    # Entry 0 is the top directory, which is root's, too.
    assert sorted(problems.values()) == ["ACCESS_DENIED"] * len(problems)
    assert (top / "mine").exists()
    assert (top / "open/f").exists()
    assert not (top / "closed/f").exists()
