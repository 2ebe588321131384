"""Writes docs/errors.md from the error table."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.reasons import ERROR_DOMAIN, Reason, Retry


def markdown() -> str:
    """Return docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "<!-- Written by `make docs` from proto/src/openshell_files_protocol/reasons.py. -->",
        "",
        "Every error is a gRPC status with `google.rpc.ErrorInfo` in its details:",
        f"`domain` is `{ERROR_DOMAIN}`, `reason` is a name of this table. `INVALID_ARGUMENT` carries",
        "`google.rpc.BadRequest` with the fields at fault, `RESOURCE_EXHAUSTED` and whatever may be tried later",
        "carry `google.rpc.RetryInfo` where the delay is known.",
        "",
        "Retry: " + "; ".join(f"**{name}** {text}" for name, text in _RETRY_MEANINGS.items()) + ".",
        "",
        "| reason | gRPC code | whose fault | retry | meaning | what to do |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{reason.name}` | {row.code.name} | {row.blame} | {row.retry} | {row.meaning} | {row.fix} |"
        for reason, row in ((reason, reason.row) for reason in Reason)
    ]
    return "\n".join(lines) + "\n"


_RETRY_MEANINGS: Final = {
    Retry.NEVER: "not without a change",
    Retry.AGAIN: "the same call at once, an upload goes on where it stopped",
    Retry.LATER: "the same call after a delay",
    Retry.RESTART: "from the start, as a new transfer",
}


if __name__ == "__main__":
    print(markdown(), end="")
