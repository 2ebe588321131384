"""Waits for the first message of a call that a caller opened and has said nothing on yet.

Also where it is the only one: gRPC waits for that without an end, and never
answers a call that ended without it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.calls import Call, Context
from openshell_files_gateway.server.slots import Slots

#: The first message follows the opening of a stream at once. A caller that has nothing to say is not waited for.
FIRST_MESSAGE_SECONDS: Final[float] = 10.0

#: Until it came nobody knows the sandbox.
_ANY_SANDBOX: Final = ""


async def only_message(context: Context) -> Any:  # noqa: ANN401 - as its method parses it
    """Return the message of a call that has one.

    Raises:
        TransferError: INVALID_REQUEST if the call ended without one,
            TRANSFER_IDLE if none came in time.
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
    """Reads first messages of uploads; bounds how many are waited for, and how long.

    Args:
        slots: of streams that are silent; a caller may have a share of them.
        seconds: how long one may stay silent.
    """

    def __init__(self, slots: Slots, seconds: float) -> None:
        self._slots = slots
        self._seconds = seconds

    async def read(self, call: Call) -> bytes:
        """Return the first message.

        Raises:
            TransferError: TOO_MANY_TRANSFERS if too many are silent,
                TRANSFER_IDLE if nothing came in time, INVALID_REQUEST if the
                stream ended.
        """
        async with self._slots.taken(_ANY_SANDBOX, call.user.key):
            try:
                async with asyncio.timeout(self._seconds):
                    data = await call.context.read()
            except TimeoutError:
                raise TransferError(Reason.TRANSFER_IDLE, f"no metadata within {self._seconds:g} s") from None
        if not isinstance(data, bytes):
            raise invalid("metadata", "the stream ended before the first message")
        return data
