"""What `FilesClient.from_sandbox_client` needs of the official SDK's client, built as that one is.

The official SDK itself cannot be imported where the gateway is: both have the messages of the same .proto file. With it
test_official_files.py tests the same in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import grpc


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    """A call's details with other metadata."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token that a function gives at each call."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def _attached(self, details: Any) -> Any:
        metadata = (*(details.metadata or ()), ("authorization", f"Bearer {self._token()}"))
        return _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._attached(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._attached(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._attached(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._attached(client_call_details), request_iterator)


class SandboxClient:
    """The official client's connection: with an interceptor if there is a token, else without."""

    def __init__(self, endpoint: str, *, bearer_token: str | Callable[[], str] | None) -> None:
        self._channel: grpc.Channel = grpc.insecure_channel(endpoint)
        if bearer_token is not None:
            token = (lambda: bearer_token) if isinstance(bearer_token, str) else bearer_token
            self._channel = grpc.intercept_channel(self._channel, _Bearer(token))

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class SandboxRef:
    """As `get` returns it."""

    id: str
    name: str
    workspace: str


class SandboxSession:
    """As `create_session` returns it: the reference changes with the sandbox."""

    def __init__(self, sandbox: SandboxRef) -> None:
        self.sandbox = sandbox
