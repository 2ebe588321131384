"""What a caller is told of an error that comes out of a sandbox (FRM-33)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openshell_files_gateway.relay.agent_errors import OF_THE_GATEWAY, error_of
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Code, Reason

AGENT = Path(__file__).parents[2] / "supervisor_sim/src/openshell_supervisor_sim"


def told(reason: str, code: int) -> tuple[Reason, dict[str, str]]:
    error = error_of(file_relay_pb2.FileRelayError(reason=reason, message="said", code=code))
    return error.reason, dict(error.metadata)


def test_reasons_of_the_gateway_are_none_of_the_agent() -> None:
    """Nothing that the agent's source gives is refused."""
    given = {
        name
        for file in AGENT.rglob("*.py")
        for name in re.findall(r"\bReason\.([A-Z_]+)", file.read_text("utf-8"))
    }
    assert len(given) > 30
    assert not given & {reason.name for reason in OF_THE_GATEWAY}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason in OF_THE_GATEWAY])
def test_an_agent_does_not_speak_for_the_gateway(reason: Reason) -> None:
    """FRM-33: its words do not reach the caller either."""
    error = error_of(
        file_relay_pb2.FileRelayError(
            reason=reason.name, message="log in at evil.example", code=int(reason.row.code)
        )
    )
    assert error.reason is Reason.AGENT_PROTOCOL_ERROR
    assert "evil" not in error.message
    assert dict(error.metadata) == {"agent_reason": reason.name}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in OF_THE_GATEWAY])
def test_its_own_reasons_stay(reason: Reason) -> None:
    assert told(reason.name, int(reason.row.code)) == (reason, {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.NOT_FOUND, Reason.FILE_NOT_FOUND),
        (Code.UNAVAILABLE, Reason.RELAY_LOST),
        (Code.INTERNAL, Reason.INTERNAL),
        (Code.UNAUTHENTICATED, Reason.AGENT_PROTOCOL_ERROR),
        (0, Reason.AGENT_PROTOCOL_ERROR),
        (17, Reason.AGENT_PROTOCOL_ERROR),
    ],
)
def test_a_reason_that_is_not_known_yet(code: int, reason: Reason) -> None:
    """FRM-33: by its code."""
    assert told("NEW_REASON", code) == (reason, {"agent_reason": "NEW_REASON"})
