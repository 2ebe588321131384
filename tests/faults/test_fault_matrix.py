"""A few cells of the fault matrix; `make fault-matrix` tries all."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from fault_cells import (
    DOWNLOAD_POINTS,
    UPLOAD_POINTS,
    FaultScene,
    Point,
    Victim,
    fault_scene,
)
from tree_fault_cells import TREE_DOWNLOAD_POINTS, TREE_UPLOAD_POINTS, download_tree, upload_tree

POINTS = {point.name: point for point in UPLOAD_POINTS}
DOWNLOAD = {point.name: point for point in DOWNLOAD_POINTS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[FaultScene, None]:
    """One stack for all cells."""
    async with fault_scene(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("victim", "point"),
    [
        (Victim.CLIENT, POINTS["middle"]),
        (Victim.GATEWAY, POINTS["first chunk"]),
        (Victim.SUPERVISOR, POINTS["verifying"]),
        (Victim.SUPERVISOR, POINTS["after rename"]),
    ],
    ids=lambda value: value.name.replace(" ", "-") if isinstance(value, Point) else str(value),
)
async def test_an_upload_survives(scene: FaultScene, victim: Victim, point: Point) -> None:
    """CRS-3, CRS-5, CRS-7, RSM-3, RSM-4, RSM-7, UPL-8: whole, known, and published exactly once."""
    outcome = await scene.upload(victim, point)
    assert (outcome.state == "published") == point.renamed
    assert outcome.resumed_from > 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("victim", "point"),
    [(Victim.GATEWAY, DOWNLOAD["middle"]), (Victim.SUPERVISOR, DOWNLOAD["before trailer"])],
    ids=lambda value: value.name.replace(" ", "-") if isinstance(value, Point) else str(value),
)
async def test_a_download_survives(scene: FaultScene, victim: Victim, point: Point) -> None:
    """CRS-11, DWN-2, DWN-6: it goes on behind the last verified byte, and is shown exactly once."""
    outcome = await scene.download(victim, point)
    assert outcome.resumed_from > 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("victim", "point"),
    [
        (victim, point)
        for victim in Victim
        for point in TREE_UPLOAD_POINTS
        if point.name in {"middle", "ending"}
    ],
    ids=lambda value: value.name.replace(" ", "-") if isinstance(value, Point) else str(value),
)
async def test_a_tree_arrives(scene: FaultScene, victim: Victim, point: Point) -> None:
    """TRE-45, TRE-54, TRE-55: every file is old or new, and what had arrived is not sent again."""
    outcome = await upload_tree(scene, victim, point)
    assert outcome.arrived > 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("victim", Victim)
async def test_a_tree_comes_back(scene: FaultScene, victim: Victim) -> None:
    """TRE-45, TRE-54, TRE-55: the same for a download."""
    (point,) = (point for point in TREE_DOWNLOAD_POINTS if point.name == "middle")
    outcome = await download_tree(scene, victim, point)
    assert outcome.sent > 0
