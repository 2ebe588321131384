"""Writes docs/errors.md from the error table."""

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
        "Every error that gateway or agent makes is a gRPC status with `google.rpc.ErrorInfo` in its details:",
        f"`domain` is `{ERROR_DOMAIN}`, `reason` is a name of this table. `INVALID_ARGUMENT` carries",
        "`google.rpc.BadRequest` with the fields at fault, `RESOURCE_EXHAUSTED` and whatever may be tried later",
        "carry `google.rpc.RetryInfo` where the delay is known.",
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
        "A status without ErrorInfo was made by gRPC, in the caller's process, in the gateway's, or by a proxy between them.",
        "The gateway has no part in it, and mostly no line in its log.",
        "",
        "| gRPC code | when | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| {code.name} | {when} | {fix} |" for code, when, fix in _OF_GRPC]
    return "\n".join(lines) + "\n"


_RETRY_MEANINGS: Final = {
    Retry.NEVER: "do not repeat it unchanged",
    Retry.AGAIN: "the same call at once, an upload goes on where it stopped",
    Retry.LATER: "the same call after a delay",
    Retry.RESTART: "from the start, as a new transfer",
}

_OF_GRPC: Final = (
    (
        Code.CANCELLED,
        "The caller cancelled; or the stream was reset: by a gateway that cut it at the end of its stop timeout, or by a proxy.",
        "Nothing if the caller meant it; else as for `UNAVAILABLE`.",
    ),
    (
        Code.DEADLINE_EXCEEDED,
        "The deadline that the caller gave the call is over. Caller and gateway each keep it by a clock of their own.",
        "Ask for the outcome (`GetUpload`) before the upload is sent again; give large files more time, or no deadline.",
    ),
    (
        Code.UNAVAILABLE,
        "There is no connection, it broke, or TLS was refused.",
        "Try again; look at the address, the certificates and the proxies. An upload goes on where it stopped.",
    ),
    (
        Code.RESOURCE_EXHAUSTED,
        (
            "A message is larger than 1 MiB + 64 KiB, or the call's metadata larger than the gateway takes; "
            "or an answer is larger than the caller's own limit."
        ),
        "Send chunks within `max_chunk_bytes` of `GetTransferCapabilities`; send a shorter token.",
    ),
    (
        Code.UNIMPLEMENTED,
        "The message is compressed with an algorithm that the server does not have; or what answers is no gateway.",
        "Send messages as they are; look at the address.",
    ),
    (
        Code.INTERNAL,
        (
            "The bytes of the stream are not gRPC's, a compressed message cannot be unpacked, "
            "or the caller's library broke the rules of HTTP/2."
        ),
        "Look at the caller's library, and at proxies that change what passes.",
    ),
    (
        Code.UNKNOWN,
        "An HTTP answer without a gRPC status: from a proxy.",
        "Look at the proxy.",
    ),
)


if __name__ == "__main__":
    print(markdown(), end="")
