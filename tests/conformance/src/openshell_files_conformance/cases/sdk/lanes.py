"""Uploads over several streams, over a long way: what an SDK does that has them."""

from __future__ import annotations

from openshell_files_conformance.peers.file_calls import HONEST, Fault, Moment
from openshell_files_conformance.peers.file_sandbox import MIB
from openshell_files_conformance.peers.file_status import Status, refusal
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.registry import case

#: Large enough for several streams to be worth it; the way is made long by late answers.
SIZE = 20 * MIB + 1
ROUND_TRIP_SECONDS = 0.06
LANES = 4


def _far(env: SdkEnv) -> bytes:
    """Make the gateway offer lanes and seem far away; return the content to upload."""
    env.gateway.settings.max_lanes = LANES
    for method in ("StartUpload", "GetTransferCapabilities", "GetUpload"):
        env.faults.always(method, Fault(delay=ROUND_TRIP_SECONDS))
    return env.content(SIZE)


def _once(env: SdkEnv, status: Status, *, at: Moment, after_bytes: int = 0) -> None:
    """Plan a fault of one upload, whichever of its streams comes first."""

    def over(_: object) -> None:
        env.faults.always("UploadFile", HONEST)

    env.faults.always("UploadFile", Fault(at=at, after_bytes=after_bytes, then=over, status=status))


def _lanes_of(env: SdkEnv) -> list[list[int]]:
    """Return, for each upload stream with metadata, its number of lanes; and the indexes of the other streams."""
    firsts = [call.request for call in env.book.begun("UploadFile")]
    numbers = [first.metadata.lanes for first in firsts if first.HasField("metadata")]
    indexes = sorted(first.lane.index for first in firsts if first.HasField("lane"))
    return [numbers, indexes]


@case(
    "sdk/lanes/several",
    profile="lanes",
    needs=("lanes",),
    clauses=("LAN-1", "LAN-2", "LAN-3", "LAN-5", "LAN-13", "LAN-11", "UPL-5"),
)
async def several(env: SdkEnv) -> None:
    """A large upload over a long way goes over several streams, whose messages are in turn."""
    content = _far(env)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="LAN-5")
    env.check("published", env.published("remote") == content, equals=True, clause="LAN-5")
    numbers, indexes = _lanes_of(env)
    env.check(
        "number",
        numbers,
        satisfies=("one number of 2 to 4", lambda n: len(n) == 1 and 2 <= n[0] <= LANES),
        clause="LAN-2",
    )
    env.check("indexes", indexes, equals=list(range(1, (numbers or [0])[0])), clause="LAN-3")
    streams = env.book.of("UploadFile")
    connections = len({call.peer for call in streams})
    env.check("connections", connections, equals=len(streams), clause="LAN-11")
    env.well_formed("LAN-1", "LAN-3", "LAN-13", "UPL-5")


@case("sdk/lanes/not-offered", profile="lanes", needs=("lanes",), clauses=("CAP-10",))
async def not_offered(env: SdkEnv) -> None:
    """Without the option an upload has one stream, however far the gateway is."""
    content = _far(env)
    env.gateway.settings.max_lanes = 0
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="CAP-10")
    env.check("streams", len(env.book.of("UploadFile")), equals=1, clause="CAP-10")
    env.well_formed("CAP-10")


@case(
    "sdk/lanes/fewer-free",
    profile="lanes",
    needs=("lanes",),
    clauses=("LAN-10", "LAN-9", "LAN-3"),
    depends_on=("sdk/lanes/several",),
)
async def fewer_free(env: SdkEnv) -> None:
    """Fewer streams are free: the SDK takes the upload over before it opens streams again, and no more than are free."""
    content = _far(env)
    _once(env, refusal("TOO_MANY_LANES", metadata={"lanes": "2"}), at="metadata")
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="LAN-9")
    env.check("published", env.published("remote") == content, equals=True, clause="LAN-9")
    numbers, _ = _lanes_of(env)
    env.check(
        "numbers", numbers[1:], satisfies=("at most 2", lambda n: bool(n) and max(n) <= 2), clause="LAN-9"
    )
    starts = [call.request.metadata.upload_id for call in env.book.of("StartUpload")]
    env.check(
        "taken-over",
        starts[1:],
        satisfies=("StartUpload with the upload's id", any),
        clause="LAN-10",
    )
    epochs = [
        call.request.metadata.epoch
        for call in env.book.begun("UploadFile")
        if call.request.HasField("metadata")
    ]
    env.check(
        "epochs",
        epochs,
        satisfies=("another for each attempt", lambda seen: len(set(seen)) == len(seen)),
        clause="LAN-10",
    )
    env.well_formed("LAN-3")


@case(
    "sdk/lanes/lost-lane",
    profile="lanes",
    needs=("lanes",),
    clauses=("LAN-8", "RSM-4", "LAN-3"),
    depends_on=("sdk/lanes/several",),
)
async def lost_lane(env: SdkEnv) -> None:
    """A stream of several breaks: the upload goes on at the staged bytes, over new streams."""
    content = _far(env)
    _once(env, refusal("LANE_LOST"), at="content", after_bytes=4 * MIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="LAN-8")
    env.check("published", env.published("remote") == content, equals=True, clause="LAN-8")
    env.well_formed("RSM-4", "LAN-3")
