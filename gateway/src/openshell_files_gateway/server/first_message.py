"""Reads the first message of a call, within a time limit.

Unary requests are read here, too: gRPC itself would wait for one without a
limit, and would not answer a call that ends without one.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.calls import Call, Context
from openshell_files_gateway.server.turn_queue import TurnQueue

#: Time limit for the first message, which a client sends as soon as it opens the call.
FIRST_MESSAGE_SECONDS: Final[float] = 10.0

#: Sandbox of a stream without a first message, which would name it.
_ANY_SANDBOX: Final = ""


async def only_message(context: Context) -> Any:  # noqa: ANN401 - as its method parses it
    """Return the request of a unary call.

    Raises:
        TransferError: INVALID_REQUEST if the call ended without a message,
            TRANSFER_IDLE if none came within `FIRST_MESSAGE_SECONDS`.
    """
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await context.read()
    except TimeoutError:
        raise TransferError(Reason.TRANSFER_IDLE, f"no message within {FIRST_MESSAGE_SECONDS:g} s") from None
    if message is grpc.aio.EOF:
        raise invalid("request", "the call ended without a message")
    return message


class FirstMessages:
    """Reads the first messages of uploads and trees, and limits how many streams may lack theirs.

    Args:
        slots: limit on streams without a first message, in total and per caller.
        seconds: time limit for a first message.
    """

    def __init__(self, slots: TurnQueue, seconds: float) -> None:
        self._slots = slots
        self._seconds = seconds

    async def read(self, call: Call, field: str = "metadata") -> bytes:
        """Return the first message.

        Args:
            call: of the caller.
            field: that the message has to have, for the errors.

        Raises:
            TransferError: TOO_MANY_TRANSFERS if too many streams lack their
                first message, TRANSFER_IDLE if this one came too late,
                INVALID_REQUEST if the stream ended before it.
        """
        async with self._slots.taken(_ANY_SANDBOX, call.user.key):
            try:
                async with asyncio.timeout(self._seconds):
                    data = await call.read()
            except TimeoutError:
                raise TransferError(Reason.TRANSFER_IDLE, f"no {field} within {self._seconds:g} s") from None
        if not isinstance(data, bytes):
            raise invalid(field, "the stream ended before the first message")
        return data
