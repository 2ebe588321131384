"""Addresses at which no gateway answers."""

from __future__ import annotations

import socket
import threading


class Refusing:
    """One address, for a state of a connection: `nobody` listens, `closes` what it accepts, or is `silent`."""

    def __init__(self, state: str) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._closing = state == "closes"
        if state == "nobody":
            self._socket.close()
            return
        self._socket.listen(16)
        if state == "closes":
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()
