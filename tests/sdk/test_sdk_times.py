"""Times that the protocol cannot carry."""

from __future__ import annotations

import pytest
from openshell_files import WriteOptions, errors
from openshell_files._core.requests import SandboxAddress, upload_metadata


@pytest.mark.parametrize("modified_ns", [253_402_300_800 * 10**9, -62_135_596_801 * 10**9, 1 << 70])
def test_a_time_outside_the_calendar(modified_ns: int) -> None:
    """UPL-49: refused before a call is made, as what it is."""
    with pytest.raises(errors.InvalidRequest, match="modified time"):
        upload_metadata(SandboxAddress(name="s"), "/a", 1, WriteOptions(modified_ns=modified_ns))
