"""Patterns of gitignore, as git reads them, matched in bounded time (TRE-9, TRE-29).

The usual way, one expression for a whole pattern, takes exponential time for some patterns and holds the
interpreter meanwhile: twelve seconds for `*a*a*a*a*b` and one name of 255 letters. A caller of an agent chooses both.
Here the text between two stars is looked for once from left to right, and so are the components around `**`.

Git compares bytes: `?` and a bracket stand for one byte, not for a letter of several. So each byte of patterns and
paths is one character here, as Latin-1 has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from openshell_files_protocol.errors import invalid

#: Patterns of one field: each costs some time for every entry.
MOST_PATTERNS: Final = 1000

#: Components of a pattern with `**`: each is compared with every directory of a path.
_MOST_COMPONENTS: Final = 32

_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "space": r" \t\n\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}

#: Matches the name of one component, with a result that is true or false.
_Name = Callable[[str], object]


class Patterns:
    """Patterns of one field, of which the last that matches an entry decides.

    Args:
        field: of the request, for errors.
        patterns: lines of a `.gitignore` of the top directory, without comments.

    Raises:
        TransferError: INVALID_REQUEST for a pattern that cannot be read, or for too many.
    """

    def __init__(self, field: str, patterns: Sequence[str]) -> None:
        if len(patterns) > MOST_PATTERNS:
            raise invalid(field, f"has {len(patterns)} patterns; at most {MOST_PATTERNS} are taken")
        self._patterns: list[_Pattern] = []
        for number, text in enumerate(patterns):
            try:
                self._patterns.append(_Pattern(_byte_by_byte(text.encode("utf-8", "surrogateescape"))))
            except ValueError as error:
                raise invalid(
                    f"{field}[{number}]", f"{text[:200]!a} is not a pattern of gitignore: {error}"
                ) from error
        self._patterns.reverse()

    def match(self, path: bytes, *, directory: bool) -> bool:
        """Return whether git would ignore an entry whose directories it does not ignore.

        Args:
            path: of the entry, relative to the top directory.
            directory: the entry is a directory.
        """
        text = _byte_by_byte(path)
        name = text.rpartition("/")[2]
        for pattern in self._patterns:
            if (directory or not pattern.directories_only) and pattern.match(text, name):
                return not pattern.negated
        return False


def _byte_by_byte(raw: bytes) -> str:
    """Return a text with a character for each byte."""
    return raw.decode("latin-1")


class _Pattern:
    """One pattern. Each character stands for a byte.

    Args:
        text: of the pattern.

    Attributes:
        negated: what it matches is not ignored.
        directories_only: it matches directories only.

    Raises:
        ValueError: it cannot be read; says why.
    """

    def __init__(self, text: str) -> None:
        if "\0" in text or "\n" in text:
            raise ValueError("it has a line feed or NUL")
        if text.startswith("#"):
            raise ValueError(r"it is a comment; a name that begins with # is written as \#")
        text = _without_spaces(text)
        self.negated = text.startswith("!")
        text = text.removeprefix("!")
        self.directories_only = text.endswith("/")
        text = text.removesuffix("/")
        anchored = "/" in text
        components = text.removeprefix("/").split("/")
        if "" in components:
            raise ValueError("a name in it is empty")
        if not {".", ".."}.isdisjoint(components):
            raise ValueError("`.` and `..` match nothing; paths begin at the top directory: /NAME")
        self._name: _Name | None = None
        self._components: list[_Name | None] = []
        if anchored:
            self._components = [None if one == "**" else _component(one) for one in components]
            if components[-1] == "**":
                # Everything in the directory, and not the directory itself.
                self._components.append(bool)
            if None in self._components and len(self._components) > _MOST_COMPONENTS:
                raise ValueError(f"a pattern with ** has at most {_MOST_COMPONENTS} names")
        else:
            self._name = _component(components[0])

    def match(self, path: str, name: str) -> object:
        """Return something true if the pattern matches an entry.

        Args:
            path: of the entry.
            name: the last component of it.
        """
        if self._name is not None:
            return self._name(name)
        return _match_components(self._components, path.split("/"))


def _match_components(wanted: Sequence[_Name | None], names: Sequence[str]) -> bool:
    """Compare names with components; None stands for any number of names."""
    if None not in wanted and len(wanted) != len(names):
        return False
    at = position = 0
    retry: tuple[int, int] | None = None
    while position < len(names):
        component = wanted[at] if at < len(wanted) else _nothing
        if component is None:
            at += 1
            retry = (at, position)
        elif component(names[position]):
            at, position = at + 1, position + 1
        elif retry is not None:
            # The last `**` takes one name more. Those before it need not: their part ended as early as it could.
            at, position = retry[0], retry[1] + 1
            retry = (at, position)
        else:
            return False
    return all(component is None for component in wanted[at:])


def _nothing(_name: str) -> bool:
    return False


def _without_spaces(text: str) -> str:
    r"""Remove the spaces at the end, but not one that is written as `\ `."""
    bare = text.rstrip(" ")
    escapes = len(bare) - len(bare.rstrip("\\"))
    return bare + " " if escapes % 2 and len(bare) < len(text) else bare


def _component(text: str) -> _Name:
    """Return what matches the names of one component.

    Raises:
        ValueError: it cannot be read.
    """
    pieces, literal = [""], ""
    position, plain = 0, True
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            if position == len(text):
                raise ValueError(r"it ends in the middle of an escape; a backslash is written as \\")
            char = text[position]
            position += 1
        elif char == "*":
            plain = False
            pieces.append("")
            continue
        elif char == "?":
            plain = False
            pieces[-1] += "."
            continue
        elif char == "[":
            plain = False
            expression, position = _bracket(text, position)
            pieces[-1] += expression
            continue
        literal += char
        pieces[-1] += re.escape(char)
    if plain:
        return literal.__eq__
    first, *others = pieces
    expression = first
    if others:
        # Each piece is found at its first place and stays there: a later one would leave less for the others.
        expression += "".join(f"(?>.*?{piece})" for piece in others[:-1] if piece) + ".*" + others[-1]
    return re.compile(rf"(?s:{expression})\Z").match


def _bracket(text: str, position: int) -> tuple[str, int]:
    r"""Translate an expression such as `[!a-z\]]`; return it, and the position behind it.

    Args:
        text: of the component.
        position: behind the opening bracket.

    Raises:
        ValueError: it cannot be read.
    """
    negated = text[position : position + 1] in {"!", "^"}
    position += negated
    start, parts = position, ""
    while True:
        char = text[position : position + 1]
        if char == "]" and position > start:
            break
        if char == "[" and text[position + 1 : position + 2] == ":":
            end = text.find(":]", position + 2)
            name = text[position + 2 : end] if end > 0 else ""
            if name not in _CLASSES:
                raise ValueError("it has a class of letters that is not known")
            parts += _CLASSES[name]
            position = end + 2
            continue
        low, position = _member(text, position)
        high = low
        if text[position : position + 1] == "-" and text[position + 1 : position + 2] not in {"", "]"}:
            high, position = _member(text, position + 1)
        if high < low:
            raise ValueError("it has a range whose end is before its beginning")
        parts += f"\\U{ord(low):08x}-\\U{ord(high):08x}"
    return f"[{'^' if negated else ''}{parts}]", position + 1


def _member(text: str, position: int) -> tuple[str, int]:
    """Return a character of a bracket expression, and the position behind it."""
    if text[position : position + 1] == "\\":
        position += 1
    if position >= len(text):
        raise ValueError(r"a bracket is not closed; the character itself is written as \[")
    return text[position], position + 1
