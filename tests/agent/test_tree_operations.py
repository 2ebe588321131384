"""UploadTree and DownloadTree in the agent: the frames, the order, the ends (TRE-2 to TRE-19, FRM-34 to FRM-36)."""

from __future__ import annotations

from pathlib import Path

from agent.agent_harness import Sandbox
from agent.directory_calls import manifest, small_tree
from agent.tree_calls import download, upload
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent


async def test_a_tree_up_and_down(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """TRE-1, TRE-7: what arrives is what was sent, in both directions; the second time nothing is sent."""
    source = tmp_path / "source"
    small_tree(source)
    result, replies = await upload(agent, source)
    assert result.created
    assert result.durability == files_pb2.DURABILITY_FSYNC
    assert result.directory.path == "/tree"
    assert result.directory.type == files_pb2.FILE_TYPE_DIRECTORY
    assert [one for reply in replies for one in reply.problems] == []
    assert manifest(sandbox.root / "tree") == manifest(source)
    again, replies = await upload(agent, source)
    assert not again.created
    assert [one for reply in replies for one in (*reply.needed, *reply.changed)] == []
    await download(agent, tmp_path / "down")
    assert manifest(tmp_path / "down") == manifest(source)
    assert sandbox.leftovers() == []
