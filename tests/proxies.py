"""Proxies of the distribution between a supervisor and its gateway, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conditions import block_until

#: A connection on which nothing moves for so long is closed by each of these proxies.
IDLE_SECONDS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def haproxy_of_bytes(listen: int, gateway: str, _: Path) -> str:
    return f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client {IDLE_SECONDS}s
    timeout server {IDLE_SECONDS}s
listen relay
    bind 127.0.0.1:{listen}
    server gateway {gateway}
"""


def haproxy_of_messages(listen: int, gateway: str, _: Path) -> str:
    return f"""
defaults
    mode http
    timeout connect 5s
    timeout client {IDLE_SECONDS}s
    timeout server {IDLE_SECONDS}s
    timeout http-request {IDLE_SECONDS}s
listen relay
    bind 127.0.0.1:{listen} proto h2
    server gateway {gateway} proto h2
"""


def nginx_of_messages(listen: int, gateway: str, directory: Path) -> str:
    temporary = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
{temporary}
    server {{
        listen 127.0.0.1:{listen} http2;
        client_max_body_size 0;
        client_body_timeout 1h;
        location / {{
            grpc_pass grpc://{gateway};
            grpc_read_timeout {IDLE_SECONDS}s;
            grpc_send_timeout {IDLE_SECONDS}s;
            grpc_socket_keepalive on;
        }}
    }}
}}
"""


Config = Callable[[int, str, Path], str]

#: By name: the program, its options before the configuration file, and the configuration.
PROXIES: dict[str, tuple[str, list[str], Config]] = {
    "haproxy, bytes": ("haproxy", ["-db", "-f"], haproxy_of_bytes),
    "haproxy, HTTP/2": ("haproxy", ["-db", "-f"], haproxy_of_messages),
    "nginx, gRPC": ("nginx", ["-c"], nginx_of_messages),
}


@contextmanager
def proxy(name: str, gateway: str, directory: Path) -> Generator[str]:
    """Run a proxy and give the address where it listens; skips the test where it is not installed."""
    program, options, config = PROXIES[name]
    path = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    if path is None:
        pytest.skip(f"{program} is not installed (on Debian: apt install {program})")
    listen = free_port()
    file = directory / "proxy.conf"
    file.write_text(config(listen, gateway, directory))
    with (directory / "proxy.log").open("wb") as log:
        process = subprocess.Popen([path, *options, str(file)], stdout=log, stderr=log, cwd=directory)
    try:

        def listens() -> bool:
            assert process.poll() is None, (directory / "proxy.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", listen)) == 0

        block_until(listens, f"{program} listens")
        yield f"127.0.0.1:{listen}"
    finally:
        process.terminate()
        process.wait(30)
