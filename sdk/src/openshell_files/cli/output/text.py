"""Unicode text of the command line: names and paths in the sandbox.

A command line is bytes. Python decodes them by the locale, which may be ASCII;
other bytes become lone surrogates, which no message of the protocol can carry.
"""

from __future__ import annotations

import os


def as_unicode(text: str) -> str | None:
    """Return text of the command line as Unicode in any locale; None if its bytes are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            return None
    return text


def as_bytes_text(text: str) -> str:
    """Return text of the command line as UTF-8 in any locale, with bytes that are no UTF-8 as surrogates."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")
