"""Today's command line: tar, scp and sftp over ssh, beside ours; the large file, in memory, both directions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness.processes import Worker
from harness.rounds import Benchmark, Reach, Watched, interleaved
from harness.sshd import FASTEST, Ssh
from harness.stack import Stack
from harness.transfers import Transfers

CIPHERS = pytest.mark.parametrize("cipher", [None, FASTEST], ids=["default cipher", "fastest cipher"])


@pytest.mark.quick
@pytest.mark.target
@CIPHERS
@pytest.mark.benchmark(group="against ssh")
def test_upload_against_tar(
    benchmark: Benchmark, own_transfers: Transfers, ssh: Ssh, large: Path, rounds: int, reach: Reach,
    cipher: str | None,
) -> None:  # fmt: skip
    there, size = own_transfers.stack.scratch / "tar-up", large.stat().st_size
    pairs = interleaved(
        benchmark,
        lambda: own_transfers.up(large),
        lambda: own_transfers.watched(lambda: ssh.tar_up(large, there, cipher), {}),
        rounds=rounds, size=size, against=f"tar over ssh, {cipher or 'default cipher'}",
    )  # fmt: skip
    assert (there / large.name).stat().st_size == size
    shutil.rmtree(there)
    reach("fast-ssh-up" if cipher else "ssh-up", pairs.speed_ratio)


@pytest.mark.quick
@pytest.mark.target
@CIPHERS
@pytest.mark.benchmark(group="against ssh")
def test_download_against_tar(
    benchmark: Benchmark, own_transfers: Transfers, ssh: Ssh, large: Path, rounds: int, reach: Reach,
    cipher: str | None,
) -> None:  # fmt: skip
    own_transfers.up(large)
    here, size = own_transfers.stack.scratch / "tar-down", large.stat().st_size
    here.mkdir()
    pairs = interleaved(
        benchmark,
        own_transfers.down,
        lambda: own_transfers.watched(lambda: ssh.tar_down(large, here, cipher), {}),
        rounds=rounds, size=size, against=f"tar over ssh, {cipher or 'default cipher'}",
    )  # fmt: skip
    assert (here / large.name).stat().st_size == size
    shutil.rmtree(here)
    reach("fast-ssh-down" if cipher else "ssh-down", pairs.speed_ratio)


@pytest.mark.parametrize("name", ["sftp", "scp -O"])
@pytest.mark.benchmark(group="against ssh")
def test_upload_against_scp(
    benchmark: Benchmark, own_transfers: Transfers, ssh: Ssh, large: Path, rounds: int, name: str
) -> None:
    there, size = own_transfers.stack.scratch / "scp-up", large.stat().st_size
    interleaved(
        benchmark,
        lambda: own_transfers.up(large),
        lambda: own_transfers.watched(lambda: ssh.scp(large, there, up=True, sftp=name == "sftp"), {}),
        rounds=rounds, size=size, against=name,
    )  # fmt: skip
    assert there.stat().st_size == size
    there.unlink()


@pytest.mark.parametrize("name", ["sftp", "scp -O"])
@pytest.mark.benchmark(group="against ssh")
def test_download_against_scp(
    benchmark: Benchmark, own_transfers: Transfers, ssh: Ssh, large: Path, rounds: int, name: str
) -> None:
    own_transfers.up(large)
    here, size = own_transfers.stack.scratch / "scp-down", large.stat().st_size
    interleaved(
        benchmark,
        own_transfers.down,
        lambda: own_transfers.watched(lambda: ssh.scp(large, here, up=False, sftp=name == "sftp"), {}),
        rounds=rounds, size=size, against=name,
    )  # fmt: skip
    assert here.stat().st_size == size
    here.unlink()


@pytest.mark.target
@pytest.mark.benchmark(group="RFC-only client")
def test_rfc_upload_against_tar(
    benchmark: Benchmark, own: Stack, ssh: Ssh, large: Path, watched: Watched, rounds: int, reach: Reach
) -> None:
    """The RFC taken literally: 64 KiB chunks."""
    sandbox, there = own.sandboxes[0], own.scratch / "tar-rfc"
    with Worker("rfc_worker", environment=own.environment) as rfc:
        pairs = interleaved(
            benchmark,
            lambda: watched(
                lambda: rfc.ask(do="upload", sandbox_id=sandbox.id, source=str(large), remote="rfc"),
                {"client": [rfc.pid], **own.pids},
            ),
            lambda: watched(lambda: ssh.tar_up(large, there), {}),
            rounds=rounds, size=large.stat().st_size, against="tar over ssh, default cipher",
        )  # fmt: skip
    shutil.rmtree(there)
    reach("rfc-up", pairs.speed_ratio)


@pytest.mark.target
@pytest.mark.benchmark(group="RFC-only client")
def test_rfc_download_against_tar(
    benchmark: Benchmark, own_transfers: Transfers, ssh: Ssh, large: Path, rounds: int, reach: Reach
) -> None:
    own_transfers.up(large)
    own, watched = own_transfers.stack, own_transfers.watched
    sandbox, here = own.sandboxes[0], own.scratch / "tar-rfc-down"
    here.mkdir()
    with Worker("rfc_worker", environment=own.environment) as rfc:
        pairs = interleaved(
            benchmark,
            lambda: watched(
                lambda: rfc.ask(
                    do="download", sandbox_id=sandbox.id, remote="large", target=str(own.scratch / "rfc-got")
                ),
                {"client": [rfc.pid], **own.pids},
            ),
            lambda: watched(lambda: ssh.tar_down(large, here), {}),
            rounds=rounds, size=large.stat().st_size, against="tar over ssh, default cipher",
        )  # fmt: skip
    shutil.rmtree(here)
    reach("rfc-down", pairs.speed_ratio)
