"""Places that no method may touch: the supervisor's own files, staging files, kernel interfaces, other file systems."""

from __future__ import annotations

from openshell_files_conformance.cases.supervisor.directories import copy, listing, make, move, remove
from openshell_files_conformance.cases.supervisor.tree_downloads import begin as download_tree
from openshell_files_conformance.cases.supervisor.tree_uploads import begin as upload_tree
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.tree_stream import directory, end, manifest, regular
from openshell_files_conformance.registry import case

_FORBIDDEN = "PATH_FORBIDDEN"
_INSIDE = {"guarded_inside": True, "exec": False}
_MOUNTS = {"mounts": True, "exec": False}


def _guarded(env: SupervisorEnv) -> tuple[str, str]:
    """Return the token's path in the sandbox, and the agent's state directory."""
    told = env.target.facts.get("guarded", [])
    if len(told) != 2:
        raise CannotGoOnError(
            "the launcher did not say in `guarded` where token and state are in the sandbox"
        )
    return str(told[0]), str(told[1])


@case("supervisor/guarded/token-and-state", profile="core", clauses=("PTH-7",), launch=_INSIDE)
async def token_and_state(env: SupervisorEnv) -> None:
    """Every method of files is refused at the token and in the agent's state directory."""
    token, state = _guarded(env)
    inner = next(iter(await env.files.tree(state)), b"").decode()
    for name, path in (("token", token), ("state", f"{state}/new"), ("record", f"{state}/{inner}")):
        env.check(f"upload-{name}", (await env.upload(path, b"x")).reason, equals=_FORBIDDEN, clause="PTH-7")
        env.check(
            f"write-{name}", (await env.write_file(path, b"x")).reason, equals=_FORBIDDEN, clause="PTH-7"
        )
        env.check(f"start-{name}", (await env.start_upload(path)).reason, equals=_FORBIDDEN, clause="PTH-7")
        if name != "state":
            found = await env.download(path)
            env.check(
                f"download-{name}", (found.reason, found.content), equals=(_FORBIDDEN, b""), clause="PTH-7"
            )
            env.check(f"stat-{name}", (await env.stat(path)).reason, equals=_FORBIDDEN, clause="PTH-7")
    env.check("stat-directory", (await env.stat(state)).reason, equals=_FORBIDDEN, clause="PTH-7")
    env.check("token-stays", await env.files.read(token), equals=env.target.token.encode(), clause="PTH-7")


@case("supervisor/guarded/other-names", profile="core", clauses=("PTH-19", "PTH-22"), launch=_INSIDE)
async def other_names(env: SupervisorEnv) -> None:
    """Links, second names and another path lead to the same refusal."""
    token, state = _guarded(env)
    follow = files_pb2.LEAF_LINK_POLICY_FOLLOW
    await env.files.link(env.path("link"), token)
    found = await env.download(env.path("link"), leaf_link=follow)
    env.check("link", (found.reason, found.content), equals=(_FORBIDDEN, b""), clause="PTH-19")
    written = await env.upload(env.path("link"), b"x", leaf_link=follow)
    env.check("write-through-link", written.reason, equals=_FORBIDDEN, clause="PTH-19")
    await env.files.link(env.path("way"), state)
    new = await env.upload(env.path("way/new"), b"x")
    env.check("link-on-the-way", new.reason, equals=_FORBIDDEN, clause="PTH-19")
    await env.files.hard_link(env.path("second"), token)
    second = await env.download(env.path("second"))
    env.check("second-name", (second.reason, second.content), equals=(_FORBIDDEN, b""), clause="PTH-19")
    await env.files.remove(env.path("second"))
    dotted = await env.download(f"/run//{token.rsplit('/', 1)[1]}")
    env.check("slashes", dotted.reason, equals=_FORBIDDEN, clause="PTH-22")


@case("supervisor/guarded/replaced-token", profile="core", clauses=("PTH-19",), launch=_INSIDE, alone=True)
async def replaced_token(env: SupervisorEnv) -> None:
    """A token that was replaced by one rename is guarded by its place."""
    token, _ = _guarded(env)
    await env.files.write(f"{token}.next", env.target.token.encode(), mode=0o600)
    await env.files.rename(f"{token}.next", token)
    found = await env.download(token)
    env.check("download", (found.reason, found.content), equals=(_FORBIDDEN, b""), clause="PTH-19")
    env.check("upload", (await env.upload(token, b"x")).reason, equals=_FORBIDDEN, clause="PTH-19")


@case(
    "supervisor/guarded/directories",
    profile="core",
    clauses=("DIR-8", "DIR-11", "PTH-7"),
    needs=("directories",),
    launch=_INSIDE,
)
async def directories(env: SupervisorEnv) -> None:
    """Guarded places are not listed, and neither they nor a directory above them is removed, moved or copied."""
    token, state = _guarded(env)
    above = token.rsplit("/", 1)[0]
    listed = await listing(env, above)
    names = [entry.name for entry in listed.answer.entries] if listed.ok else [listed.reason]
    env.check("not-listed", token.rsplit("/", 1)[1].encode() in names, equals=False, clause="DIR-8")
    deep = await listing(env, "/", recursive=True)
    below = [
        entry.name
        for entry in deep.answer.entries
        if entry.name.startswith(state.lstrip("/").encode() + b"/")
    ]
    env.check("not-listed-recursively", below, equals=[], clause="DIR-8")
    for name, path in (
        ("token", token),
        ("state", state),
        ("above", above),
        ("above-state", state.rsplit("/", 1)[0]),
    ):
        env.check(
            f"remove-{name}",
            (await remove(env, path, recursive=True)).reason,
            equals=_FORBIDDEN,
            clause="DIR-11",
        )
        env.check(
            f"move-{name}",
            (await move(env, path, env.path("moved"))).reason,
            equals=_FORBIDDEN,
            clause="DIR-11",
        )
        copied = await copy(env, path, env.path("copied"), recursive=True)
        env.check(f"copy-{name}", copied.reason, equals=_FORBIDDEN, clause="DIR-11")
    env.check("make", (await make(env, f"{state}/new")).reason, equals=_FORBIDDEN, clause="PTH-7")
    env.check("token-stays", await env.files.read(token), equals=env.target.token.encode(), clause="DIR-11")


@case(
    "supervisor/guarded/trees",
    profile="trees",
    clauses=("TRE-25", "TRE-49", "TRE-50"),
    needs=("trees",),
    launch=_INSIDE,
)
async def trees(env: SupervisorEnv) -> None:
    """Guarded places are announced with a reason, refused as problems, and not deleted."""
    token, _ = _guarded(env)
    above, name = token.rsplit("/", 1)
    down = await download_tree(env, above, wants=lambda _: True)
    await down.run()
    entry = down.by_path.get(name.encode())
    env.check("announced", entry.reason if entry else "left out", equals=_FORBIDDEN, clause="TRE-25")
    env.check("not-sent", down.contents, equals={}, clause="TRE-25")
    up = await upload_tree(env, above, delete_others=True)
    await up.send_all([manifest(directory(), regular(name.encode(), 1)), end(2)])
    done = await up.outcome()
    env.check("refused", (done.reason, up.problems), equals=(OK, [(1, _FORBIDDEN)]), clause="TRE-49")
    others = await upload_tree(env, above, delete_others=True)
    await others.send_all([manifest(directory()), end(1)])
    await others.outcome()
    env.check("not-deleted", await env.files.read(token), equals=env.target.token.encode(), clause="TRE-50")


@case("supervisor/guarded/staging-names", profile="core", clauses=("PTH-20",))
async def staging_names(env: SupervisorEnv) -> None:
    """Names of staging files are refused whether such a file exists or not, and behind a link."""
    await env.files.write(env.path(".openshell-upload-zq"), b"staged")
    await env.files.link(env.path("link"), ".openshell-upload-zq")
    for name in (".openshell-upload-zq", ".openshell-upload-none", ".openshell-upload-"):
        slug = name.strip(".").rstrip("-") + ("-bare" if name.endswith("-") else "")
        env.check(
            f"upload-{slug}",
            (await env.upload(env.path(name), b"x")).reason,
            equals=_FORBIDDEN,
            clause="PTH-20",
        )
        found = await env.download(env.path(name))
        env.check(f"download-{slug}", found.reason, equals=_FORBIDDEN, clause="PTH-20")
        env.check(f"stat-{slug}", (await env.stat(env.path(name))).reason, equals=_FORBIDDEN, clause="PTH-20")
    followed = await env.download(env.path("link"), leaf_link=files_pb2.LEAF_LINK_POLICY_FOLLOW)
    env.check("behind-a-link", followed.reason, equals=_FORBIDDEN, clause="PTH-20")
    env.check(
        "stays", await env.files.read(env.path(".openshell-upload-zq")), equals=b"staged", clause="PTH-20"
    )


@case("supervisor/guarded/staged-file-of-an-upload", profile="resume", clauses=("PTH-20",))
async def staged_file_of_an_upload(env: SupervisorEnv) -> None:
    """A caller cannot read or replace what another one has staged."""
    relay = await env.begin_upload(env.path(), request_id=env.fresh_name("request"))
    await relay.until("accepted")
    names = await env.left()
    env.check("hidden", bool(names), equals=True, clause="PTH-20")
    for name in names:
        found = await env.download(env.path(name.decode()))
        env.check("read", found.reason, equals=_FORBIDDEN, clause="PTH-20")


@case("supervisor/guarded/kernel-interfaces", profile="core", clauses=("PTH-5", "PTH-11"), launch=_MOUNTS)
async def kernel_interfaces(env: SupervisorEnv) -> None:
    """Files of procfs are refused, and magic links lead nowhere outside of the root."""
    for name, path in (
        ("file", "/kernel/version"),
        ("own", "/kernel/self/status"),
        ("setting", "/kernel/sys/kernel/hostname"),
    ):
        found = await env.download(path)
        env.check(f"download-{name}", (found.reason, found.content), equals=(_FORBIDDEN, b""), clause="PTH-5")
    env.check(
        "upload",
        (await env.upload("/kernel/sys/kernel/hostname", b"x")).reason,
        equals=_FORBIDDEN,
        clause="PTH-5",
    )
    for name, path in (
        ("root", "/kernel/self/root/etc/passwd"),
        ("cwd", "/kernel/self/cwd/x"),
        ("descriptor", "/kernel/self/fd/0"),
        ("of-init", "/kernel/1/root/etc/hostname"),
    ):
        found = await env.download(path, leaf_link=files_pb2.LEAF_LINK_POLICY_FOLLOW)
        env.check(f"magic-{name}", (found.outcome.ok, found.content), equals=(False, b""), clause="PTH-11")


@case(
    "supervisor/guarded/other-file-systems",
    profile="core",
    clauses=("DIR-12", "DIR-27"),
    needs=("directories",),
    launch=_MOUNTS,
)
async def other_file_systems(env: SupervisorEnv) -> None:
    """A removal or copy does not cross a mount point, and a move to another file system copies nothing."""
    await env.files.write("/mounts/inner/file", b"x")
    for name, done in (
        ("remove", await remove(env, "/mounts", recursive=True)),
        ("copy", await copy(env, "/mounts", env.path("copy"), recursive=True)),
    ):
        env.check(name, done.reason, equals="MOUNT_POINT", clause="DIR-12")
        path = done.metadata.get("path", "")
        env.check(
            f"{name}-path",
            path,
            satisfies=("the mount point", lambda path: path.endswith("inner")),
            clause="DIR-12",
        )
    env.check("stays", await env.files.read("/mounts/inner/file"), equals=b"x", clause="DIR-12")
    env.check("nothing-left", await env.left(), equals=[], clause="DIR-12")
    moved = await move(env, "/mounts/inner/file", env.path("moved"))
    env.check("move", moved.reason, equals="OTHER_FILE_SYSTEM", clause="DIR-27")
    env.check("not-copied", await env.files.exists(env.path("moved")), equals=False, clause="DIR-27")


@case(
    "supervisor/guarded/mounts-in-trees",
    profile="trees",
    clauses=("TRE-25", "TRE-49", "TRE-50"),
    needs=("trees",),
    launch=_MOUNTS,
)
async def mounts_in_trees(env: SupervisorEnv) -> None:
    """Another file system below a tree is announced with a reason, refused as a problem, and not deleted."""
    await env.files.write("/mounts/inner/kept", b"x")
    down = await download_tree(env, "/mounts")
    await down.run()
    entry = down.by_path.get(b"inner")
    env.check("announced", entry.reason if entry else "left out", equals="MOUNT_POINT", clause="TRE-25")
    up = await upload_tree(env, "/mounts")
    await up.send_all([manifest(directory(), directory(b"inner"), regular(b"inner/a", 1)), end(3)])
    await up.outcome()
    env.check("refused", up.problems[:1], equals=[(1, "MOUNT_POINT")], clause="TRE-49")
    others = await upload_tree(env, "/mounts", delete_others=True)
    await others.send_all([manifest(directory()), end(1)])
    await others.outcome()
    env.check("not-deleted", await env.files.read("/mounts/inner/kept"), equals=b"x", clause="TRE-50")
