"""Commands in the sandbox: what they get, what comes out of them, and how they end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import exec_pb2, exec_relay_pb2, openshell_pb2
from openshell_files_conformance.peers.commands import Command
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import holds
from openshell_files_conformance.registry import case

_NEEDS = ("exec",)


async def begin(env: SupervisorEnv, *arguments: str, **fields: Any) -> Command:
    """Start a command in the sandbox."""
    target = exec_relay_pb2.ExecRelayTarget(transfer_id="conformance-command")
    relay = await env.byte_relay(openshell_pb2.RelayOpen(exec=target))
    command = Command(relay, env.transcript)
    fields.setdefault("workdir", env.home)
    await command.open(exec_pb2.ExecSandboxRequest(command=arguments, **fields))
    return command


async def run(env: SupervisorEnv, *arguments: str, **fields: Any) -> Command:
    """Run a command in the sandbox to its end."""
    return await (await begin(env, *arguments, **fields)).finish(env.scaled(10))


async def shell(env: SupervisorEnv, script: str, **fields: Any) -> Command:
    """Run a script by the sandbox's shell."""
    return await run(env, "/bin/sh", "-c", script, **fields)


@case("supervisor/commands/arguments", profile="relay", clauses=("EXE-2", "EXE-1", "EXE-11"), needs=_NEEDS)
async def arguments(env: SupervisorEnv) -> None:
    """The program gets its arguments as they are, and no shell sees them."""
    given = ["$HOME", "a b", "*", "", "'", "\n", "; exit 3", "-n"]
    done = await run(env, "/bin/sh", "-c", 'for one; do printf "<%s>" "$one"; done', "sh", *given)
    env.check("exit", done.exit_code, equals=0, clause="EXE-11")
    env.check("arguments", done.stdout.decode(), equals="".join(f"<{one}>" for one in given), clause="EXE-2")
    env.check("last", done.ended, equals=False, clause="EXE-1")


@case("supervisor/commands/not-found", profile="relay", clauses=("EXE-13",), needs=_NEEDS)
async def not_found(env: SupervisorEnv) -> None:
    """A program that is not there exits with 127, one that cannot be run with 126, each with a line on stderr."""
    await env.files.write(env.path("no-program"), b"text", mode=0o644)
    for name, program, code in (
        ("absolute", "/no/such/program", 127),
        ("by-name", "no-such-program-zq", 127),
        ("not-executable", env.path("no-program"), 126),
    ):
        done = await run(env, program)
        env.check(name, done.exit_code, equals=code, clause="EXE-13")
        env.check(f"{name}-line", done.stderr.endswith(b"\n"), equals=True, clause="EXE-13")


@case("supervisor/commands/workdir", profile="relay", clauses=("EXE-3", "EXE-14"), needs=_NEEDS)
async def workdir(env: SupervisorEnv) -> None:
    """A command starts in workdir, a relative one below the sandbox's; a missing one is refused and nothing is run."""
    await env.files.write(env.path("here"), b"")
    absolute = await shell(env, "ls")
    env.check("absolute", absolute.stdout, equals=b"here\n", clause="EXE-3")
    relative = await shell(env, "ls", workdir=env.home.removeprefix(env.target.workdir).lstrip("/"))
    env.check("relative", relative.stdout, equals=b"here\n", clause="EXE-3")
    name = env.home.rsplit("/", 1)[1]
    default = await shell(env, "ls", workdir="")
    env.check("default", name in default.stdout.decode().split(), equals=True, clause="EXE-3")
    missing = await shell(env, f"touch {env.path('ran')}", workdir=env.path("missing"))
    seen = (missing.error, missing.fields)
    env.check("missing", seen, satisfies=("INVALID_REQUEST for workdir", _of_workdir), clause="EXE-14")
    env.check("not-run", await env.files.exists(env.path("ran")), equals=False, clause="EXE-14")


def _of_workdir(seen: tuple[str, list[str]]) -> bool:
    reason, fields = seen
    return reason == "INVALID_REQUEST" and all("workdir" in field for field in fields) and bool(fields)


@case("supervisor/commands/environment", profile="relay", clauses=("EXE-15",), needs=_NEEDS)
async def environment(env: SupervisorEnv) -> None:
    """The environment is the sandbox's and the request's, and has nothing of the supervisor's."""
    done = await shell(env, "env", environment={"CONFORMANCE_A": "one two", "PATH": "/usr/bin:/bin"})
    lines = done.stdout.decode().splitlines()
    env.check("given", "CONFORMANCE_A=one two" in lines, equals=True, clause="EXE-15")
    token = env.target.token
    leaked = [line for line in lines if token in line or line.startswith("OPENSHELL_SANDBOX_TOKEN")]
    env.check("no-token", leaked, equals=[], clause="EXE-15")


@case("supervisor/commands/tty", profile="relay", clauses=("EXE-16",), needs=_NEEDS)
async def tty(env: SupervisorEnv) -> None:
    """A terminal is refused, and nothing is run."""
    done = await shell(env, f"touch {env.path('ran')}", tty=True)
    env.check("reason", done.error, equals="INVALID_REQUEST", clause="EXE-16")
    env.check("not-run", await env.files.exists(env.path("ran")), equals=False, clause="EXE-16")


@case("supervisor/commands/input", profile="relay", clauses=("EXE-4",), needs=_NEEDS)
async def standard_input(env: SupervisorEnv) -> None:
    """The request has all of standard input; a command that does not read it ends all the same."""
    given = bytes(range(256)) * 1000
    echoed = await run(env, "/bin/cat", stdin=given)
    env.check("read", echoed.stdout == given, equals=True, clause="EXE-4")
    unread = await run(env, "/bin/true", stdin=given)
    env.check("unread", unread.exit_code, equals=0, clause="EXE-4")
    empty = await run(env, "/bin/cat")
    env.check("empty", (empty.exit_code, empty.stdout), equals=(0, b""), clause="EXE-4")


@case("supervisor/commands/output", profile="relay", clauses=("EXE-17", "EXE-18", "EXE-20"), needs=_NEEDS)
async def output(env: SupervisorEnv) -> None:
    """Output comes as it is written, separately, in pieces of at most 64 KiB, all of it before the exit."""
    await env.files.special(env.path("fifo"), "fifo")
    early = await begin(env, "/bin/sh", "-c", "echo first; read line < fifo; echo second >&2; exit 7")
    with suppress(CannotGoOnError):
        while not early.stdout.endswith(b"\n") and await early.next(env.scaled(5)):
            pass
    env.check("as-it-comes", (early.stdout, early.exit_code), equals=(b"first\n", None), clause="EXE-17")
    early.relay.end()
    large = await shell(
        env, "i=0; while [ $i -lt 300 ]; do printf '%01000d' $i; i=$((i+1)); done; echo end >&2"
    )
    env.check("all-of-it", (len(large.stdout), large.stderr), equals=(300_000, b"end\n"), clause="EXE-20")
    env.check(
        "pieces",
        large.largest,
        satisfies=("at most 64 KiB", lambda size: 0 < size <= 64 << 10),
        clause="EXE-17",
    )
    target = exec_relay_pb2.ExecRelayTarget(transfer_id="conformance-slow")
    relay = await env.byte_relay(openshell_pb2.RelayOpen(exec=target))
    relay.hold()
    slow = Command(relay, env.transcript)
    script = "i=0; while [ $i -lt 100 ]; do printf '%0100000d' $i; i=$((i+1)); done"
    await slow.open(exec_pb2.ExecSandboxRequest(command=["/bin/sh", "-c", script], workdir=env.home))
    # Nobody reads while other work goes on; then everything is there.
    env.check("meanwhile", (await run(env, "/bin/true")).exit_code, equals=0, clause="EXE-18")
    relay.read_on()
    await slow.finish(env.scaled(15))
    env.check("nothing-cut", (len(slow.stdout), slow.exit_code), equals=(10_000_000, 0), clause="EXE-18")


@case("supervisor/commands/exit-codes", profile="relay", clauses=("EXE-5",), needs=_NEEDS)
async def exit_codes(env: SupervisorEnv) -> None:
    """The exit code is the command's, 128 and the signal's number, or 124 for a command whose time is over."""
    for name, script, code in (
        ("own", "exit 42", 42),
        ("signal", "kill -9 $$", 137),
        ("term", "kill -15 $$", 143),
    ):
        env.check(name, (await shell(env, script)).exit_code, equals=code, clause="EXE-5")
    limited = await _limited(env, "echo before; sleep 30")
    env.check("timeout", (limited.exit_code, limited.stdout), equals=(124, b"before\n"), clause="EXE-5")


async def _limited(env: SupervisorEnv, script: str) -> Command:
    request = exec_pb2.ExecSandboxRequest(command=["/bin/sh", "-c", script], workdir=env.home)
    request.execution_timeout.FromMilliseconds(300)
    target = exec_relay_pb2.ExecRelayTarget(transfer_id="conformance-limited")
    command = Command(await env.byte_relay(openshell_pb2.RelayOpen(exec=target)), env.transcript)
    await command.open(request)
    return await command.finish(env.scaled(10))


@case("supervisor/commands/left-behind", profile="relay", clauses=("EXE-21",), needs=_NEEDS)
async def left_behind(env: SupervisorEnv) -> None:
    """A process that a command leaves behind with its output does not hold its exit up."""
    done = await begin(env, "/bin/sh", "-c", "(trap '' HUP; sleep 20) & echo out")
    with suppress(CannotGoOnError):
        await done.finish(env.scaled(3))
    env.check("exit", (done.exit_code, done.stdout), equals=(0, b"out\n"), clause="EXE-21")


@case("supervisor/commands/group-is-ended", profile="relay", clauses=("EXE-6",), needs=_NEEDS, timeout=30)
async def group_is_ended(env: SupervisorEnv) -> None:
    """When the gateway ends the relay the whole group gets SIGTERM, and SIGKILL if it does not go."""
    script = (
        "trap 'echo term > termed; exit 1' TERM; "
        "/bin/sh -c 'trap \"\" TERM; while :; do date +%s%N > alive; sleep 0.05; done' & "
        "echo started; while :; do sleep 0.05; done"
    )
    command = await begin(env, "/bin/sh", "-c", script)
    while b"started" not in command.stdout and await command.next(env.scaled(5)):
        pass

    async def alive() -> bool:
        return bool(await env.files.read(env.path("alive")))

    if not await holds(alive, env.scaled(5)):
        raise CannotGoOnError("a process of the command does not write into its working directory")
    command.relay.end()

    async def termed() -> bool:
        return await env.files.read(env.path("termed")) == b"term\n"

    env.check("term", await holds(termed, env.scaled(5)), equals=True, clause="EXE-6")
    last: list[bytes | None] = []

    async def quiet() -> bool:
        last.append(await env.files.read(env.path("alive")))
        # A stubborn process writes every 50 ms; 40 looks of 10 ms without a change mean that it is gone.
        return len(last) > 40 and len(set(last[-40:])) == 1

    env.check("kill", await holds(quiet, env.scaled(8)), equals=True, clause="EXE-6")


@case(
    "supervisor/commands/view",
    profile="relay",
    clauses=("EXE-7", "EXE-22", "EXE-23", "EXE-24", "PTH-8"),
    needs=("exec", "exec-view"),
)
async def view(env: SupervisorEnv) -> None:
    """A command sees the sandbox's root as `/`, writes nowhere else, gains no rights, and cannot read the token."""
    seen = await shell(env, f"cat {env.path('there')}")
    env.check(
        "absent", seen.exit_code, satisfies=("not 0", lambda code: code not in {None, 0}), clause="EXE-7"
    )
    await env.files.write(env.path("there"), b"content")
    seen = await shell(env, f"cat {env.path('there')}; ls -d {env.home}")
    env.check("root", seen.stdout, equals=b"content" + env.home.encode() + b"\n", clause="EXE-7")
    outside = await shell(
        env, "touch /usr/zq-conformance /etc/../zq-outside 2>/dev/null; ls /usr/zq-conformance"
    )
    env.check(
        "writes-nothing-outside",
        outside.exit_code,
        satisfies=("not 0", lambda code: code != 0),
        clause="EXE-22",
    )
    rights = await shell(env, "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status")
    told = dict(line.split(":\t") for line in rights.stdout.decode().splitlines() if ":\t" in line)
    env.check("no-new-rights", told.get("NoNewPrivs"), equals="1", clause="EXE-23")
    env.check("no-capabilities", int(told.get("CapEff", "1"), 16), equals=0, clause="EXE-23")
    secrets = await shell(env, f"cat /proc/[0-9]*/environ 2>/dev/null | grep -c '{env.target.token}'")
    env.check("no-token", secrets.stdout, one_of=(b"0\n", b""), clause="EXE-24")
    covered = await env.upload("/usr/zq-conformance", b"x")
    env.check("covered", covered.reason, equals="PATH_FORBIDDEN", clause="PTH-8")
    env.check("covered-by", covered.metadata.get("covered_by"), equals="/usr", clause="PTH-8")
    down = await env.download("/usr/bin/env")
    env.check("covered-download", down.reason, equals="PATH_FORBIDDEN", clause="PTH-8")


@case("supervisor/commands/second-frame", profile="relay", clauses=("EXE-10", "EXE-11"), needs=_NEEDS)
async def second_frame(env: SupervisorEnv) -> None:
    """A second frame of the gateway is refused, and so is one that is no `open`."""
    command = await begin(env, "/bin/sh", "-c", "sleep 20")
    request = exec_pb2.ExecSandboxRequest(command=["/bin/true"])
    await command.open(request)
    with suppress(CannotGoOnError):
        await command.finish(env.scaled(5))
    refused = bool(command.error) or command.ended
    env.check("second", (refused, command.exit_code), equals=(True, None), clause="EXE-10")
    target = exec_relay_pb2.ExecRelayTarget(transfer_id="conformance-empty")
    empty = Command(await env.byte_relay(openshell_pb2.RelayOpen(exec=target)), env.transcript)
    await empty.send(exec_relay_pb2.ExecRelayRequest())
    with suppress(CannotGoOnError):
        await empty.finish(env.scaled(5))
    env.check("empty", bool(empty.error) or empty.ended, equals=True, clause="EXE-11")
