"""Statuses with which the gateway towards an SDK ends calls: code, reason and details, as docs/errors.md says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from openshell_files_conformance.vectors_data import vectors

ERROR_DOMAIN: Final = "openshell.nvidia.com"
DETAILS_KEY: Final = "grpc-status-details-bin"


@cache
def _codes() -> Mapping[str, grpc.StatusCode]:
    """Return the code of each reason of the table of errors."""
    return {row["reason"]: grpc.StatusCode[row["code"]] for row in vectors("errors")["reasons"]}


def number_of(code: grpc.StatusCode) -> int:
    """Return the number of a code on the wire."""
    return cast("tuple[int, str]", cast(Any, code).value)[0]


@dataclass
class Status(Exception):  # noqa: N818 - not every status is an error of the suite
    """How a call ends.

    Attributes:
        code: of gRPC.
        reason: of the table of errors; empty for a status as gRPC or a proxy makes it.
        message: for people.
        metadata: of the reason.
        retry_after: pause that RetryInfo asks for, in seconds.
        trailing: further trailing metadata.
        raw_details: sent in place of the details.
    """

    code: grpc.StatusCode
    reason: str = ""
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after: float | None = None
    trailing: tuple[tuple[str, str], ...] = ()
    raw_details: bytes = b""

    @property
    def name(self) -> str:
        """The reason, or without one the code."""
        return self.reason or self.code.name

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the trailing metadata: the details, if there are any, and what else was given."""
        if self.raw_details:
            return (*self.trailing, (DETAILS_KEY, self.raw_details))
        details: list[Message] = []
        if self.reason:
            details.append(
                error_details_pb2.ErrorInfo(
                    domain=ERROR_DOMAIN, reason=self.reason, metadata=dict(self.metadata)
                )
            )
        if self.retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after * 1e9))
            details.append(retry)
        if not details:
            return self.trailing
        status = status_pb2.Status(code=number_of(self.code), message=self.message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return (*self.trailing, (DETAILS_KEY, status.SerializeToString()))


def refusal(
    reason: str,
    message: str = "",
    *,
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> Status:
    """Return the status of a reason of the table of errors."""
    return Status(
        _codes()[reason], reason, message or f"made by the suite: {reason}", metadata or {}, retry_after
    )


def plain(code: grpc.StatusCode, message: str = "made by the suite") -> Status:
    """Return a status without a reason, as a proxy or gRPC itself makes it."""
    return Status(code, message=message)


#: A lost connection, as gRPC reports it.
LOST: Final = plain(grpc.StatusCode.UNAVAILABLE, "made by the suite: the connection is lost")
