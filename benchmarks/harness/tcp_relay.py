"""The limit: a file through three processes over bare TCP, nothing checked, nothing encoded.

`sender` and `receiver` are the ends, `relay` is in the middle; 1 MiB at a time,
as the real path. Each is a worker of its own.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any

from harness.answering import serve

PIECE = 1 << 20


def listener() -> tuple[socket.socket, int]:
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()[1]


def copy(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(PIECE))
    while count := source.recv_into(buffer):
        target.sendall(buffer[:count])
    target.shutdown(socket.SHUT_WR)


def relay() -> None:
    """Carry each connection to the address that it names in its first line."""
    server, port = listener()

    def carry(one: socket.socket) -> None:
        with one:
            there = int(one.recv(16).decode())
            with socket.create_connection(("127.0.0.1", there)) as other:
                one.sendall(b"+")
                back = threading.Thread(target=copy, args=(other, one))
                back.start()
                copy(one, other)
                back.join()

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=carry, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    serve({}, port=port)


def agent() -> None:
    """Receive into a file, or send one: the first line of a connection says which."""
    server, port = listener()

    def work(connection: socket.socket) -> None:
        with connection:
            verb, _, path = connection.recv(4096).decode().partition(" ")
            connection.sendall(b"+")
            if verb == "put":
                buffer = memoryview(bytearray(PIECE))
                with open(path, "wb", buffering=0) as file:
                    while count := connection.recv_into(buffer):
                        file.write(buffer[:count])
                connection.sendall(b"+")
            else:
                buffer = memoryview(bytearray(PIECE))
                with open(path, "rb", buffering=0) as file:
                    while count := file.readinto(buffer):
                        connection.sendall(buffer[:count])
                connection.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=work, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    serve({}, port=port)


def client(relay_port: int, agent_port: int) -> None:
    def connect(line: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", relay_port))
        connection.sendall(str(agent_port).encode())
        assert connection.recv(1) == b"+"
        connection.sendall(line.encode())
        assert connection.recv(1) == b"+"
        return connection

    def upload(source: str, remote: str) -> dict[str, Any]:
        with connect(f"put {remote}") as connection, open(source, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(PIECE))
            while count := file.readinto(buffer):
                connection.sendall(buffer[:count])
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"+"
        return {"size": os.path.getsize(remote)}

    def download(remote: str, target: str) -> dict[str, Any]:
        with connect(f"get {remote}") as connection, open(target, "wb", buffering=0) as file:
            buffer = memoryview(bytearray(PIECE))
            while count := connection.recv_into(buffer):
                file.write(buffer[:count])
        return {"size": os.path.getsize(target)}

    serve({"upload": upload, "download": download})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["relay"]:
            relay()
        case ["agent"]:
            agent()
        case ["client", first, second]:
            client(int(first), int(second))
        case _:
            sys.exit("tcp_relay: relay | agent | client RELAY_PORT AGENT_PORT")
