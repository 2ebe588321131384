"""The words of a command line with an archive, what does not fit it, and its result as text and JSON fields."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from openshell_files.archive_results import ArchiveResult
from openshell_files.cli.directories.entry_words import bytes_fields
from openshell_files.cli.output.results_in_words import seconds_words, size_words
from openshell_files.cli.transfer.destinations import (
    STANDARD_STREAM,
    Copy,
    check_name,
    is_standard_input,
    is_standard_output,
)
from openshell_files.cli.trees.words import MOST_LISTED, problem_fields
from openshell_files.cli.usage import flag

extract: Final = flag(
    "--extract",
    help="LOCAL is a tar archive, plain or compressed by gzip or zstd: unpack it into the directory DEST.",
)
archive: Final = flag(
    "--archive", help="SRC is a directory: download it as a tar archive to DEST, a file or `-`."
)


def to_unpack(name: str, words: Sequence[str], to: str | None) -> Copy:
    """Return archive and directory of `upload --extract`.

    Args:
        name: the sandbox.
        words: LOCAL [DEST].
        to: DEST as an option.

    Raises:
        ValueError: the words do not fit.
    """
    check_name(name, f"openshell-files upload NAME {' '.join(words)} --extract")
    both = [*words, *([] if to is None else [to])]
    if len(both) != 2:
        raise ValueError("--extract: give LOCAL, the archive, and DEST, the directory to unpack it into")
    local, destination = both
    if not destination:
        raise ValueError("DEST: must not be empty")
    if is_standard_input(local):
        return Copy(STANDARD_STREAM, destination)
    if os.path.isdir(local):
        raise ValueError(
            f"--extract: {local!r} is a directory, and no archive; leave --extract out to upload it"
        )
    return Copy(local, destination)


def to_pack(name: str, words: Sequence[str]) -> Copy:
    """Return directory and archive of `download --archive`; see `to_unpack`.

    Raises:
        ValueError: the words do not fit.
    """
    check_name(name, f"openshell-files download NAME {' '.join(words)} --archive")
    if len(words) != 2:
        raise ValueError("--archive: give SRC, the directory, and DEST, the archive's file or `-`")
    source, destination = words
    if not source or not destination:
        raise ValueError("SRC and DEST: must not be empty")
    if is_standard_output(destination):
        return Copy(source, STANDARD_STREAM)
    if destination.endswith(os.sep) or os.path.isdir(destination):
        raise ValueError(f"--archive: {destination!r} is a directory; give the name of the archive's file")
    return Copy(source, destination)


def check_options(option: str, others: Sequence[str]) -> None:
    """Refuse given options that do not fit `--extract` or `--archive`.

    Raises:
        ValueError: there are some.
    """
    if others:
        raise ValueError(f"{others[0]}: does not fit {option}; leave one of them out")


def archive_words(local: str, result: ArchiveResult, place: str, *, uploading: bool) -> str:
    """Return the result in one line.

    Args:
        local: the archive.
        result: of the call.
        place: the directory in words.
        uploading: into the sandbox.
    """
    verb = "unpacked" if uploading else "packed"
    entries = f"{result.placed} {'entry' if result.placed == 1 else 'entries'}"
    failed = f", {result.failed} failed" if result.failed else ""
    changed = ", files changed meanwhile" if result.changed else ""
    way = f"{local} into {place}" if uploading else f"{place} into {local}"
    return (
        f"{verb} {entries} ({size_words(result.content_bytes)}) of {way} in {seconds_words(result.seconds)}"
        f"{failed}{changed}"
    )


def problem_lines(result: ArchiveResult) -> Iterator[str]:
    """Yield a line for each entry that was left out; not for more than a person reads."""
    for problem in result.problems[:MOST_LISTED]:
        yield f"{problem.path}: {problem.message.rstrip('.')} [{problem.reason}]"
    more = result.failed - min(len(result.problems), MOST_LISTED)
    if more > 0:
        yield f"and {more} more" + ("; --json lists the first 1000" if result.failed > MOST_LISTED else "")


def archive_fields(local: str, result: ArchiveResult) -> dict[str, object]:
    """Return the JSON fields of a result."""
    return {
        **bytes_fields("local", local),
        "path": result.path,
        "archive": True,
        "complete": result.complete,
        **{
            name: getattr(result, name)
            for name in (
                "entries",
                "placed",
                "failed",
                "files",
                "content_bytes",
                "archive_bytes",
                "digest",
                "seconds",
                "attempts",
                "durability",
                "changed",
            )
        },
        "problems": [problem_fields(problem) for problem in result.problems],
        "more_problems": result.more_problems,
    }
