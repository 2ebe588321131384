"""Generates docs/errors.md from the error table."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.reasons import ERROR_DOMAIN, Code, Reason, Retry


def markdown() -> str:
    """Return docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "<!-- Written by `make docs` from proto/src/openshell_files_protocol/reasons.py. -->",
        "",
        "Every error of gateway or agent is a gRPC status with `google.rpc.ErrorInfo` in its details: `domain` is",
        f"`{ERROR_DOMAIN}`, `reason` is a name of this table. `INVALID_ARGUMENT` has a `google.rpc.BadRequest` with the",
        "fields at fault. `RESOURCE_EXHAUSTED`, and errors of the retry class **later**, have a `google.rpc.RetryInfo` if the",
        "delay is known.",
        "",
        "Retry: " + "; ".join(f"**{name}**: {text}" for name, text in _RETRY_MEANINGS.items()) + ".",
        "",
        "| reason | gRPC code | whose fault | retry | meaning | what to do |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{reason.name}` | {row.code.name} | {row.blame} | {row.retry} | {row.meaning} | {row.fix} |"
        for reason, row in ((reason, reason.row) for reason in Reason)
    ]
    lines += [
        "",
        "## Errors that gRPC makes",
        "",
        "A status without ErrorInfo comes from gRPC in the caller's or the gateway's process, or from a proxy between them.",
        "The gateway mostly has no log line about it.",
        "",
        "| gRPC code | when | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| {code.name} | {when} | {fix} |" for code, when, fix in _OF_GRPC]
    return "\n".join(lines) + "\n"


_RETRY_MEANINGS: Final = {
    Retry.NEVER: "do not repeat the call unchanged",
    Retry.AGAIN: "repeat the call at once; an upload resumes at its staged offset",
    Retry.LATER: "repeat the call after a delay",
    Retry.RESTART: "start a new transfer",
}

_OF_GRPC: Final = (
    (
        Code.CANCELLED,
        "The caller cancelled the call; or a gateway at the end of its stop timeout, or a proxy, reset the stream.",
        "Nothing after an intended cancellation; else as for `UNAVAILABLE`.",
    ),
    (
        Code.DEADLINE_EXCEEDED,
        "The call's deadline has passed, by the clock of the caller or of the gateway.",
        "Read the outcome (`GetUpload`) before you repeat an upload; set a longer deadline, or none, for large files.",
    ),
    (
        Code.UNAVAILABLE,
        "There is no connection, it broke, or the TLS handshake failed.",
        "Retry; check the address, the certificates and the proxies. An upload resumes at its staged offset.",
    ),
    (
        Code.RESOURCE_EXHAUSTED,
        (
            "A message is larger than 1 MiB + 64 KiB, or the call's metadata is above the gateway's limit; "
            "or an answer is larger than the caller's own limit."
        ),
        "Send chunks of at most `max_chunk_bytes` of `GetTransferCapabilities`; send a shorter token.",
    ),
    (
        Code.UNIMPLEMENTED,
        "The server does not support the compression of the message; or the server at the address is not a gateway.",
        "Send uncompressed messages; check the address.",
    ),
    (
        Code.INTERNAL,
        (
            "The bytes of the stream are not gRPC, a compressed message is invalid, "
            "or the caller's library violated HTTP/2."
        ),
        "Check the caller's library, and proxies that modify the stream.",
    ),
    (
        Code.UNKNOWN,
        "A proxy sent an HTTP answer without a gRPC status.",
        "Check the proxy.",
    ),
)


if __name__ == "__main__":
    print(markdown(), end="")
