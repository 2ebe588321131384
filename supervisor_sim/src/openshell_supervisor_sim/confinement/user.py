"""The user that the process becomes: parses it, and changes to it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from typing import NamedTuple


class User(NamedTuple):
    """A user and group of this machine."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The user's name, or its number if it has no name."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def current_user() -> User:
    """Return the user of this process."""
    return User(os.geteuid(), os.getegid())


def parse_user(text: str) -> User:
    """Parse ``NAME``, ``UID`` or either with ``:GID``.

    Raises:
        ValueError: the user does not exist, or the text has another form.
    """
    who, colon, group = text.partition(":")
    if colon and not group.isdecimal():
        raise ValueError(f"{text!r} is not NAME, UID, NAME:GID or UID:GID")
    try:
        entry = pwd.getpwuid(int(who)) if who.isdecimal() else pwd.getpwnam(who)
    except KeyError:
        if not who.isdecimal():
            raise ValueError(f"there is no user {who!r}") from None
        # A number without an entry is a user, too, and its group has the same number.
        return User(int(who), int(group) if colon else int(who))
    return User(entry.pw_uid, int(group) if colon else entry.pw_gid)


def owner_of(path: str) -> User:
    """Return the user and group that own a path."""
    status = os.stat(path)
    return User(status.st_uid, status.st_gid)


def first_unreachable(user: User, paths: Iterable[str], below: Iterable[str] = ()) -> str | None:
    """Return the first path that a user cannot read and enter, or the directory on the way that it cannot enter.

    Args:
        user: that must have the rights.
        paths: to read; those that do not exist are omitted.
        below: paths of which only the directories on the way are checked.

    The check uses owner, group and mode, and ignores access control lists. It runs before this
    process becomes the user, which cannot be undone.
    """
    for path in below:
        closed = _closed_on_the_way(user, os.path.realpath(path))
        if closed is not None:
            return closed
    for path in paths:
        if not os.path.exists(path):
            continue
        real = os.path.realpath(path)
        closed = _closed_on_the_way(user, real)
        if closed is not None:
            return closed
        wanted = 0o5 if os.path.isdir(real) else 0o4
        if not _allowed(user, real, wanted):
            return real
    return None


def _closed_on_the_way(user: User, real: str) -> str | None:
    for ancestor in _ancestors(real):
        if os.path.exists(ancestor) and not _allowed(user, ancestor, 0o1):
            return ancestor
    return None


def _ancestors(path: str) -> Iterable[str]:
    parent = os.path.dirname(path)
    if parent != path:
        yield from _ancestors(parent)
        yield parent


def _allowed(user: User, path: str, wanted: int) -> bool:
    status = os.stat(path)
    if user.uid == 0:
        return True
    if status.st_uid == user.uid:
        bits = status.st_mode >> 6
    elif status.st_gid == user.gid:
        bits = status.st_mode >> 3
    else:
        bits = status.st_mode
    return stat.S_IMODE(bits) & wanted == wanted


def become(uid: int, gid: int) -> None:
    """Become a user for good; does nothing if the process has that user already.

    Raises:
        OSError: this process may not change its user.
    """
    if os.getresuid() == (uid, uid, uid) and os.getresgid() == (gid, gid, gid):
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
