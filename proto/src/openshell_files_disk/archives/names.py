"""Names of members as paths below the directory that an archive is unpacked in (ARC-5)."""

from __future__ import annotations

from openshell_files_protocol.limits import MAX_NAME_BYTES, MAX_PATH_BYTES

from openshell_files_disk.trees.receiving.names import folded


class UnusableName(ValueError):  # noqa: N818 - says what is wrong with the name
    """A name that leads out of the directory, or that no file system here can store."""


def clean_name(name: bytes) -> bytes:
    """Return the path of a name: components joined by `/`; empty for the directory itself.

    Components `.` and empty ones are left out, as tar does. A backslash is an ordinary character.

    Raises:
        UnusableName: an absolute name, one with `..`, or one that is too long.
    """
    if not name:
        raise UnusableName("the name is empty")
    if name.startswith(b"/"):
        raise UnusableName("the name is absolute")
    if b"\0" in name:
        raise UnusableName("the name has a NUL byte")
    components = [component for component in name.split(b"/") if component not in {b"", b"."}]
    if b".." in components:
        raise UnusableName("the name has the component `..`")
    if any(len(component) > MAX_NAME_BYTES for component in components):
        raise UnusableName(f"a component of the name is longer than {MAX_NAME_BYTES} bytes")
    path = b"/".join(components)
    if len(path) > MAX_PATH_BYTES:
        raise UnusableName(f"the name is longer than {MAX_PATH_BYTES} bytes")
    return path


class FoldedNames:
    """The names of an archive on a file system that takes different names for one (ARC-20).

    It takes memory for each name. Other file systems need none of it.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, bytes] = {}

    def is_twin(self, path: bytes) -> bool:
        """Note a path; return whether it, or a directory above it, folds to another one that came before."""
        end = path.find(b"/")
        while True:
            one = path if end < 0 else path[:end]
            if self._first.setdefault(folded(one), one) != one:
                return True
            if end < 0:
                return False
            end = path.find(b"/", end + 1)


def clean_target(target: bytes) -> bytes:
    """Return the target of a symbolic link, which is stored as it is.

    Raises:
        UnusableName: no link can have it.
    """
    if not target:
        raise UnusableName("the link has no target")
    if b"\0" in target or len(target) > MAX_PATH_BYTES:
        raise UnusableName(f"the link's target has a NUL byte or is longer than {MAX_PATH_BYTES} bytes")
    return target
