"""The vectors in `tests/vectors/trees`: streams of a tree, and what a receiver makes of them.

The types are the source of the JSON schema beside the vectors:

    python tests/tree_cases.py > tests/vectors/trees/schema.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from pydantic import Field, TypeAdapter
from vector_cases import U64, Bytes, Case, Hex, Strict, content_of

TREES: Final = Path(__file__).parent / "vectors" / "trees"

Kind = Literal["file", "directory", "link", "special"]
#: Permission bits in octal.
Mode = Annotated[str, Field(pattern="^[0-7]{4,7}$")]
I64 = Annotated[str, Field(pattern="^(0|-?[1-9][0-9]{0,18})$")]

#: FileType of each kind; a number outside the enumeration is given as one.
TYPES: Final[dict[str, files_pb2.FileType.ValueType]] = {
    "file": files_pb2.FILE_TYPE_REGULAR,
    "directory": files_pb2.FILE_TYPE_DIRECTORY,
    "link": files_pb2.FILE_TYPE_SYMLINK,
    "special": files_pb2.FILE_TYPE_SPECIAL,
}


class NamePart(Strict):
    """A part of a path, as text or as bytes; `n` repeats it as often as its entry was repeated before."""

    text: str = ""
    hex: Hex = ""
    times: int | Literal["n"] = 1


#: `{n}` in text is how often the entry was repeated before.
Name = str | list[NamePart]


class Entry(Strict):
    """TreeEntry. `times` repeats it; `n` counts on over the repetitions of its message."""

    path: Name = ""
    type: Kind | int = "file"
    size_bytes: U64 = "0"
    mode: Mode = "0644"
    modified_seconds: I64 = "1000000000"
    modified_nanos: int = 0
    link_target: Name = ""
    hard_link: Name = ""
    digest: Hex | None = None
    excluded: bool = False
    reason: str = ""
    times: int = 1


class ContentPart(Strict):
    """TreePart. With `last` and without `digest` it has the SHA-256 of `digest_of`."""

    entry: U64
    offset: U64 = "0"
    data: Bytes = ""
    hole_bytes: U64 = "0"
    last: bool = False
    digest_of: Bytes | None = None
    digest: Hex | None = None
    reason: str = ""


class Message(Strict):
    """One message of the sender; exactly one field is set. `times` repeats a manifest."""

    manifest: list[Entry] | None = None
    content: list[ContentPart] | None = None
    end: U64 | None = None
    times: int = 1


class There(Strict):
    """What is at a path below the top directory, or above it at `../outside`; what is not given does not matter."""

    path: Name
    type: Kind = "file"
    content: Bytes | None = None
    mode: Mode | None = None
    modified_seconds: I64 | None = None
    modified_nanos: int = 0
    link_target: Name | None = None
    #: Path of the file of which this is another name.
    same_as: str | None = None


class Options(Strict):
    """Of the call, and of the receiver."""

    delete_others: bool = False
    atomic: bool = False
    dry_run: bool = False
    compare_content: bool = False
    #: The receiver's file system ignores case and Unicode normalisation.
    folds: bool = False
    max_entries: U64 | None = None
    max_file_bytes: U64 | None = None


class Problem(Strict):
    """TreeProblem."""

    entry: U64
    reason: str


class Outcome(Strict):
    """What all replies together have, or why the stream ends.

    `reason` ends the stream at its last message. `files` is everything that is below the top directory afterwards.
    What is null does not matter.
    """

    reason: str | None = None
    needed: tuple[U64, ...] | None = ()
    changed: tuple[U64, ...] | None = ()
    problems: tuple[Problem, ...] = ()
    deleted: tuple[Name, ...] = ()
    files: list[There] | None = None


class TreeCase(Case):
    """A stream. Every message but the last is taken.

    `before` is below the top directory at the start; without a list there is no top directory.
    """

    options: Options = Options()
    before: list[There] | None = None
    messages: list[Message]
    outcome: Outcome


class TreeVectors(Strict):
    """A file of streams."""

    schema_: Literal["schema.json"] = Field(alias="$schema")
    about: str
    trees: list[TreeCase]


def path_of(name: Name, n: int = 0) -> bytes:
    """Return the bytes of a path.

    Args:
        n: how often the entry was repeated before.
    """
    if isinstance(name, str):
        return name.replace("{n}", str(n)).encode()
    return b"".join(
        (part.text.replace("{n}", str(n)).encode() + bytes.fromhex(part.hex))
        * (n if part.times == "n" else part.times)
        for part in name
    )


def messages_of(
    case: TreeCase,
) -> Iterator[trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd]:
    """Yield the sender's messages."""
    for message in case.messages:
        if message.manifest is not None:
            for repetition in range(message.times):
                yield trees_pb2.TreeManifest(
                    entries=[
                        _entry(entry, repetition * entry.times + n)
                        for entry in message.manifest
                        for n in range(entry.times)
                    ]
                )
        elif message.content is not None:
            yield trees_pb2.TreeContent(parts=[_part(part) for part in message.content])
        else:
            yield trees_pb2.TreeEnd(entries=int(message.end or "0"))


def _entry(entry: Entry, n: int) -> trees_pb2.TreeEntry:
    type_: Any = TYPES[entry.type] if isinstance(entry.type, str) else entry.type
    return trees_pb2.TreeEntry(
        path=path_of(entry.path, n),
        type=type_,
        size_bytes=int(entry.size_bytes),
        mode=int(entry.mode, 8),
        modified_seconds=int(entry.modified_seconds),
        modified_nanos=entry.modified_nanos,
        link_target=path_of(entry.link_target, n),
        hard_link=path_of(entry.hard_link, n),
        digest=bytes.fromhex(entry.digest or ""),
        excluded=entry.excluded,
        reason=entry.reason,
    )


def _part(part: ContentPart) -> trees_pb2.TreePart:
    digest = bytes.fromhex(part.digest or "")
    if part.digest_of is not None:
        digest = hashlib.sha256(content_of(part.digest_of)).digest()
    return trees_pb2.TreePart(
        entry=int(part.entry),
        offset=int(part.offset),
        data=content_of(part.data),
        hole_bytes=int(part.hole_bytes),
        last=part.last,
        digest=digest,
        reason=part.reason,
    )


def files() -> list[Path]:
    """Return the files of vectors."""
    return sorted(path for path in TREES.glob("*.json") if path.name != "schema.json")


def read_trees() -> list[TreeCase]:
    """Return the streams of all files.

    Raises:
        pydantic.ValidationError: a file does not fit the schema.
    """
    return [
        case for path in files() for case in TreeVectors.model_validate_json(path.read_text("utf-8")).trees
    ]


def schema() -> dict[str, Any]:
    """Return the JSON schema of the files."""
    # Read again, since pydantic gives the defaults of tuples as tuples.
    made = json.loads(json.dumps(TypeAdapter[Any](TreeVectors).json_schema()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "OpenShell tree vectors",
        **made,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
