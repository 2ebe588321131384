"""What commands see and what they cannot reach; proved by trying."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import openshell_supervisor_sim
import pytest
from agent.agent_harness import Refused, get, put, stat
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import AgentSettings, FileAgent
from openshell_supervisor_sim.commands.exec_host import ExecHostError, StartingHost
from openshell_supervisor_sim.commands.host.messages import HostSettings
from openshell_supervisor_sim.confinement import landlock
from supervisor_scene import SandboxPlaces, Scene, serving_commands


@pytest.fixture
def in_view(scene: Scene) -> Scene:
    assert scene.host is not None
    if not scene.host.view:
        pytest.skip(f"this machine allows no view of one's own: {scene.host.reason}")
    return scene


async def test_the_root_is_the_sandboxs(in_view: Scene, places: SandboxPlaces) -> None:
    """EXE-7: what was put into the root is found at its path, at once, and the reverse."""
    (places.root / "sandbox/uploaded").write_text("content", "ascii")
    assert (await in_view.run("cat", "/sandbox/uploaded")).stdout == b"content"
    assert (await in_view.run("sh", "-c", "echo back > /tmp/made")).exit_code == 0
    assert (places.root / "tmp/made").read_text("ascii") == "back\n"


async def test_python_runs_in_the_view(in_view: Scene) -> None:
    """EXE-7: with the packages of the supervisor's interpreter, also cloudpickle, and what needs /dev/shm."""
    program = (
        "import cloudpickle, multiprocessing as m, ssl, sys;"
        "m.Lock(); f = cloudpickle.loads(cloudpickle.dumps(lambda: 41 + 1)); print(f(), sys.version_info[:2])"
    )
    done = await in_view.run("python", "-c", program)
    assert done.stderr == b""
    assert done.stdout.decode().split() == ["42", *str(sys.version_info[:2]).split()]


async def test_nothing_of_the_machine_is_there(in_view: Scene, places: SandboxPlaces) -> None:
    """EXE-24: neither the token nor the agent's state, nor other processes."""
    for path in (places.token, places.state, places.home, Path("/etc/shadow"), Path("/etc/ssh")):
        assert (await in_view.run("ls", "-d", str(path))).exit_code != 0, path
    # The host, the shell, and what lists them.
    processes = (await in_view.run("sh", "-c", "ls -d /proc/[0-9]*")).stdout.split()
    assert b"/proc/1" in processes
    assert len(processes) <= 3


def _exists(path: str) -> bool:
    return os.path.lexists(path)


async def test_the_machines_own_is_for_reading(in_view: Scene) -> None:
    """EXE-22: programs, libraries, the interpreter and /proc cannot be changed."""
    for path in ("/usr/bin", "/lib", sys.prefix, "/dev", "/proc/sys/kernel"):
        done = await in_view.run("touch", f"{path}/made-by-a-command")
        assert done.exit_code != 0, path
        assert not _exists(f"{path}/made-by-a-command")
    for file in ("/etc/passwd", "/etc/hosts", "/proc/sys/kernel/hostname"):
        assert (await in_view.run("sh", "-c", f"echo x >> {file}")).exit_code != 0, file


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /tmp",
        "umount /usr",
        "mount -o remount,rw /usr",
        "mknod /tmp/disk b 254 0",
        "chroot / true",
        "kill -9 1 && sleep 0.2 && ! kill -0 1",
        "nsenter -t 1 -m true",
    ],
)
async def test_nothing_can_be_gained(in_view: Scene, attempt: str) -> None:
    """EXE-23: no mounts, no devices, no other root, no death of the first process."""
    assert (await in_view.run("sh", "-c", attempt)).exit_code != 0
    assert (await in_view.run("true")).exit_code == 0


async def test_no_capabilities_and_no_new_privileges(scene: Scene) -> None:
    """EXE-23: none, whoever the user is, in every set; and set-id programs give none."""
    status = (await scene.run("cat", "/proc/self/status")).stdout.decode()
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"
    limits = (await scene.run("sh", "-c", "ulimit -c; ulimit -n")).stdout.split()
    assert limits[0] == b"0"
    assert int(limits[1]) <= 4096


async def test_what_stays_behind(places: SandboxPlaces) -> None:
    """Only empty places where something was mounted."""
    async with serving_commands(places) as scene:
        assert (await scene.run("true")).exit_code == 0
    left = [path for path in places.root.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    mounts = await asyncio.to_thread(Path("/proc/self/mounts").read_text, "utf-8")
    assert str(places.root) not in mounts


async def test_a_link_where_something_is_mounted(places: SandboxPlaces, tmp_path: Path) -> None:
    """EXE-22: the root's content is hostile; nothing outside of it is touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("usr", "bin", "dev", "work", "etc"):
        (places.root / name).symlink_to(outside)
    try:
        async with serving_commands(places, view="required") as scene:
            await scene.run("true")
    except ExecHostError:
        pass  # a root in which nothing can be mounted has no view
    assert list(outside.iterdir()) == []


async def test_a_root_with_a_system_of_its_own(places: SandboxPlaces) -> None:
    """Its programs are used, and not covered by the machine's."""
    (places.root / "bin").mkdir()
    shell = places.root / "bin/sh"
    shell.write_bytes(b"#!/no/such/interpreter\n")
    shell.chmod(0o755)
    async with serving_commands(places) as scene:
        assert scene.host is not None
        if not scene.host.view:
            pytest.skip(scene.host.reason)
        assert (await scene.run("sh")).exit_code == 127
        assert not (places.root / "usr").exists()


async def test_a_file_uploaded_over_a_mount_point(in_view: Scene, places: SandboxPlaces) -> None:
    """PTH-21, EXE-7: publishing renames over it; commands see the new file."""
    staged = places.root / "etc/.staged"
    staged.write_text("127.0.0.1 mine\n", "ascii")
    os.replace(staged, places.root / "etc/hosts")
    assert (await in_view.run("cat", "/etc/hosts")).stdout == b"127.0.0.1 mine\n"


@pytest.fixture
async def agent_in_view(in_view: Scene, places: SandboxPlaces) -> AsyncIterator[FileAgent]:
    """The file agent of a sandbox whose commands have a view."""
    assert in_view.host is not None
    agent = FileAgent(
        AgentSettings(root=places.root, state_dir=places.state, covered=tuple(in_view.host.covered))
    )
    await agent.start()
    yield agent
    await agent.aclose()


#: What a path's file is for commands, and whether file methods agree.
UPLOADED = {
    "/usr/local/bin/tool": Reason.PATH_FORBIDDEN,
    "/usr/tool": Reason.PATH_FORBIDDEN,
    "/bin/tool": Reason.PATH_FORBIDDEN,
    "/dev/shm/x": Reason.PATH_FORBIDDEN,
    "/dev/null2": Reason.PATH_FORBIDDEN,
    "/proc/x": Reason.PATH_FORBIDDEN,
    f"{sys.prefix}/lib/x": Reason.PATH_FORBIDDEN,
    "/sandbox/x": None,
    "/etc/mine": None,
    "/etc/hosts": None,
    "/var/x": None,
    "/lib/../usr/x": Reason.INVALID_PATH,
}


@pytest.mark.parametrize("path", UPLOADED)
async def test_files_and_commands_agree(in_view: Scene, agent_in_view: FileAgent, path: str) -> None:
    """EXE-7, PTH-8: what is uploaded is what commands see there, or the upload is refused."""
    refused = UPLOADED[path]
    if refused is None:
        await put(agent_in_view, path, b"uploaded", parents=files_pb2.PARENT_POLICY_CREATE)
        assert (await in_view.run("cat", path)).stdout == b"uploaded"
        assert (await get(agent_in_view, path)).content == b"uploaded"
        return
    with pytest.raises(Refused) as caught:
        await put(agent_in_view, path, b"uploaded", parents=files_pb2.PARENT_POLICY_CREATE)
    assert caught.value.reason is refused
    assert (await in_view.run("test", "-e", path)).exit_code == 1


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/hosts", "/usr/bin/env", "/bin/sh", "/dev/null"])
async def test_what_only_commands_see_is_not_downloaded(
    in_view: Scene, agent_in_view: FileAgent, places: SandboxPlaces, path: str
) -> None:
    """EXE-7, PTH-8: it is there for commands, so nothing, or an empty file, would be a lie."""
    assert (await in_view.run("test", "-e", path)).exit_code == 0
    for reading in (get(agent_in_view, path), stat(agent_in_view, path)):
        with pytest.raises(Refused) as caught:
            await reading
        assert caught.value.reason is Reason.PATH_FORBIDDEN
    (places.root / "sandbox/link").symlink_to(path)
    with pytest.raises(Refused) as caught:
        await get(agent_in_view, "/sandbox/link", leaf_link=files_pb2.LEAF_LINK_POLICY_FOLLOW)
    assert caught.value.reason is Reason.PATH_FORBIDDEN


async def test_hidden_state(places: SandboxPlaces) -> None:
    """EXE-24: state that lies in the root is empty for commands."""
    state = places.root / "var/lib/openshell-files"
    state.mkdir(parents=True)
    (state / "journal").write_text("rows", "ascii")
    settings = HostSettings(
        str(places.root), "auto", [sys.prefix, sys.base_prefix], [str(state)], None, "auto"
    )
    async with serving_commands(places, hidden=[str(state)]) as scene:
        assert scene.host is not None
        if not scene.host.view:
            pytest.skip(scene.host.reason)
        listing = await scene.run("ls", "-A", "/var/lib/openshell-files")
        assert (listing.stdout, listing.exit_code) == (b"", 0)
        assert (await scene.run("touch", "/var/lib/openshell-files/x")).exit_code != 0
    assert settings.hidden == [str(state)]


async def test_without_a_view(places: SandboxPlaces) -> None:
    """EXE-22: commands run in the root all the same, and can write nowhere else."""
    if not landlock.abi_version():
        pytest.skip("this kernel has no Landlock, which is all there is without a view")
    async with serving_commands(places, view="none") as scene:
        assert scene.host is not None
        assert (scene.host.view, scene.host.reason) == (False, "switched off")
        (places.root / "sandbox/uploaded").write_text("content", "ascii")
        assert (await scene.run("cat", "uploaded")).stdout == b"content"
        assert (await scene.run("sh", "-c", "echo x > made && pwd")).exit_code == 0
        for attempt in (
            f"cat {places.token}",
            f"ls {places.state}",
            f"echo x > {places.home}/made",
            f"echo x > {places.token}",
            "cat /etc/shadow",
            "touch /tmp/made-by-a-command",
            f"cat /proc/{os.getpid()}/environ",
            f"kill -0 {os.getpid()}",
        ):
            done = await scene.run("sh", "-c", attempt)
            assert done.exit_code != 0, attempt
            assert done.stdout == b"", attempt


async def test_a_view_that_is_required_and_cannot_be_made(tmp_path: Path) -> None:
    settings = HostSettings(str(tmp_path / "missing"), "required", [], [], None, "auto")
    with pytest.raises(ExecHostError, match=r"view|namespace|unshare"):
        StartingHost(settings).ready()


def test_the_host_needs_the_standard_library_only() -> None:
    """It starts without site packages, so that it is small and fast."""
    package = Path(openshell_supervisor_sim.__file__).parent
    files = [package / "__init__.py", package / "commands/__init__.py"]
    files += [*(package / "commands/host").glob("*.py"), *(package / "confinement").glob("*.py")]
    ours = ("openshell_supervisor_sim.commands.host", "openshell_supervisor_sim.confinement")
    assert len(files) > 10
    for file in files:
        for module in imports_of(file):
            root = module.partition(".")[0]
            assert root in sys.stdlib_module_names or module.startswith(ours), f"{file.name}: {module}"


def imports_of(file: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
