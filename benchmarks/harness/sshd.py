"""A throw-away sshd on loopback, and what today's command line does with it."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: The cheapest cipher of OpenSSH where the processor has AES.
FASTEST: Final = "aes128-gcm@openssh.com"

_PATH: Final = "/usr/sbin:/usr/local/sbin:/sbin:/usr/bin:/bin"


class NoSshError(Exception):
    """OpenSSH is not here; the text says what to install."""


class NoRsyncError(Exception):
    """rsync is not here; the text says what to install."""


@dataclass(frozen=True)
class Ssh:
    """How to reach it.

    Attributes:
        pid: of the server; each connection has processes below it.
        arguments: of ssh, before the host.
        host: user and address.
        port: where it listens.
    """

    pid: int
    arguments: tuple[str, ...]
    host: str
    port: int

    def _command(self, cipher: str | None) -> list[str]:
        chosen = ["-c", cipher] if cipher else []
        return ["ssh", *self.arguments, "-p", str(self.port), *chosen, self.host]

    def tar_up(self, source: Path, directory: Path, cipher: str | None = None) -> None:
        """`tar c | ssh tar x`, as the official command uploads."""
        remote = f"mkdir -p {shlex.quote(str(directory))} && tar xf - -C {shlex.quote(str(directory))}"
        _pipe(["tar", "cf", "-", "-C", str(source.parent), source.name], [*self._command(cipher), remote])

    def tar_down(self, remote: Path, directory: Path, cipher: str | None = None) -> None:
        """`ssh tar c | tar x`, as it downloads."""
        command = f"tar cf - -C {shlex.quote(str(remote.parent))} {shlex.quote(remote.name)}"
        _pipe([*self._command(cipher), command], ["tar", "xf", "-", "-C", str(directory)])

    def rsync_up(self, source: Path, directory: Path) -> None:
        """`rsync -a`: what is in a directory, into another.

        Raises:
            NoRsyncError: it is not installed.
        """
        if shutil.which("rsync") is None:
            raise NoRsyncError("rsync is not installed (on Debian: apt install rsync)")
        shell = shlex.join(["ssh", *self.arguments, "-p", str(self.port)])
        _run(["rsync", "-a", "-e", shell, f"{source}/", f"{self.host}:{directory}/"])

    def run(self, command: str) -> None:
        """Run a command of the shell there."""
        _run([*self._command(None), command])

    def scp(self, source: Path, target: Path, *, up: bool, sftp: bool, cipher: str | None = None) -> None:
        """`scp`, by the SFTP protocol as it does today or by its own old one."""
        chosen = ["-c", cipher] if cipher else []
        there = f"{self.host}:{target if up else source}"
        paths = [str(source), there] if up else [there, str(target)]
        old = [] if sftp else ["-O"]
        _run(["scp", "-q", *old, *self.arguments, "-P", str(self.port), *chosen, *paths])


@contextmanager
def sshd() -> Generator[Ssh]:
    """Run an sshd that only this user, with a key made now, can use.

    Raises:
        NoSshError: it is not installed.
    """
    server = shutil.which("sshd", path=_PATH)
    if server is None or shutil.which("ssh") is None:
        raise NoSshError("OpenSSH is not installed (on Debian: apt install openssh-server openssh-client)")
    with tempfile.TemporaryDirectory(prefix="openshell-bench-ssh-") as name:
        directory = Path(name)
        for key in ("host", "user"):
            _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)])
        shutil.copy(directory / "user.pub", directory / "authorized")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        (directory / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {directory}/host\n"
            f"AuthorizedKeysFile {directory}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\nUseDNS no\nMaxStartups 100\n"
        )
        if os.geteuid() == 0:
            # Where the distribution's service would make it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [server, "-D", "-e", "-f", str(directory / "config")], stderr=log, stdout=log
            )
        try:
            _wait(process, port, directory / "log")
            arguments = (
                "-F", "none", "-i", str(directory / "user"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={directory}/known", "-o", "LogLevel=ERROR",
            )  # fmt: skip
            yield Ssh(process.pid, arguments, f"{getpass.getuser()}@127.0.0.1", port)
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    while True:
        if process.poll() is not None:
            raise NoSshError(f"sshd does not start: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _pipe(first: Sequence[str], second: Sequence[str]) -> None:
    with subprocess.Popen(first, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as producer:
        subprocess.run(second, check=True, stdin=producer.stdout)
        assert producer.stdout is not None
        producer.stdout.close()
    if producer.returncode != 0:
        raise subprocess.CalledProcessError(producer.returncode, list(first))
