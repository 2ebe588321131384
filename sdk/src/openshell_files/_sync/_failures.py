"""Failures of gRPC calls of the blocking flavour, as errors of this SDK."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, cast

import grpc

from openshell_files._core.borrowed_channel_errors import owners_failure
from openshell_files._error_mapping import error_from_status

_CANCELLED: Final = 1


@contextmanager
def failures_mapped() -> Generator[None]:
    """Convert exceptions of gRPC, and of interceptors of a borrowed channel, to errors of this SDK."""
    try:
        yield
    except grpc.FutureCancelledError:
        raise error_from_status(_CANCELLED, "the client was closed", ()) from None
    except grpc.RpcError as error:
        trailing = cast("Sequence[tuple[str, str | bytes]]", error.trailing_metadata() or ())
        raise error_from_status(error.code().value[0], error.details() or "", trailing) from error
    except Exception as error:
        # The only foreign code here is the interceptor with which the owner of the channel adds a token.
        raise owners_failure(error) from error
