"""Capabilities of a sandbox: asked for once, while other calls run (CAP-1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from openshell_files_protocol.reasons import Reason

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._core.capabilities import DEFAULTS, Capabilities, fault_in, if_refused
from openshell_files._known_errors import error_from_reason
from openshell_files.errors import FilesError


class KnownCapabilities:
    """The capabilities of one sandbox, as far as this client knows them.

    Args:
        ask: calls GetTransferCapabilities once.
        in_background: starts background work.
        longest: timeout of the call, in seconds.
    """

    def __init__(
        self,
        ask: Callable[[Deadline], Awaitable[Capabilities]],
        in_background: Callable[[Callable[[], Awaitable[None]]], None],
        longest: float,
    ) -> None:
        self._ask = ask
        self._in_background = in_background
        self._longest = longest
        self._known: Capabilities | None = None
        self._fault = ""
        self._asking = False
        self._waiting: list[_io.Flag] = []
        self._lock = _io.Guard()

    @property
    def known(self) -> Capabilities | None:
        """The answer; None before there is one."""
        return self._known

    def begin(self) -> None:
        """Ask, unless the answer is known or the call is running."""
        with self._lock:
            if self._asking or self._known is not None:
                return
            self._asking = True
        self._in_background(self._carry_out)

    async def told(self, deadline: Deadline) -> Capabilities:
        """Return the answer; ask once more if the last call failed, and return DEFAULTS if that fails, too.

        Raises:
            InternalError: the answer breaks the protocol (CAP-7).
        """
        await self._answered(deadline)
        if self._known is None:
            self.begin()
            await self._answered(deadline)
        if (known := self._known) is not None:
            return known
        if self._fault:
            # A new error object for each call that waits for the answer.
            raise error_from_reason(Reason.AGENT_PROTOCOL_ERROR, self._fault)
        return DEFAULTS

    def learn(self, capabilities: Capabilities) -> None:
        """Take an answer that another call got."""
        self._known = capabilities

    def doubt(self) -> None:
        """Discard the answer, because a call showed that it may be outdated."""
        self._known = None

    async def _answered(self, deadline: Deadline) -> None:
        flag = _io.Flag()
        with self._lock:
            if not self._asking:
                return
            self._waiting.append(flag)
        await flag.wait(deadline.cap(self._longest))

    async def _carry_out(self) -> None:
        known: Capabilities | None = None
        fault = ""
        try:
            known = await self._ask(Deadline(self._longest))
        except FilesError as error:
            known, fault = if_refused(error), fault_in(error)
        except RuntimeError:
            # The client was closed.
            return
        finally:
            with self._lock:
                self._known, self._fault, self._asking = known, fault, False
                waiting, self._waiting = self._waiting, []
            for flag in waiting:
                flag.set()
