"""Supervisors as processes: started, kept running, found again, ended. Real processes, none of them a supervisor."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psutil
import pytest
from conditions import until
from driver_scene import ID, Scene, Tokens, drivers_in, ended
from openshell_files_gateway.simulation.processes import process_driver, sandbox_home
from openshell_files_gateway.simulation.processes.process_driver import (
    MAX_FAILURES,
    ProcessDriver,
    ProcessOptions,
)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    async with drivers_in(tmp_path) as scene:
        yield scene


async def test_a_supervisor_and_its_place(scene: Scene) -> None:
    """SBX-1: a root, a state and a token of its own; nobody else may read them."""
    driver = scene.driver("--more", "options", endpoint="127.0.0.1:77", tls_ca=Path("/ca.pem"))
    await driver.start(ID)
    said = await scene.started()
    assert said["arguments"] == [
        "--endpoint", "127.0.0.1:77", "--sandbox-id", ID, "--token-file", f"{scene.home}/token",
        "--root", f"{scene.home}/root", "--workdir", "/sandbox", "--state-dir", f"{scene.home}/state",
        "--log-format", "json", "--more", "options", "--tls-ca", "/ca.pem",
    ]  # fmt: skip
    assert said["token"] == f"token 1 of {ID}"
    modes = {name: stat.S_IMODE((scene.home / name).stat().st_mode) for name in ("", "token", "state")}
    assert modes == {"": 0o700, "token": 0o600, "state": 0o700}
    assert all((scene.home / "root" / part).is_dir() for part in ("sandbox", "tmp", "home", "etc", "var/lib"))
    assert (scene.home / "supervisor.log").read_text() == "said something\n"
    await driver.start(ID)
    await driver.stop(ID)
    assert len(scene.starts()) == 1, "starting again does nothing"
    assert ended(said["pid"])


async def test_what_a_supervisor_inherits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of the gateway's environment, no descriptor, no terminal and no group."""
    monkeypatch.setenv("OPENSHELL_SOME_SECRET", "secret")
    monkeypatch.setenv("https_proxy", "http://user:password@proxy")
    monkeypatch.setenv("SSL_CERT_FILE", "/certificates.pem")
    monkeypatch.setenv("TMPDIR", "/tmp")
    readable, writable = os.pipe()
    os.set_inheritable(writable, True)
    try:
        await scene.driver().start(ID)
        said = await scene.started()
    finally:
        os.close(readable)
        os.close(writable)
    names = set(said["environment"]) - {"LC_CTYPE"}  # which Python sets itself
    assert {"PATH", "SSL_CERT_FILE", "TMPDIR"} <= names
    assert names <= {
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "LC_ALL",
        "TZ",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    }
    assert said["descriptors"][:3] == [0, 1, 2]
    assert len(said["descriptors"]) == 4, "one is the list itself"
    assert said["stdin"] == "/dev/null"
    assert said["session"] == said["pid"]


async def test_a_lifeline(scene: Scene) -> None:
    readable, writable = os.pipe()
    try:
        await scene.driver(lifeline=readable).start(ID)
        said = await scene.started()
        assert said["stdin"] == os.readlink(f"/proc/self/fd/{readable}")
        assert said["arguments"][-1] == "--exit-on-stdin-close"
    finally:
        os.close(readable)
        os.close(writable)


async def test_one_that_dies_is_started_again(scene: Scene) -> None:
    """SBX-1: with a new token, since the old one may be why."""
    driver = scene.driver()
    await driver.start(ID)
    first = await scene.started()
    os.kill(first["pid"], signal.SIGKILL)
    second = await scene.started(2)
    assert second["pid"] != first["pid"]
    assert second["token"] != first["token"]
    assert ended(first["pid"])
    assert not scene.failures


async def test_one_that_dies_at_once_is_given_up_and_can_be_started(scene: Scene) -> None:
    """After so many times in a row, with the place where it says why."""
    driver = scene.driver("--mode", "dies")
    await driver.start(ID)
    await until(lambda: scene.failures, "it is given up")
    [(sandbox_id, why)] = scene.failures
    assert sandbox_id == ID
    assert why.endswith(f"ended {MAX_FAILURES} times right after its start; see {scene.home}/supervisor.log")
    assert len(scene.starts()) == MAX_FAILURES
    (scene.home / "root" / "mended").write_bytes(b"")
    await driver.start(ID)
    said = await scene.started(MAX_FAILURES + 1)
    assert not ended(said["pid"])
    assert len(scene.failures) == 1


async def test_starting_again_from_the_news_of_the_failure(scene: Scene) -> None:
    """Whoever is told can start it at once: the one who watched has ended."""
    again = asyncio.Event()

    def told(*failure: str) -> None:
        scene.failures.append((failure[0], failure[1]))
        (scene.home / "root" / "mended").write_bytes(b"")
        again.set()

    driver = scene.driver("--mode", "dies")
    driver._on_failure = told
    await driver.start(ID)
    await again.wait()
    await driver.start(ID)
    await scene.started(MAX_FAILURES + 1)


async def test_a_program_that_is_not_there(scene: Scene) -> None:
    scene.script.unlink()
    driver = ProcessDriver(
        ProcessOptions(scene.directory, ["/nowhere/at/all"]),
        Tokens(),
        lambda sandbox_id, why: scene.failures.append((sandbox_id, why)),
    )
    with pytest.raises(FileNotFoundError):
        await driver.start(ID)


async def test_one_that_will_not_stop_is_killed(scene: Scene) -> None:
    """SBX-3."""
    driver = scene.driver("--mode", "stubborn", stop_seconds=0.001)
    await driver.start(ID)
    said = await scene.started()
    await driver.stop(ID)
    assert ended(said["pid"])


async def test_removed(scene: Scene) -> None:
    """SBX-3: and again, since the first time could have been cut short."""
    driver = scene.driver()
    await driver.start(ID)
    said = await scene.started()
    await driver.remove(ID)
    assert ended(said["pid"])
    assert not scene.home.exists()
    await driver.remove(ID)


async def test_removed_behind_our_back(scene: Scene) -> None:
    driver = scene.driver()
    await driver.start(ID)
    first = await scene.started()
    scene.home.rename(scene.directory / "elsewhere")
    os.kill(first["pid"], signal.SIGKILL)
    await scene.started()
    assert (scene.home / "root" / "sandbox").is_dir()


@pytest.mark.parametrize("what", ["a link that leads out", "a file", "a link to nowhere"])
async def test_what_its_inhabitants_made_of_the_root(scene: Scene, tmp_path: Path, what: str) -> None:
    """Nothing is made outside, and what is theirs is no reason not to start."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = scene.home / "root"
    root.mkdir(parents=True)
    make: dict[str, Callable[[], object]] = {
        "a link that leads out": lambda: (root / "var").symlink_to(outside),
        "a file": lambda: (root / "var").write_bytes(b"theirs"),
        "a link to nowhere": lambda: (root / "var").symlink_to(tmp_path / "nowhere"),
    }
    make[what]()
    await scene.driver().start(ID)
    await scene.started()
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
    assert (root / "sandbox").is_dir()


async def test_a_log_does_not_grow_for_ever(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One older part is kept; the supervisor goes on writing into the same file."""
    monkeypatch.setattr(sandbox_home, "MAX_LOG_BYTES", 100)
    home = sandbox_home.SandboxHome(tmp := scene.directory)
    tmp.mkdir()
    with home.log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        home.bound_log()
        assert home.log.stat().st_size == 100
        writer.write(b"b")
        home.bound_log()
        writer.write(b"c")
    assert home.log.read_bytes() == b"c"
    assert (tmp / "supervisor.log.1").read_bytes() == b"a" * 100 + b"b"


async def test_stopped_right_after_its_start(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """SBX-3: the process table does not show a program's options while it is being loaded."""

    def nothing(*_: object) -> list[int]:
        return []

    monkeypatch.setattr(process_driver, "pids_with_option", nothing)
    driver = scene.driver()
    await driver.start(ID)
    said = await scene.started()
    await driver.stop(ID)
    assert ended(said["pid"])


async def test_stopped_in_the_middle_of_a_start(scene: Scene) -> None:
    """SBX-3: whatever the moment, after a removal there is neither process nor file."""
    for turns in range(6):
        driver = scene.driver()
        starting = asyncio.create_task(driver.start(ID))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await driver.remove(ID)
        assert not scene.home.exists()
        assert not [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if str(scene.script) in (process.info["cmdline"] or ())
        ]
