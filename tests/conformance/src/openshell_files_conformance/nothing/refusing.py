"""Refuses every launch and every operation."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Answer each line by unsupported, until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = (
            {"id": request["id"], "outcome": "unsupported"}
            if "id" in request
            else {"type": "unsupported", "what": "everything"}
        )
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
