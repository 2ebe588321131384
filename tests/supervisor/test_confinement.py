"""What a confined supervisor cannot do any more; proved by a process that tries."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import confinement_probe
import pytest
from openshell_supervisor_sim.confinement import landlock
from openshell_supervisor_sim.confinement.landlock import Right
from openshell_supervisor_sim.confinement.user import User, first_unreachable, parse_user
from supervisor_scene import SandboxPlaces, can_give_files_away

needs_landlock = pytest.mark.skipif(not landlock.abi_version(), reason="this kernel has no Landlock")
needs_root = pytest.mark.skipif(not can_give_files_away(), reason="only root gives files away")


def probe(places: SandboxPlaces, *attempts: str, mode: str = "auto") -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable, confinement_probe.__file__, mode, str(places.root), str(places.state), str(places.token),
            *attempts,
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@needs_landlock
def test_the_agent_uses_its_own_places(places: SandboxPlaces) -> None:
    """What it needs works: root, state, the token's renewal, late imports."""
    attempts = [
        f"write:{places.root}/sandbox/f",
        f"read:{places.root}/sandbox/f",
        f"nameless:{places.root}/sandbox/g",
        f"write:{places.state}/journal",
        f"read:{places.token}",
        f"rename:{places.token}",
        "read:/proc/self/mountinfo",
        "read:/proc/self/status",
        "read:/dev/urandom",
        "read:/etc/hosts",
        "import:xml.etree.ElementTree",
        "import:grpc",
    ]
    found = probe(places, *attempts, mode="required")
    assert found["results"] == dict.fromkeys(attempts, "done")
    assert found["confinement"]["landlock"] == min(landlock.abi_version(), 7)


@needs_landlock
def test_the_agent_reaches_nothing_else(places: SandboxPlaces, tmp_path: Path) -> None:
    """Not with root's rights either: no file outside, no program, no mount."""
    outside = tmp_path / "outside"
    outside.write_text("secret", "ascii")
    attempts = [
        f"read:{outside}",
        f"write:{outside}",
        f"read:{tmp_path}",
        f"write:{places.home}/../made",
        "read:/etc/shadow",
        "write:/etc/hosts",
        "write:/usr/made",
        "read:/root",
        "run:/bin/true",
        f"mount:{places.root}/tmp",
        f"read:/proc/{os.getpid()}/environ",
        "read:/proc/1/status",
    ]
    found = probe(places, *attempts, mode="required")
    assert set(found["results"].values()) <= {"EACCES", "EPERM"}, found["results"]
    assert set(found["results"]) == set(attempts)
    assert outside.read_text("ascii") == "secret"


@pytest.mark.skipif(landlock.abi_version() < 6, reason="this kernel's Landlock has no scopes (version 6)")
def test_the_agent_reaches_no_process_outside(places: SandboxPlaces) -> None:
    name = f"openshell-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        found = probe(places, f"signal:{os.getpid()}", f"abstract:{name}")
    assert set(found["results"].values()) == {"EPERM"}


def test_limits_and_privileges(places: SandboxPlaces) -> None:
    """no_new_privs, no core dumps, at most 4096 descriptors, and of root's capabilities those on files."""
    found = probe(places)
    assert found["no_new_privs"] == 1
    assert found["core"] == [0, 0]
    assert found["files"][0] == found["files"][1] <= 4096
    assert found["capabilities"] & ~0b11111 == 0
    assert found["confinement"]["no_new_privs"] is True
    assert found["confinement"]["limits"]["open_files"] == found["files"][0]


def test_switched_off(places: SandboxPlaces, tmp_path: Path) -> None:
    """`--confine none` changes nothing, and says so."""
    (tmp_path / "outside").write_text("x", "ascii")
    found = probe(places, f"read:{tmp_path}/outside", mode="none")
    assert found["results"] == {f"read:{tmp_path}/outside": "done"}
    assert (found["confinement"]["landlock"], found["confinement"]["landlock_reason"]) == (0, "switched off")


def test_a_kernel_without_landlock(places: SandboxPlaces) -> None:
    """The rest holds, and it is said; `--confine required` fails."""
    found = probe(places, f"read:{places.token}", mode="old-kernel-auto")
    confinement = found["confinement"]
    assert (confinement["landlock"], confinement["landlock_reason"]) == (0, "the kernel has no Landlock")
    assert confinement["no_new_privs"] is True
    with pytest.raises(AssertionError, match="Landlock: the kernel has no Landlock"):
        probe(places, mode="old-kernel-required")


@pytest.mark.parametrize(
    ("version", "absent"),
    [
        (1, Right.REFER | Right.TRUNCATE | Right.IOCTL_DEV),
        (2, Right.TRUNCATE | Right.IOCTL_DEV),
        (3, Right.IOCTL_DEV),
        (4, Right.IOCTL_DEV),
        (5, Right(0)),
        (9, Right(0)),
    ],
)
def test_older_kernels_are_asked_for_what_they_know(version: int, absent: Right) -> None:
    assert landlock.handled_rights(version) == landlock.EVERYTHING & ~absent


def test_users() -> None:
    me = pwd.getpwuid(os.geteuid())
    assert parse_user(me.pw_name) == parse_user(str(me.pw_uid)) == User(me.pw_uid, me.pw_gid)
    assert parse_user(f"{me.pw_name}:7") == User(me.pw_uid, 7)
    assert parse_user("54321") == User(54321, 54321)
    for wrong in ("no-such-user", "", "1000:", "root:wheel:x"):
        with pytest.raises(ValueError, match=r"user|NAME"):
            parse_user(wrong)


@needs_root
def test_who_can_reach_what(tmp_path: Path) -> None:
    """Before the process becomes a user, it is known what that user cannot reach."""
    user = User(54321, 54321)
    closed = tmp_path / "closed"
    (closed / "below").mkdir(parents=True)
    closed.chmod(0o700)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            # pytest's own directories are closed; then the first of them is in the way.
            assert first_unreachable(user, [str(closed / "below")]) is not None
            break
    else:
        assert first_unreachable(user, [str(closed / "below")]) == str(closed)
    os.chown(closed, *user)
    assert first_unreachable(User(0, 0), [str(closed / "below")]) is None
    assert first_unreachable(user, ["/usr/bin", str(tmp_path / "missing")]) is None
