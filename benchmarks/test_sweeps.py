"""One thing varied at a time: the file's size, the chunk's, TLS, digests, durability."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.page import people_bytes
from harness.processes import Measured, Worker
from harness.room import is_memory, why_too_little
from harness.rounds import Benchmark, Watched, alone, interleaved, latencies, place
from harness.stack import Stack, own_stack
from harness.tls_stack import with_tls
from harness.transfers import Transfers, random_file
from openshell_files_protocol.limits import MAX_CHUNK_BYTES

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

DIRECTIONS = pytest.mark.parametrize("direction", ["upload", "download"])

SIZES = [1, KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB]
CHUNKS = [16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MAX_CHUNK_BYTES]
#: A message has to stay below the 4 MiB that both ends of the harness's own calls allow.
LARGER = [2 * MIB, 4 * MIB - 4 * KIB]


@pytest.mark.quick
@pytest.mark.parametrize("size", SIZES, ids=people_bytes)
@DIRECTIONS
@pytest.mark.benchmark(group="sizes")
def test_size(
    benchmark: Benchmark, transfers: Transfers, large: Path, rounds: int, direction: str, size: int
) -> None:
    most = large.stat().st_size
    if size > (SIZES[-1] if most >= GIB else most):
        pytest.skip(f"needs --large-mib {min(1024, size // MIB)} or more (MIB= of make)")
    # The source, the file in the sandbox, and beside it what replaces it or what comes back.
    if reason := why_too_little(transfers.stack.scratch, 3 * size):
        pytest.skip(reason)
    source = large if size == most else transfers.here(f"sized-{size}", size)
    transfers.up(source, "sized")

    def once() -> Measured:
        return transfers.up(source, "sized") if direction == "upload" else transfers.down("sized")

    alone(benchmark, once, rounds=rounds, size=size)
    place(benchmark, "file size", direction, size)
    if source != large:
        source.unlink()
    # What is left is not the next test's memory.
    (transfers.stack.scratch / "got").unlink(missing_ok=True)
    transfers.up(transfers.here("empty", 0), "sized")


@pytest.fixture(scope="module")
def checked(transfers: Transfers) -> Generator[Worker]:
    with Worker("checked_worker", environment=transfers.stack.environment) as worker:
        yield worker


@pytest.mark.quick
@pytest.mark.parametrize("chunk", CHUNKS, ids=people_bytes)
@DIRECTIONS
@pytest.mark.benchmark(group="chunks")
def test_chunk(
    benchmark: Benchmark, transfers: Transfers, checked: Worker, large: Path, rounds: int, direction: str, chunk: int
) -> None:  # fmt: skip
    """Up to what the gateway allows; its limit on messages cannot be raised (UPL-15), see the next test."""
    sandbox = transfers.stack.sandboxes[0]
    transfers.up(large)
    question: dict[str, object] = {"do": direction, "sandbox_id": sandbox.id, "chunk": chunk}
    if direction == "upload":
        question |= {"source": str(large), "remote": "chunked"}
    else:
        question |= {"remote": "large", "target": str(transfers.stack.scratch / "chunked")}
    processes = {**transfers.processes, "client": [checked.pid]}
    alone(
        benchmark,
        lambda: transfers.watched(lambda: checked.ask(**question), processes),
        rounds=rounds,
        size=large.stat().st_size,
    )
    place(benchmark, "chunk size", direction, chunk)


@pytest.mark.parametrize("chunk", [*CHUNKS, *LARGER], ids=people_bytes)
@pytest.mark.benchmark(group="chunks")
def test_chunk_without_files(
    benchmark: Benchmark, watched: Watched, large: Path, rounds: int, chunk: int
) -> None:
    """GRPC alone over two hops, also with messages beyond the limit: what raising it would buy."""
    size = large.stat().st_size
    with ExitStack() as running:
        server = running.enter_context(Worker("one_hop", "server"))
        relay = running.enter_context(Worker("one_hop", "relay", f"127.0.0.1:{server.ready['port']}"))
        client = running.enter_context(Worker("one_hop", "client", f"127.0.0.1:{relay.ready['port']}"))
        processes = {"client": [client.pid], "relay": [relay.pid], "server": [server.pid]}
        alone(
            benchmark,
            lambda: watched(lambda: client.ask(do="stream", size=size, chunk=chunk), processes),
            rounds=rounds,
            size=size,
        )
    place(benchmark, "chunk size", "gRPC alone, two hops", chunk)


@pytest.mark.parametrize(
    "digests",
    [["CRC32C"], ["SHA-256"], ["BLAKE3"], ["CRC32C", "SHA-256"], ["CRC32C", "BLAKE3"]],
    ids="+".join,
)
@DIRECTIONS
@pytest.mark.benchmark(group="digests")
def test_digests(
    benchmark: Benchmark, transfers: Transfers, checked: Worker, large: Path, rounds: int, direction: str,
    digests: list[str],
) -> None:  # fmt: skip
    """CRC32C of each chunk, SHA-256 of the whole, and both as users have it, against neither; the client's part."""
    sandbox, size = transfers.stack.sandboxes[0], large.stat().st_size
    transfers.up(large)
    # A download without digests has chunks of 256 KiB, whatever is asked for.
    chunk = MAX_CHUNK_BYTES if direction == "upload" else 256 * KIB
    question: dict[str, object] = {"do": direction, "sandbox_id": sandbox.id, "chunk": chunk}
    if direction == "upload":
        question |= {"source": str(large), "remote": "digested"}
    else:
        question |= {"remote": "large", "target": str(transfers.stack.scratch / "digested")}
    processes = {**transfers.processes, "client": [checked.pid]}
    interleaved(
        benchmark,
        lambda: transfers.watched(lambda: checked.ask(**question, digests=digests), processes),
        lambda: transfers.watched(lambda: checked.ask(**question, digests=[]), processes),
        rounds=rounds, size=size, against="no digests",
    )  # fmt: skip


@DIRECTIONS
@pytest.mark.benchmark(group="TLS")
def test_tls(
    benchmark: Benchmark, own: Stack, large: Path, watched: Watched, rounds: int, direction: str
) -> None:
    """TLS on both hops, against none on either."""
    assert own.pids
    size = large.stat().st_size
    with ExitStack() as running:
        plain = running.enter_context(own_stack())
        secure = running.enter_context(with_tls(plain))
        with_and_without = [
            Transfers(
                stack,
                running.enter_context(Worker("sdk_worker", environment=stack.environment)),
                watched,
            )
            for stack in (secure, plain)
        ]
        for one in with_and_without:
            one.up(large)
        ours, baseline = [
            (lambda one=one: one.up(large)) if direction == "upload" else one.down for one in with_and_without
        ]
        interleaved(benchmark, ours, baseline, rounds=rounds, size=size, against="without TLS")


@pytest.fixture(scope="module")
def on_disk(own: Stack, watched: Watched) -> Generator[Transfers]:
    """Sandbox and client on the file system of temporary files."""
    assert own.pids
    where = Path(tempfile.gettempdir())
    if is_memory(where):
        pytest.skip(f"needs a disk, and {where} is in memory (set TMPDIR to a directory on a disk)")
    with (
        own_stack(where=where) as stack,
        Worker("sdk_worker", environment=stack.environment) as client,
    ):
        yield Transfers(stack, client, watched)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.benchmark(group="durability")
def test_durability(
    benchmark: Benchmark,
    request: pytest.FixtureRequest,
    own_transfers: Transfers,
    medium: Path,
    rounds: int,
    where: str,
) -> None:
    """What it costs that a file survives a power loss, on a disk and where nothing does."""
    # Asked for here, since it may skip.
    transfers: Transfers = request.getfixturevalue("on_disk") if where == "disk" else own_transfers
    size = medium.stat().st_size
    source = random_file(transfers.stack.scratch / "medium", size)
    interleaved(
        benchmark,
        lambda: transfers.up(source, "durable", "fsync"),
        lambda: transfers.up(source, "durable", "rename"),
        rounds=rounds, size=size, against=f"rename, in {'memory' if where == 'memory' else 'a file system on disk'}",
    )  # fmt: skip


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.benchmark(group="durability")
def test_durability_of_1_kib(
    benchmark: Benchmark, request: pytest.FixtureRequest, own_transfers: Transfers, rounds: int, where: str
) -> None:
    """The same of a small file, of which a flush is a larger part."""
    transfers: Transfers = request.getfixturevalue("on_disk") if where == "disk" else own_transfers

    def calls(durable: str) -> list[float]:
        answer = transfers.client.ask(
            do="write_many",
            sandbox=transfers.stack.sandboxes[0].name,
            remote="small",
            size=KIB,
            count=50,
            durable=durable,
        )
        return list(answer["each"])

    latencies(
        benchmark,
        lambda: calls("fsync"),
        lambda: calls("rename"),
        rounds=rounds,
        names=(f"write_bytes, 1 KiB, fsync, {where}", f"write_bytes, 1 KiB, rename, {where}"),
    )
