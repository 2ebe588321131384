"""Options of the transfer of a tree, checked when they are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict, cast

from openshell_files_disk.trees.links import Links

from openshell_files import _values as values
from openshell_files.options import Durability, Rule, apply_rules

__all__ = ["TREE_DEFAULTS", "TREE_RULES", "Links", "TreeArguments", "TreeOptions"]


def _patterns(name: str, value: object) -> tuple[str, ...]:
    """Check patterns: an iterable of texts, but no text itself."""
    given = value
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        values.wrong_type(name, "a list of patterns, such as ['*.pyc', 'build/']", given)
    checked = list[str]()
    for index, pattern in enumerate(cast("Iterable[object]", value)):
        each = f"{name}[{index}]"
        line = values.text(each, pattern, empty=False)
        if "\0" in line or "\n" in line:
            values.wrong_value(each, f"a pattern is one line without a NUL, not {line[:100]!a}")
        checked.append(line)
    return tuple(checked)


TREE_RULES: Final[Mapping[str, Rule]] = {
    "include": _patterns,
    "exclude": _patterns,
    "gitignore": values.flag,
    "delete": values.flag,
    "checksum": values.flag,
    "links": lambda name, value: values.choice(name, value, Links),
    "atomic": values.flag,
    "dry_run": values.flag,
    "parents": values.flag,
    "durability": lambda name, value: values.choice(name, value, Durability),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """Options of `upload_tree` and `download_tree`, which take these fields as keyword arguments, too.

    Attributes:
        include: if there are any, send only files that one of these patterns matches, with the directories
            above them. A pattern is a line of a `.gitignore` in the top directory.
        exclude: leave out what one of these patterns matches; they prevail over `include`.
        gitignore: send the files that git would take: tracked, or neither tracked nor ignored. Only for uploads.
        delete: delete what is below the destination and not in the tree. What a pattern leaves out stays.
        checksum: compare content, not size and modified time, to find unchanged files.
        links: treatment of the symbolic links in the tree.
        atomic: all or nothing: the destination must not exist, and appears as a whole.
        dry_run: compare only, and change nothing.
        parents: make missing directories above the destination.
        durability: what survives a power loss.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    gitignore: bool = False
    delete: bool = False
    checksum: bool = False
    links: Links = Links.KEEP
    atomic: bool = False
    dry_run: bool = False
    parents: bool = False
    durability: Durability = Durability.FSYNC

    def __post_init__(self) -> None:
        apply_rules(TREE_RULES, self)
        if self.delete and self.atomic:
            values.wrong_value(
                "delete", "there is nothing to delete with atomic, whose destination must not exist"
            )

    @property
    def selects(self) -> bool:
        """True if something of the tree may be left out, so that nothing may be left."""
        return bool(self.include or self.exclude or self.gitignore)


class TreeArguments(TypedDict, total=False):
    """Fields of `TreeOptions` as keyword arguments."""

    include: Sequence[str]
    exclude: Sequence[str]
    gitignore: bool
    delete: bool
    checksum: bool
    links: Links
    atomic: bool
    dry_run: bool
    parents: bool
    durability: Durability


#: Options of a call without any, checked once.
TREE_DEFAULTS: Final = TreeOptions()


def tree_options(options: TreeOptions | None, arguments: Mapping[str, Any]) -> TreeOptions:
    """Return the options of a call, with its keyword arguments in place of the fields.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    return replace(options or TREE_DEFAULTS, **arguments)
