"""The files of a local directory that git would take: tracked ones, and others that it does not ignore."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from typing import Final

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason

#: Variables by which a caller, such as a hook, chooses another repository.
_CHOICES: Final = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_COMMON_DIR",
        "GIT_OBJECT_DIRECTORY",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_COUNT",
    }
)

#: A repository may have come from a sandbox, with settings that name programs: none of them runs.
_SAFE_SETTINGS: Final = ("-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null")
_SAFE_ENVIRONMENT: Final = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}

#: Most characters of git's own message in an error.
_MOST_WORDS: Final = 500


def git_files(directory: str, seconds: float | None) -> frozenset[bytes]:
    """Return the files of a directory that git would take, relative to it. `.git` is none of them.

    The content of submodules and of repositories inside of the directory belongs to those, and is left out.

    Args:
        directory: the local directory, in a repository or at its top.
        seconds: after which git is ended; None for no limit.

    Raises:
        LocalFileError: git is not installed, or the directory is in no repository.
        TimeoutExpired: the time is over.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _CHOICES}
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [  # noqa: S607 - git of the caller's PATH
                "git",
                *_SAFE_SETTINGS,
                "-C",
                directory,
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
            env=environment | _SAFE_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except OSError as error:
        raise _failed(
            directory, f"cannot run git: {error.strerror or error}", "Install git, or use exclude."
        ) from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()[:_MOST_WORDS]
        raise _failed(
            directory, words or f"git ended with {done.returncode}", "Use exclude, or make a repository."
        )
    return frozenset(_names(done.stdout, os.fsencode(directory)))


def _names(listed: bytes, directory: bytes) -> Iterator[bytes]:
    """Yield the listed files. Other repositories in the directory are listed, too, and submodules as files."""
    for name in listed.split(b"\0"):
        if name and not name.endswith(b"/") and not _is_directory(os.path.join(directory, name)):
            yield name


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        # The sender finds out.
        return False


def _failed(directory: str, why: str, fix: str) -> LocalFileError:
    return LocalFileError(
        f"gitignore: cannot list the files of {directory}: {why}",
        ErrorFacts(LocalReason.LOCAL_FILE, fix=f"gitignore needs git and a repository. {fix}"),
        path=directory,
    )
