"""Text of the command line that has to be Unicode: names and paths in the sandbox.

A command line is bytes. Python decodes them by the locale, which may know
ASCII only; what it cannot decode becomes lone surrogates, which no message of
the protocol can carry.
"""

from __future__ import annotations

import os


def as_unicode(text: str) -> str | None:
    """Return text of the command line as Unicode, whatever the locale; None if its bytes are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            return None
    return text
