"""The start of a confined process: exec host, user, Landlock, in this order and before there are threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from openshell_supervisor_sim.commands.environment import command_environment
from openshell_supervisor_sim.commands.exec_host import ExecHost, ExecHostError, StartingHost
from openshell_supervisor_sim.commands.host.messages import HostSettings
from openshell_supervisor_sim.confinement.own_process import (
    Confinement,
    ConfinementError,
    confine,
    interpreter_places,
)
from openshell_supervisor_sim.confinement.places import of_agent
from openshell_supervisor_sim.confinement.user import (
    User,
    current_user,
    first_unreachable,
    owner_of,
    parse_user,
)

log = structlog.get_logger("openshell_supervisor_sim.startup")

Mode = Literal["auto", "required", "none"]


class StartError(Exception):
    """The process cannot start; the text names the option and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The paths of the process.

    Attributes:
        root: directory that is the sandbox's `/`.
        workdir: absolute inside it.
        state_dir: state directory of the file agent.
        secrets: files that neither commands nor callers of file methods may read: a token or a
            shared secret.
        readable: further files that are read after the start.
        renewed: the secret that this process replaces, or None.
    """

    root: Path
    workdir: str
    state_dir: Path
    secrets: Sequence[Path] = ()
    readable: Sequence[Path] = ()
    renewed: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The confinement that the options ask for.

    Attributes:
        confine: see `confinement.own_process.confine`.
        user: option `--user`.
        memory_bytes: limit of the address space, or None.
        exec_view: see `HostSettings.view`; None starts no exec host.
        environment: of every command.
    """

    confine: Mode
    user: str | None
    memory_bytes: int | None = None
    exec_view: Mode | None = None
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The outcome of the start.

    Attributes:
        confinement: of this process.
        host: starts commands, or None.
        host_reason: for a missing host.
        environment: of commands.
        command_root: prefix of the sandbox's paths if commands see the machine's file system; empty
            if they see the sandbox's.
        covered: directories inside the root over which commands have something else mounted,
            relative to it.
    """

    confinement: Confinement
    host: ExecHost | None
    host_reason: str
    command_root: str
    environment: Mapping[str, str]
    covered: Sequence[str] = ()

    def described(self) -> dict[str, Any]:
        """Return the outcome for the log and the JSON line."""
        described = self.confinement.described()
        if self.host is None:
            described["exec"] = {"served": False, "reason": self.host_reason}
            return described
        state = self.host.state
        described["exec"] = {
            "served": True,
            "view": "sandbox" if state.view else "machine",
            "landlock": state.landlock,
        }
        if state.reason:
            described["exec"]["reason"] = state.reason
        if state.landlock_reason:
            described["exec"]["landlock_reason"] = state.landlock_reason
        return described


def start_confined(places: Places, wanted: Wanted) -> Started:
    """Start the exec host, and then take rights away from this process.

    The process must have only one thread.

    Raises:
        StartError: a required confinement or view is missing.
    """
    user = _choose_user(places, wanted.user)
    _prepare_state(places, user)
    host, reason = _start_host(places, wanted, user)
    try:
        confinement = confine(
            mode=wanted.confine,
            user=user,
            rules=of_agent(
                root=str(places.root),
                state_dir=str(places.state_dir),
                token_file=None if places.renewed is None else str(places.renewed),
                readable=[*interpreter_places(), *map(str, places.readable)],
            ),
            memory_bytes=wanted.memory_bytes,
        )
    except ConfinementError as error:
        if host is not None:
            host.stop()
        raise StartError(f"--confine {wanted.confine}: {error}") from error
    name = confinement.user.name
    in_view = host is not None and host.state.view
    command_root = "" if in_view else os.path.realpath(places.root).rstrip("/")
    environment = command_environment(
        home=f"{command_root}{places.workdir}",
        user=name,
        extra=wanted.environment or {},
    )
    started = Started(
        confinement=confinement,
        host=host,
        host_reason=reason,
        environment=environment,
        command_root=command_root,
        covered=() if host is None else tuple(host.state.covered),
    )
    _report(started)
    return started


def _report(started: Started) -> None:
    """Log the confinement in one line; a warning if it is incomplete."""
    confinement, host = started.confinement, started.host
    whole = bool(confinement.landlock) and confinement.user.uid != 0
    if host is not None:
        whole = whole and host.state.view and bool(host.state.landlock)
    say = log.info if whole else log.warning
    say("confinement", **started.described())


def _choose_user(places: Places, option: str | None) -> User | None:
    """Return the user to become; None keeps the current one."""
    me = current_user()
    if option is not None:
        try:
            user = parse_user(option)
        except ValueError as error:
            raise StartError(f"--user: {error}") from error
        if me.uid != 0:
            if user == me:
                return None
            raise StartError(f"--user {option}: only root can become another user")
        obstacle = _obstacle(user, places)
        if obstacle is not None:
            raise StartError(
                f"--user {option}: {user.name} cannot reach {obstacle}; install the interpreter and keep the "
                "sandbox's root where that user can read them"
            )
        return user
    if me.uid != 0:
        return None
    owner = owner_of(str(places.root))
    if owner.uid == 0:
        log.warning(
            "running as root, because --root belongs to root; give the directory to an ordinary user, or name one "
            "with --user"
        )
        return None
    obstacle = _obstacle(owner, places)
    if obstacle is not None:
        log.warning("running as root, because the owner of --root cannot reach a path", path=obstacle)
        return None
    return owner


def _obstacle(user: User, places: Places) -> str | None:
    paths = [*interpreter_places(), str(places.root), *map(str, places.readable)]
    return first_unreachable(user, paths, below=[str(places.state_dir)])


def _prepare_state(places: Places, user: User | None) -> None:
    """Create the state directory for the user that will use it."""
    state_dir = places.state_dir
    root = os.path.realpath(places.root)
    if _lexically_inside(state_dir, places.root) and not _inside(state_dir, root):
        # Otherwise a link of an earlier command would choose the directory that is created and given to the user.
        raise StartError(f"--state-dir {state_dir}: a link leads out of --root; name a directory elsewhere")
    workdir = f"{root}{places.workdir}/"
    if _inside(state_dir, root) and workdir.startswith(f"{os.path.realpath(state_dir).rstrip('/')}/"):
        # Commands must not see the state directory, and would then see nothing of the working directory.
        raise StartError(f"--state-dir {state_dir}: contains the working directory; name one of its own")
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is not None and owner_of(str(state_dir)).uid != user.uid:
            os.chown(state_dir, user.uid, user.gid)
            for entry in os.scandir(state_dir):
                os.chown(entry.path, user.uid, user.gid, follow_symlinks=False)
    except OSError as error:
        raise StartError(f"--state-dir {state_dir}: {error.strerror or error}") from error


def _start_host(places: Places, wanted: Wanted, user: User | None) -> tuple[ExecHost | None, str]:
    """Start the exec host and wait until it is ready; a confined process cannot start it."""
    if wanted.exec_view is None:
        return None, "switched off"
    root = os.path.realpath(places.root)
    exposed = [path for path in places.secrets if _inside(path, root)]
    if exposed:
        why = f"{exposed[0]} lies in the sandbox's root, where commands could read it; keep it elsewhere"
        if wanted.exec_view == "required":
            raise StartError(f"--exec-view required: {why}")
        log.warning("no commands are served", reason=why)
        return None, why
    # If the root is the machine's own, commands see it as `/` without a view.
    view = "none" if root == "/" else wanted.exec_view
    settings = HostSettings(
        root=root,
        view=view,
        prefixes=[path for path in dict.fromkeys((sys.prefix, sys.base_prefix)) if path != "/"],
        hidden=[os.path.realpath(places.state_dir)] if _inside(places.state_dir, root) else [],
        user=None if user is None else (user.uid, user.gid),
        confine=wanted.confine,
    )
    try:
        try:
            return StartingHost(settings).ready(), ""
        except ExecHostError as error:
            if view != "auto":
                raise
            log.warning("commands see the machine's file system", reason=str(error))
            return StartingHost(settings._replace(view="none")).ready(str(error)), ""
    except (ExecHostError, OSError) as error:
        raise StartError(f"--exec-view {wanted.exec_view}: {error}; --no-exec serves no commands") from error


def _lexically_inside(path: Path, root: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def _inside(path: Path, root: str) -> bool:
    return f"{os.path.realpath(path)}/".startswith(f"{root.rstrip('/')}/")
