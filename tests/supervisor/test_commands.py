"""The command protocol, against commands that really run."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import pytest
from conditions import until
from openshell_files_protocol.framing import frame_segments
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2
from scripted_gateway import GatewayRelay, outcome
from supervisor_scene import SandboxPlaces, Scene, serving_commands

OPEN = exec_relay_pb2.ExecRelayOpen


async def test_output_and_exit_code(scene: Scene) -> None:
    """EXE-5, EXE-17: stdout and stderr apart, the exit last, the command's own code."""
    done = await scene.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 7)
    assert done.events[-1] == "exit"
    assert scene.session.hello.exec.protocol_version == 1


async def test_no_shell_looks_at_arguments(scene: Scene) -> None:
    """EXE-2: what would mean something to a shell means nothing."""
    arguments = ["$HOME", "`id`", "a b", "*", "", "ä\n;true", "'"]
    done = await scene.run("printf", r"[%s]", *arguments)
    assert done.stdout.decode() == "".join(f"[{argument}]" for argument in arguments)


async def test_standard_input(scene: Scene) -> None:
    """EXE-4: all of it is there, and then the end."""
    content = os.urandom(300_000)
    done = await scene.run("cat", stdin=content)
    assert done.stdout == content
    assert done.largest <= 64 * 1024
    assert (await scene.run("cat")).stdout == b""


async def test_the_largest_request(scene: Scene) -> None:
    """EXE-4: a request of 1 MiB, which is the largest message, arrives with everything that is added to it."""
    content = bytes(1024 * 1024 - 20)
    done = await scene.run("wc", "-c", stdin=content)
    assert done.stdout.split() == [b"%d" % len(content)]


async def test_standard_input_that_is_not_read(scene: Scene) -> None:
    """EXE-4: not reading is no error."""
    assert (await scene.run("true", stdin=bytes(1_000_000))).exit_code == 0


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("no-such-program", 127, b"no-such-program: command not found\n"),
        ("/no/such/program", 127, b"/no/such/program: No such file or directory\n"),
        ("/etc", 126, b"/etc: Permission denied\n"),
        ("./plain", 126, b"./plain: Permission denied\n"),
    ],
)
async def test_programs_that_cannot_be_run(
    scene: Scene, places: SandboxPlaces, command: str, code: int, words: bytes
) -> None:
    """EXE-13: 127 and 126 with a line on stderr, as in a shell."""
    (places.root / "sandbox/plain").write_text("no program", "ascii")
    done = await scene.run(command)
    assert (done.exit_code, done.stderr, done.stdout) == (code, words, b"")


async def test_working_directories(scene: Scene, places: SandboxPlaces) -> None:
    """EXE-3, EXE-14: the sandbox's, an absolute one, a relative one; a missing one runs nothing."""
    (places.root / "sandbox/below").mkdir()
    prefix = "" if scene.host is not None and scene.host.view else places.real_root
    for asked, expected in (("", "/sandbox"), ("/tmp", "/tmp"), ("below", "/sandbox/below")):
        assert (await scene.run("pwd", workdir=asked)).stdout.decode() == f"{prefix}{expected}\n"
    for wrong in ("/nowhere", "/sandbox/file"):
        (places.root / "sandbox/file").touch()
        refused = await scene.run("touch", "ran", workdir=wrong)
        assert (refused.error.reason, refused.error.field_violations[0].field) == (
            "INVALID_REQUEST",
            "workdir",
        )
    assert not (places.root / "sandbox/ran").exists()


async def test_environment(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """EXE-15: the sandbox's and the request's; nothing of the supervisor's."""
    monkeypatch.setenv("OF_THE_SUPERVISOR", "leaks")
    done = await scene.run("env", "-0", environment={"OF_THE_REQUEST": "a=b\tc", "LANG": "C"})
    found = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    assert found["OF_THE_SANDBOX"] == "1"
    assert found["OF_THE_REQUEST"] == "a=b\tc"
    assert found["LANG"] == "C"
    assert set(found) == {"PATH", "HOME", "USER", "LOGNAME", "LANG", "OF_THE_SANDBOX", "OF_THE_REQUEST"}


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"command": ["true"], "tty": True}, "tty"),
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": ["a\0b"]}, "command"),
        ({"command": ["x"] * 1025}, "command"),
        ({"command": ["x" * 40_000]}, "command"),
        ({"command": ["true"], "environment": {"A=B": "c"}}, "environment"),
        ({"command": ["true"], "environment": {"A": "\0"}}, "environment"),
        ({"command": ["true"], "workdir": "/" + "x" * 5000}, "workdir"),
    ],
)
async def test_requests_that_are_refused(scene: Scene, request_fields: dict[str, object], field: str) -> None:
    """EXE-16: no terminal; and the sandbox checks for itself what the gateway checks."""
    request = exec_pb2.ExecSandboxRequest(**request_fields)  # type: ignore[arg-type] # by name
    relay = await _opened(scene, OPEN(protocol_version=1, request=request))
    refused = await outcome(relay)
    assert (refused.error.reason, refused.error.field_violations[0].field) == ("INVALID_REQUEST", field)


async def _opened(scene: Scene, opened: exec_relay_pb2.ExecRelayOpen, times: int = 1) -> GatewayRelay:
    relay = await scene.gateway.open_relay(scene.session, exec=exec_relay_pb2.ExecRelayTarget())
    frame = exec_relay_pb2.ExecRelayRequest(open=opened).SerializeToString()
    await relay.send(b"".join(frame_segments([frame])) * times)
    return relay


async def test_another_version_and_a_second_frame(scene: Scene) -> None:
    """EXE-10: one frame, of a version that the supervisor speaks."""
    request = exec_pb2.ExecSandboxRequest(command=["sleep", "1000"])
    for opened, times, field in (
        (OPEN(protocol_version=9, request=request), 1, "open.protocol_version"),
        (OPEN(protocol_version=1, request=request), 2, "frame"),
    ):
        refused = await outcome(await _opened(scene, opened, times))
        assert refused.error.field_violations[0].field == field


@pytest.mark.parametrize(("signal", "code"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
async def test_ended_by_a_signal(scene: Scene, signal: str, code: int) -> None:
    """EXE-5: 128 + n."""
    assert (await scene.run("sh", "-c", f"kill -{signal} $$")).exit_code == code


async def test_time_is_over(scene: Scene, places: SandboxPlaces) -> None:
    """EXE-5, EXE-6: 124, what was written before it, and the whole group is gone."""
    done = await scene.run(
        "sh",
        "-c",
        "echo before; (trap '' TERM; while :; do sleep 0.05; touch alive; done) & wait",
        timeout=0.4,
    )
    assert (done.exit_code, done.stdout) == (124, b"before\n")
    await _stays_away(places, "alive")


async def test_a_command_that_ignores_sigterm(scene: Scene) -> None:
    """EXE-6: SIGKILL ends it."""
    done = await scene.run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", timeout=0.3)
    assert (done.exit_code, done.stdout) == (124, b"ready\n")


async def test_the_gateway_ends_the_relay(scene: Scene, places: SandboxPlaces) -> None:
    """EXE-6: that cancels the command and everything it started."""
    relay = await scene.start("sh", "-c", "(while :; do sleep 0.05; touch alive; done) & echo up; wait")
    assert await relay.receive()
    relay.end()
    assert scene.commands is not None
    await until(lambda: scene.commands is not None and not scene.commands.running, "the command is over")
    await _stays_away(places, "alive")


async def _stays_away(places: SandboxPlaces, name: str) -> None:
    """Check that nobody touches a file any more: whoever does, does it 20 times a second."""
    path = places.root / "sandbox" / name
    path.unlink(missing_ok=True)
    await asyncio.sleep(0.3)
    if path.exists():  # one may have been on its way
        path.unlink()
        await asyncio.sleep(0.3)
    assert not path.exists()


async def test_what_is_left_behind_is_not_waited_for(scene: Scene) -> None:
    """EXE-21: a background process that holds the output open delays the exit by half a second."""
    done = await scene.run("sh", "-c", "sleep 1000 & echo started")
    assert (done.exit_code, done.stdout) == (0, b"started\n")


async def test_output_that_nobody_takes(scene: Scene, places: SandboxPlaces) -> None:
    """EXE-18: the command waits, and nothing is lost or kept in memory."""
    size = 64 * 1024 * 1024
    relay = await scene.start("sh", "-c", f"head -c {size} /dev/zero; touch written")
    first = await relay.receive()
    assert first
    before = _resident_bytes()
    await asyncio.sleep(0.5)
    assert not (places.root / "sandbox/written").exists()
    assert _resident_bytes() - before < 32 * 1024 * 1024
    done = await outcome(relay, already=first)
    assert (len(done.stdout), done.exit_code) == (size, 0)
    assert (places.root / "sandbox/written").exists()


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_output_after_the_exit_is_complete(scene: Scene) -> None:
    """EXE-20: what is in the pipe when the command ends still comes, however slow the reader is."""
    relay = await scene.start("sh", "-c", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2")
    assert scene.commands is not None
    await asyncio.sleep(0.7)
    done = await outcome(relay)
    assert (len(done.stdout), len(done.stderr), done.exit_code) == (60_000, 60_000, 0)


async def test_too_many_commands(places: SandboxPlaces) -> None:
    """EXE-8: one more than allowed is refused, with a time to try again."""
    async with serving_commands(places, max_commands=1) as scene:
        relay = await scene.start("sh", "-c", "echo up; exec sleep 1000")
        assert await relay.receive()
        refused = await scene.run("true")
        assert refused.error.reason == "TOO_MANY_COMMANDS"
        assert refused.error.retry_delay.ToTimedelta().total_seconds() > 0
        relay.end()
        assert scene.commands is not None
        commands = scene.commands
        await until(lambda: not commands.running, "there is room again")
        assert (await scene.run("true")).exit_code == 0


async def test_many_commands_at_once(places: SandboxPlaces) -> None:
    """Each gets its own output."""
    async with serving_commands(places, max_commands=32) as scene:
        done = await asyncio.gather(*(scene.run("sh", "-c", f"echo {n}; exit {n}") for n in range(32)))
        assert [(int(one.stdout), one.exit_code) for one in done] == [(n, n) for n in range(32)]


async def test_descriptors_are_given_back(scene: Scene) -> None:
    await scene.run("true")
    before = _descriptors()
    for _ in range(20):
        await scene.run("true")
        await scene.run("no-such-program")
    await until(lambda: _descriptors() <= before, "descriptors are closed")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_the_host_is_gone(scene: Scene, places: SandboxPlaces) -> None:
    """EXE-11: the last frame is an error that says that the end of the command is not known."""
    relay = await scene.start("sh", "-c", "echo up; sleep 1000")
    assert await relay.receive()
    assert scene.commands is not None
    await scene.commands.host.__aexit__(None, None, None)
    lost = await outcome(relay)
    assert lost.error.reason == "COMMAND_LOST"
    refused = await scene.run("true")
    assert refused.error.reason == "COMMAND_NOT_STARTED"
    assert places.root.exists()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: b"\x05hello", "AGENT_PROTOCOL_ERROR"),
        (lambda: b"SSH-2.0-client\r\n", "AGENT_PROTOCOL_ERROR"),
        (lambda: b"\x00", "INVALID_REQUEST"),
    ],
)
async def test_bytes_that_are_no_request(scene: Scene, build: Callable[[], bytes], reason: str) -> None:
    """EXE-1: framed as FRM-1 says, or refused."""
    relay = await scene.gateway.open_relay(scene.session, exec=exec_relay_pb2.ExecRelayTarget())
    await relay.send(build())
    assert (await outcome(relay)).error.reason == reason


async def test_a_command_is_fast_enough_to_compare_with(scene: Scene) -> None:
    """No judgement of time: it is said in the report of the tests."""
    started = time.perf_counter()
    for _ in range(20):
        await scene.run("true")
    print(f"true by exec: {(time.perf_counter() - started) / 20 * 1e3:.1f} ms")
