"""Results of trees as text for people and as JSON fields for programs.

JSON text is Unicode: a path that is not UTF-8 has U+FFFD there, and its bytes beside it, as in `ls --json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from openshell_files.cli.directories.entry_words import bytes_fields
from openshell_files.cli.output.results_in_words import seconds_words, size_words
from openshell_files.cli.transfer.destinations import Copy
from openshell_files.tree_results import TreeProblem, TreeResult

#: Most problems that are listed for a person.
MOST_LISTED: Final = 20


def tree_words(result: TreeResult, place: str, *, uploading: bool) -> str:
    """Return the result in one line.

    Args:
        result: of the call.
        place: the destination in words.
        uploading: into the sandbox.
    """
    verb = "upload" if uploading else "download"
    verb = f"would {verb}" if result.dry_run else f"{verb}ed"
    size = f" ({size_words(result.content_bytes)})" if result.content_bytes else ""
    facts = [f"{result.sent} {'file' if result.sent == 1 else 'files'}{size}"]
    others = {
        "other made or changed" if result.made == 1 else "others made or changed": result.made,
        "unchanged": result.unchanged,
        "excluded": result.excluded,
        "deleted": result.deleted,
        "failed": result.failed,
        "unknown": result.unknown,
    }
    facts += [f"{count} {what}" for what, count in others.items() if count]
    return f"{verb} {', '.join(facts)} to {place} in {seconds_words(result.seconds)}"


def arrived_words(so_far: TreeResult | None, *, dry_run: bool, atomic: bool, again: bool = True) -> str:
    """Return the state after a call that failed or was interrupted.

    Args:
        so_far: what is known; None if nothing was sent.
        dry_run: the call only compared.
        atomic: the tree is published as a whole.
        again: the same command may succeed.
    """
    if dry_run:
        return "nothing was changed"
    begins = "; the same command begins again" if again else ""
    if atomic:
        return f"nothing was published{begins}"
    if so_far is None or not so_far.sent + so_far.made + so_far.unchanged + so_far.deleted:
        return f"nothing was changed{begins}"
    arrived = so_far.sent + so_far.made + so_far.unchanged
    facts = [f"{arrived} {'entry is' if arrived == 1 else 'entries are'} in place"]
    facts.append(f"{size_words(so_far.content_bytes)} were sent")
    if so_far.deleted:
        facts.append(f"{so_far.deleted} were deleted")
    return f"{', '.join(facts)}; the same command goes on from there"


def plan_words(result: TreeResult, copy: Copy, rules: str, *, uploading: bool) -> list[str]:
    """Return the plan of a dry run, a line for each entry.

    Args:
        result: of the dry run.
        copy: the tree.
        rules: options that leave entries out.
        uploading: into the sandbox.
    """
    send = "send" if uploading else "receive"
    skipped = f" ({rules})" if rules else ""
    return [
        *(f"{send} {_under(copy.source, path)}" for path in result.changed_paths),
        *(f"delete {_under(copy.destination, path)}" for path in result.deleted_paths),
        *(f"skip {_under(copy.source, path)}{skipped}" for path in result.excluded_paths),
    ]


def problem_lines(result: TreeResult, copy: Copy) -> Iterator[str]:
    """Yield a line for each problem, up to MOST_LISTED, and what an entry has lost."""
    for problem in result.problems[:MOST_LISTED]:
        yield f"{_under(copy.source, problem.path)}: {_reasoned(problem)}"
    if (more := len(result.problems) - MOST_LISTED) > 0:
        yield f"and {more} more; --json lists all of them"


def loss_words(result: TreeResult, copy: Copy) -> str:
    """Return what was not carried, in one line; empty if nothing was lost."""
    if not result.losses:
        return ""
    first = result.losses[0]
    count = len(result.losses)
    entries = "1 entry" if count == 1 else f"{count} entries"
    arrived = "would arrive" if result.dry_run else "arrived"
    return (
        f"{entries} {arrived} without special mode bits or owner, the first is {_under(copy.source, first.path)} "
        f"({', '.join(first.losses)})"
    )


def tree_fields(local: str, result: TreeResult) -> dict[str, object]:
    """Return the JSON fields of a result."""
    return {
        **bytes_fields("local", local),
        **bytes_fields("path", result.path),
        **bytes_fields("source", result.source),
        "tree": True,
        "complete": result.complete,
        **{
            name: getattr(result, name)
            for name in (
                "entries",
                "sent",
                "made",
                "unchanged",
                "excluded",
                "failed",
                "unknown",
                "deleted",
                "content_bytes",
                "total_bytes",
                "seconds",
                "durability",
                "created",
                "dry_run",
                "attempts",
            )
        },
        "problems": [problem_fields(problem) for problem in result.problems],
        "losses": [
            {**bytes_fields("path", loss.path), "losses": list(loss.losses)} for loss in result.losses
        ],
        **{
            name: [bytes_fields("path", path) for path in getattr(result, name)]
            for name in ("changed_paths", "deleted_paths", "excluded_paths")
            if result.dry_run
        },
    }


def problem_fields(problem: TreeProblem) -> dict[str, object]:
    """Return the JSON fields of a problem."""
    return {**bytes_fields("path", problem.path), "reason": problem.reason, "message": problem.message}


def _reasoned(problem: TreeProblem) -> str:
    """Return message and reason; a reason of a newer program may come without a message."""
    return f"{problem.message.rstrip('.')} [{problem.reason}]" if problem.message else f"[{problem.reason}]"


def _under(top: str, path: str) -> str:
    return f"{top.rstrip('/')}/{path}" if path else top
