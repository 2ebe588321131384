"""The command `run` as a process: what it says, what holds for it, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conditions import until
from openshell_files_protocol.framing import FrameDecoder, frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_supervisor_sim.confinement import landlock
from openshell_supervisor_sim.confinement.own_process import interpreter_places
from openshell_supervisor_sim.confinement.user import User, first_unreachable
from recording_proxy import EXCEPTIONS, VARIABLES, recording_proxy
from scripted_gateway import GatewaySession, ScriptedGateway, scripted_gateway
from supervisor_scene import (
    SUPERVISOR,
    SandboxPlaces,
    can_give_files_away,
    lay_out,
    run_options,
    supervisor_process,
)

NOBODY: User = User(65534, 65534)


def refused(*options: str) -> subprocess.CompletedProcess[str]:
    """Run a supervisor that will not start."""
    return subprocess.run(
        [SUPERVISOR, "run", *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_address_in_use_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 32)
    (tmp_path / "secret").chmod(0o600)
    options = ("--root", str(tmp_path), "--secret-file", str(tmp_path / "secret"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [SUPERVISOR, "agent", *options, "--listen", listen],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert f"--listen {listen}: Address already in use; stop the program that listens there" in done.stderr


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_no_proxy_gets_the_sandbox_s_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plaintext goes straight to the gateway, whatever the environment names."""
    for name in EXCEPTIONS:
        monkeypatch.delenv(name, raising=False)
    places = lay_out(tmp_path)
    with recording_proxy() as proxy:
        for variable in VARIABLES:
            for name, value in proxy.variables(variable).items():
                monkeypatch.setenv(name, value)
        async with scripted_gateway() as gateway:
            port = gateway.endpoint.rpartition(":")[2]
            for endpoint in (gateway.endpoint, f"http://localhost:{port}"):
                gateway.endpoint = endpoint
                async with supervisor_process(
                    *run_options(places, gateway), log=tmp_path / "log", gateway=gateway
                ) as (_, session):
                    assert session is not None
                    assert session.authorization == "Bearer secret-token"
    assert (proxy.connections, proxy.received) == (0, [])


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [("127.0.0.1:99999", "port"), ("::1:8082", "brackets"), ("https://gateway:1", "https needs --tls-ca")],
)
def test_an_endpoint_that_could_be_another(tmp_path: Path, endpoint: str, words: str) -> None:
    places = lay_out(tmp_path)
    result = refused(
        "--endpoint", endpoint, "--sandbox-id", "sandbox", "--token-file", str(places.token), "--root", str(places.root)
    )  # fmt: skip
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


async def stat_through(gateway: ScriptedGateway, session: GatewaySession, path: str) -> Any:
    """Call StatFile through a relay and return the last frame."""
    relay = await gateway.open_relay(session, file=file_relay_pb2.FileRelayTarget(transfer_id="t"))
    opened = file_relay_pb2.FileRelayOpen(
        protocol_version=1,
        transfer_id="t",
        principal="alice",
        stat_file=files_pb2.StatFileRequest(remote_path=path),
    )
    message = file_relay_pb2.FileRelayRequest(open=opened).SerializeToString()
    await relay.send(b"".join(frame_segments([message])))
    decoder, last = FrameDecoder(), None
    for frame in decoder.feed(await relay.rest()):
        last = file_relay_pb2.FileRelayResponse.FromString(bytes(frame))
    relay.end()
    return last


async def test_what_holds_is_said(places: SandboxPlaces, tmp_path: Path) -> None:
    """In the JSON line and in one line of the log; and it is true of the process."""
    async with (
        scripted_gateway() as gateway,
        supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway) as (
            running,
            session,
        ),
    ):
        said = running.confinement
        logged = [line for line in running.log_lines() if line["event"] == "confinement"]
        assert len(logged) == 1
        assert {key: logged[0][key] for key in said} == said
        status = status_of(running.process.pid)
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) & ~0b11111 == 0
        assert int(status["CapBnd"], 16) & ~0b11111 == 0 or os.geteuid() != 0
        assert said["uid"] == os.geteuid()
        assert said["landlock"] == min(landlock.abi_version(), 7)
        assert said["exec"]["served"] is True
        assert session is not None
        (places.root / "sandbox/f").write_bytes(b"content")
        found = await stat_through(gateway, session, "/sandbox/f")
        assert found.stat_file.file.size_bytes == 7
        done = await gateway.run(session, "cat", "f")
        assert (done.stdout, done.exit_code) == (b"content", 0)
        assert (await gateway.run(session, "cat", str(places.token))).exit_code != 0


async def test_options_for_commands(places: SandboxPlaces, tmp_path: Path) -> None:
    """EXE-15: `--env`; and the environment of the supervisor itself stays outside."""
    async with (
        scripted_gateway() as gateway,
        supervisor_process(
            *run_options(places, gateway),
            "--env",
            "A=1",
            "--env",
            "B=x y=z",
            log=tmp_path / "log",
            gateway=gateway,
        ) as (_, session),
    ):
        assert session is not None
        found = (await gateway.run(session, "env")).stdout.decode().splitlines()
        assert {"A=1", "B=x y=z"} <= set(found)
        assert not any(line.startswith(("OPENSHELL_", "PYTEST_")) for line in found)


async def test_a_supervisor_that_knows_nothing_of_files(places: SandboxPlaces, tmp_path: Path) -> None:
    """RLY-1: `--no-files --no-exec` announces neither."""
    async with (
        scripted_gateway() as gateway,
        supervisor_process(
            *run_options(places, gateway), "--no-files", "--no-exec", log=tmp_path / "log", gateway=gateway
        ) as (running, session),
    ):
        assert session is not None
        assert not session.hello.HasField("file_transfer")
        assert not session.hello.HasField("exec")
        assert running.confinement["exec"] == {"served": False, "reason": "switched off"}


async def test_a_token_in_the_root(places: SandboxPlaces, tmp_path: Path) -> None:
    """EXE-24: commands could read it, so none are served, and this is said."""
    inside = places.root / "token"
    inside.write_text("secret", "ascii")
    options = run_options(places, gateway := ScriptedGateway("127.0.0.1:1"))
    options[options.index(str(places.token))] = str(inside)
    assert gateway.endpoint in options
    done = await asyncio.to_thread(refused, *options, "--exec-view", "required")
    assert done.returncode == 2
    assert "lies in the sandbox's root" in done.stderr
    async with scripted_gateway() as real:
        options[options.index(gateway.endpoint)] = real.endpoint
        async with supervisor_process(*options, log=tmp_path / "log", gateway=real) as (running, session):
            assert session is not None
            assert not session.hello.HasField("exec")
            assert "lies in the sandbox's root" in running.confinement["exec"]["reason"]


async def test_sigterm_lets_commands_and_transfers_finish(places: SandboxPlaces, tmp_path: Path) -> None:
    async with (
        scripted_gateway() as gateway,
        supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway) as (
            running,
            session,
        ),
    ):
        assert session is not None
        relay = await gateway.start_command(
            session, "sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.05; done"
        )
        assert await relay.receive()
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: "waiting for relays" in running.log.read_text("utf-8"), "it drains")
        assert running.process.returncode is None
        (places.root / "sandbox/go").touch()
        assert await relay.rest()  # the exit
        relay.end()
        assert await running.process.wait() == 0
        assert running.log_lines()[-1]["event"] == "stopped"


async def test_sigterm_does_not_wait_for_ever(places: SandboxPlaces, tmp_path: Path) -> None:
    """After `--drain-timeout` what runs is cut off, commands too."""
    async with (
        scripted_gateway() as gateway,
        supervisor_process(
            *run_options(places, gateway), "--drain-timeout", "0.1", log=tmp_path / "log", gateway=gateway
        ) as (running, session),
    ):
        assert session is not None
        relay = await gateway.start_command(session, "sh", "-c", "echo $$; exec sleep 1000")
        assert await relay.receive()
        running.process.send_signal(signal.SIGTERM)
        assert await running.process.wait() == 0
        assert "relays are cut off" in running.log.read_text("utf-8")


async def test_a_supervisor_that_is_killed_leaves_no_command(places: SandboxPlaces, tmp_path: Path) -> None:
    """EXE-6: the exec host ends with it, and with that every command."""
    alive = places.root / "sandbox/alive"
    async with (
        scripted_gateway() as gateway,
        supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway) as (
            running,
            session,
        ),
    ):
        assert session is not None
        relay = await gateway.start_command(
            session, "sh", "-c", "while :; do touch alive; sleep 0.05; done & echo up; wait"
        )
        assert await relay.receive()
        running.process.kill()
        await running.process.wait()

        async def gone() -> bool:
            alive.unlink(missing_ok=True)
            await asyncio.sleep(0.3)
            return not alive.exists()

        for _ in range(20):
            if await gone():
                break
        else:
            pytest.fail("a command outlived its supervisor")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--env", "=x"], "--env"),
        (["--env", "novalue"], "--env"),
        (["--exec-view", "maybe"], "--exec-view"),
        (["--confine", "maybe"], "--confine"),
        (["--user", "no-such-user"], "--user: there is no user 'no-such-user'"),
    ],
)
def test_options_that_are_refused(places: SandboxPlaces, options: list[str], words: str) -> None:
    done = refused(*run_options(places, ScriptedGateway("127.0.0.1:1")), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_directory_that_is_the_root(places: SandboxPlaces) -> None:
    """EXE-24: commands must not see it, so it cannot be where they work."""
    options = run_options(places, ScriptedGateway("127.0.0.1:1"))
    options[options.index(str(places.state))] = str(places.root)
    done = refused(*options)
    assert done.returncode == 2
    assert "contains the working directory" in done.stderr


def test_a_state_directory_that_a_link_leads_out_to(places: SandboxPlaces, tmp_path: Path) -> None:
    """What is in the root was put there by commands; nothing is made outside for them."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (places.root / "var").symlink_to(outside)
    options = run_options(places, ScriptedGateway("127.0.0.1:1"))
    options[options.index(str(places.state))] = str(places.root / "var/lib/state")
    done = refused(*options)
    assert done.returncode == 2
    assert "a link leads out of --root" in done.stderr
    assert list(outside.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root can become another user")
def test_only_root_becomes_another_user(places: SandboxPlaces) -> None:
    done = refused(*run_options(places, ScriptedGateway("127.0.0.1:1")), "--user", "0")
    assert done.returncode == 2
    assert "only root" in done.stderr


@pytest.mark.skipif(not can_give_files_away(), reason="only root gives files away")
async def test_another_user(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The owner of --root, if that is not root: files, commands and the process are theirs."""
    obstacle = first_unreachable(NOBODY, interpreter_places())
    if obstacle is not None:
        pytest.skip(f"the interpreter lies where other users cannot reach it: {obstacle}")
    places = _open_to_all(tmp_path_factory)
    async with (
        scripted_gateway() as gateway,
        supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway) as (
            running,
            session,
        ),
    ):
        assert (running.confinement["uid"], running.confinement["gid"]) == (NOBODY.uid, NOBODY.gid)
        status = status_of(running.process.pid)
        assert set(status["Uid"].split()) == {str(NOBODY.uid)}
        assert status["Groups"].strip() == ""
        assert int(status["CapPrm"], 16) == 0
        assert session is not None
        (places.root / "sandbox/f").write_bytes(b"content")
        assert (await stat_through(gateway, session, "/sandbox/f")).stat_file.file.size_bytes == 7
        done = await gateway.run(session, "sh", "-c", "id -u; echo x > made")
        assert done.stdout.split() == [b"65534"]
        assert (places.root / "sandbox/made").stat().st_uid == NOBODY.uid


def _open_to_all(tmp_path_factory: pytest.TempPathFactory) -> SandboxPlaces:
    base = tmp_path_factory.mktemp("open")
    places = lay_out(base / "home")
    for path in (base, *base.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    for path in (places.root, *places.root.rglob("*")):
        os.chown(path, *NOBODY)
    return places


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_cannot_reach_what_is_needed(places: SandboxPlaces) -> None:
    """Asked for by name it is refused; by the owner of --root, root stays root and warns."""
    places.home.chmod(0o700)
    done = refused(*run_options(places, ScriptedGateway("127.0.0.1:1")), "--user", "65534")
    assert done.returncode == 2
    assert "cannot reach" in done.stderr


@pytest.mark.skipif(not can_give_files_away(), reason="only root gives files away")
async def test_an_owner_who_cannot_reach_what_is_needed(places: SandboxPlaces, tmp_path: Path) -> None:
    """Root stays root and says why."""
    os.chown(places.root, *NOBODY)
    places.home.chmod(0o700)
    async with (
        scripted_gateway() as gateway,
        supervisor_process(*run_options(places, gateway), log=tmp_path / "log", gateway=gateway) as (
            running,
            _,
        ),
    ):
        assert running.confinement["uid"] == 0
        assert running.confinement["exec"]["served"] is True
        warnings = [line["event"] for line in running.log_lines() if line["level"] == "warning"]
        assert any("running as root" in warning for warning in warnings)


async def test_without_confinement(places: SandboxPlaces, tmp_path: Path) -> None:
    """`--confine none --exec-view none`: everything works, and it is said what does not hold."""
    async with (
        scripted_gateway() as gateway,
        supervisor_process(
            *run_options(places, gateway), "--confine", "none", "--exec-view", "none",
            log=tmp_path / "log", gateway=gateway,
        ) as (running, session),
    ):  # fmt: skip
        assert session is not None
        assert running.confinement["landlock"] == 0
        assert running.confinement["exec"]["view"] == "machine"
        (places.root / "sandbox/f").write_bytes(b"content")
        assert (await gateway.run(session, "cat", "f")).stdout == b"content"
        level = [line["level"] for line in running.log_lines() if line["event"] == "confinement"]
        assert level == ["warning"]


async def test_bounds_on_trees_and_archives(tmp_path: Path) -> None:
    """ARC-4, TRE-36: each option reaches the agent, which announces them to the gateway."""
    places = lay_out(tmp_path)
    async with scripted_gateway() as gateway:
        options = ("--max-tree-entries", "5", "--max-archive-entries", "6", "--max-extracted-bytes", "7")
        async with supervisor_process(
            *run_options(places, gateway), *options, log=tmp_path / "log", gateway=gateway
        ) as (_, session):
            assert session is not None
            told = session.hello.file_transfer
    assert (told.max_tree_entries, told.max_archive_entries, told.max_extracted_bytes) == (5, 6, 7)
    assert (
        "--max-expansion-ratio" in refused(*run_options(places, gateway), "--max-expansion-ratio", "0").stderr
    )
