"""Treatment of symbolic links by the sender of a tree."""

from __future__ import annotations

from enum import StrEnum


class Links(StrEnum):
    """Treatment of the symbolic links in a tree."""

    #: Send each link as it is.
    KEEP = "keep"
    #: Send what a link names, as far as that is inside the tree. Only for uploads.
    FOLLOW = "follow"
    #: Leave links out.
    SKIP = "skip"
