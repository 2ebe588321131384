"""The sandbox-side file agent: a stream of bytes in, a stream of bytes out.

`FileAgent.serve` carries out one operation of the file protocol
(docs/protocol.md, FRM-1 ff.) on any `ByteStream`. The agent knows no gRPC and
no relay, so it also serves on a plain socket.

Layers: `core` has the rules and does no I/O; `filesystem`, `paths` and `store` adapt it to files;
`upload` and `download` carry transfers out on the disk, `directories` changes of names; `operations`
moves frames between a stream and the disk.
"""

from __future__ import annotations

from openshell_supervisor_sim.agent.file_agent import AgentStatistics, FileAgent
from openshell_supervisor_sim.agent.settings import AgentSettings
from openshell_supervisor_sim.agent.streams import ByteStream
from openshell_supervisor_sim.agent.trace_points import TracePoint

__all__ = ["AgentSettings", "AgentStatistics", "ByteStream", "FileAgent", "TracePoint"]
