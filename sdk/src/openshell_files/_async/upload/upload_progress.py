"""Progress of one upload, for the caller's callback."""

from __future__ import annotations

from openshell_files._async.reporting import Reporter
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files.results import Progress, ProgressCallback


class UploadProgress:
    """Reports an upload's progress, and remembers which upload id the callback received.

    Args:
        plan: the upload.
        total: size of the source; None if unknown.
        callback: the caller's; None reports nothing.
    """

    def __init__(self, plan: UploadPlan, total: int | None, callback: ProgressCallback | None) -> None:
        self._plan = plan
        self._total = total
        self._reporter = Reporter(callback)
        self._id_told = ""

    @property
    def raised(self) -> BaseException | None:
        """Exception that the callback raised."""
        return self._reporter.raised

    @property
    def id_told(self) -> bool:
        """True if the callback received the upload's present id."""
        return self._plan.upload_id != "" and self._id_told == self._plan.upload_id

    def transferred(self, count: int) -> None:
        """Report that `count` bytes of the file were handed to the connection."""
        if self._reporter.wanted:
            plan = self._plan
            self._id_told = plan.upload_id
            self._reporter.report(
                Progress(count, self._total, plan.staged, plan.durable, plan.attempts, plan.upload_id)
            )

    def published(self, size: int, durable: int | None) -> None:
        """Report that the whole file is published."""
        plan = self._plan
        self._reporter.report(Progress(size, size, size, durable, plan.attempts, plan.upload_id))
