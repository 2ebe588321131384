"""One cell of the fault matrix of trees: a tree stands at a point, somebody is killed, and it goes on.

The tree is sent by the command `openshell-files`, over an older tree. The client that is killed is started again with
the same words; if gateway or supervisor is killed, the client goes on within its call.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from fault_cells import FaultScene, Point, Victim, end_client
from kill_client import content_of
from kill_scene import STAGING_PREFIX

DIRECTORIES = 6
FILES = 150
FILE_BYTES = 4096
LARGE_BYTES = 3 << 20

#: Entries that come into place by a rename.
PLACED = FILES + 2

TREE_UPLOAD_POINTS = (
    Point("before admission", None),
    Point("started", "tree.started"),
    Point("first entry", "tree.entry_placed"),
    Point("middle", f"tree.entry_placed#{PLACED // 2}"),
    Point("last entry", f"tree.entry_placed#{PLACED}"),
    Point("ending", "tree.ending"),
    Point("published", "tree.published"),
)

TREE_DOWNLOAD_POINTS = (
    Point("before admission", None),
    Point("manifest", "tree.manifest_read"),
    Point("first content", "tree.content_read"),
    Point("middle", "tree.content_read#3"),
    Point("all read", "tree.read"),
)


@dataclass(frozen=True)
class TreeOutcome:
    """What a cell showed.

    Attributes:
        arrived: files that were in place when the transfer went on.
        sent: files that were sent after that.
    """

    arrived: int
    sent: int


async def upload_tree(scene: FaultScene, victim: Victim, point: Point) -> TreeOutcome:
    """Disturb the upload of a tree over an older tree.

    Raises:
        AssertionError: something that must hold did not.
    """
    name = f"tree-up-{victim}-{point.name}".replace(" ", "-")
    source, destination = scene.local / name, scene.directory / name
    words = ["upload", "demo", f"{source}/.", name]
    return await _disturbed(scene, victim, point, name, words, source, destination)


async def download_tree(scene: FaultScene, victim: Victim, point: Point) -> TreeOutcome:
    """Disturb the download of a tree over an older tree.

    Raises:
        AssertionError: something that must hold did not.
    """
    name = f"tree-down-{victim}-{point.name}".replace(" ", "-")
    source, destination = scene.directory / name, scene.local / name
    words = ["download", "demo", f"{name}/.", str(destination)]
    return await _disturbed(scene, victim, point, name, words, source, destination)


async def _disturbed(
    scene: FaultScene,
    victim: Victim,
    point: Point,
    name: str,
    words: list[str],
    source: Path,
    destination: Path,
) -> TreeOutcome:
    make_tree(source, "new")
    make_tree(destination, "old", files=FILES // 2)
    async with scene.standing_supervisor(name, point) as supervisor:
        client = await scene.start(*words, "--json")
        try:
            await scene.stands(supervisor, point, name)
            check_whole(destination)
            await scene.kill(victim, supervisor, client)
            await scene.go_on(victim, supervisor, point)
            check_whole(destination)
            arrived = arrived_files(source, destination)
            if victim is Victim.CLIENT:
                client = await scene.start(*words, "--json")
            else:
                client.send_signal(signal.SIGCONT)
            result = await scene.result(client)
        finally:
            await end_client(client)
    assert manifest(destination) == manifest(source), "the trees differ"
    left = [entry for entry in os.listdir(destination) if entry.startswith(STAGING_PREFIX)]
    assert left == [], "a staging directory is left"
    assert result["failed"] == result["unknown"] == 0, result
    if victim is Victim.CLIENT:
        # A new process: it sends what is not there, and nothing else.
        assert result["sent"] <= FILES + 1 - arrived, (
            f"{result['sent']} files were sent, {arrived} had arrived"
        )
    shutil.rmtree(source)
    shutil.rmtree(destination)
    return TreeOutcome(arrived, result["sent"])


def make_tree(top: Path, age: str, *, files: int = FILES) -> None:
    """Make a tree; an older one has other content, sizes and times."""
    top.mkdir(parents=True)
    for number in range(DIRECTORIES):
        (top / f"d{number}").mkdir()
    (top / "empty").mkdir()
    for number in range(files):
        file = top / f"d{number % DIRECTORIES}" / f"f{number}"
        file.write_bytes(file_content(age, number))
        os.utime(file, ns=(number, _time(age) + number))
    large = top / "large"
    large.write_bytes(content_of(age, LARGE_BYTES))
    os.utime(large, ns=(0, _time(age)))
    (top / "link").symlink_to(f"d0/{age}")


def file_content(age: str, number: int) -> bytes:
    """Return the content of a file of a tree."""
    size = FILE_BYTES if age == "new" else FILE_BYTES - 1
    return f"{age} {number} ".encode() * (size // 8)


def _time(age: str) -> int:
    return 1_700_000_000_000_000_000 if age == "new" else 1_600_000_000_000_000_000


def check_whole(top: Path) -> None:
    """Check that each file is the old or the new one, whole.

    Raises:
        AssertionError: a file is neither.
    """
    for number in range(FILES):
        file = top / f"d{number % DIRECTORIES}" / f"f{number}"
        if file.exists():
            content = file.read_bytes()
            assert content in (file_content("old", number), file_content("new", number)), f"{file} is torn"
    allowed = (content_of("old", LARGE_BYTES), content_of("new", LARGE_BYTES))
    assert (top / "large").read_bytes() in allowed, "the large file is torn"
    assert os.readlink(top / "link") in ("d0/old", "d0/new")


def arrived_files(source: Path, destination: Path) -> int:
    """Return the number of files that are in place, with their times."""
    there = {path: described for path, described in manifest(destination).items() if described[0] == "f"}
    return sum(1 for path, described in manifest(source).items() if there.get(path) == described)


def manifest(top: Path) -> dict[str, tuple[object, ...]]:
    """Return what a tree has, by path: type, mode, time and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [top, *top.rglob("*")]:
        if path.name.startswith(STAGING_PREFIX) or any(
            part.startswith(STAGING_PREFIX) for part in path.parts
        ):
            continue
        status = path.lstat()
        relative = str(path.relative_to(top))
        if path.is_symlink():
            found[relative] = ("l", os.readlink(path))
        elif path.is_dir():
            found[relative] = ("d", status.st_mode & 0o777, status.st_mtime_ns)
        else:
            found[relative] = ("f", status.st_mode & 0o777, status.st_mtime_ns, path.read_bytes())
    return found
