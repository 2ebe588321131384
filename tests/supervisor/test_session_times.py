"""The times of a session: heartbeats, silence, and the delay between attempts."""

from __future__ import annotations

import pytest
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_supervisor_sim.session import heartbeats
from openshell_supervisor_sim.session.backoff import Backoff

#: Serialized SessionAccepted, as both generations write them; what was announced; the supervisor's two times.
ANNOUNCED = [
    pytest.param(b"", None, 5, 45, id="nothing"),
    pytest.param(b"\x10\x0f", 15, 15, 45, id="field 2: 15 s, as 0.0.x gateways"),
    pytest.param(b"\x10\x01", 1, 5, 15, id="field 2: 1 s"),
    pytest.param(b"\x10\x00", None, 5, 45, id="field 2: 0"),
    pytest.param(b"\xb2\x06\x02\x08\x1e", 30, 30, 90, id="field 102: 30 s"),
    pytest.param(b"\x10\x0f\xb2\x06\x02\x08\x1e", 30, 30, 90, id="both: the newer"),
    pytest.param(b"\x10\x0f\xb2\x06\x00", 15, 15, 45, id="both, the newer empty"),
    pytest.param(b"\x12\x01a", None, 5, 45, id="field 2 of another type"),
    pytest.param(b"\x10\xff\xff\xff\xff\x0f", 3600, 3600, 10800, id="field 2: 136 years"),
    pytest.param(
        b"\xb2\x06\x0a\x08" + b"\xff" * 8 + b"\x7f", 3600, 3600, 10800, id="field 102: 292 billion years"
    ),
    pytest.param(b"\xb2\x06\x0b\x08" + b"\xff" * 9 + b"\x01", None, 5, 45, id="field 102: -1 s"),
]


@pytest.mark.parametrize(("accepted", "announced", "sending", "silence"), ANNOUNCED)
def test_what_follows_from_what_was_announced(
    accepted: bytes, announced: float | None, sending: float, silence: float
) -> None:
    """RLY-28, RLY-29, RLY-30, RLY-31: upstream's sending floor of 5 s never shortens the silence; 15 s stand for nothing announced."""
    message = openshell_pb2.SessionAccepted.FromString(accepted)
    assert heartbeats.announced_seconds(message) == announced
    assert heartbeats.agreed(message) == heartbeats.Heartbeats(sending, silence)


def test_attempts_are_spread() -> None:
    """1 s doubling to 30 s, never the same for two supervisors, and from the start again after a session."""
    backoff = Backoff()
    for bound in (1, 2, 4, 8, 16, 30, 30):
        assert bound / 2 <= backoff.next_delay() <= bound
    backoff.reset()
    assert backoff.next_delay() <= 1
    assert len({Backoff().next_delay() for _ in range(20)}) > 1
