"""Evaluations catch several blocks in one pass over the images; what they measure stays."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from lowland.train import Recipe
from lowland.train.history import Row
from lowland.train.plan import make_plan

MODULE = importlib.import_module("lowland.train.evaluate")
RECIPE = Recipe(
    width=4,
    limit=120,
    rank_block="block1,block3,pool",
    rank_blocks="block*",
    rank_examples=100,
    labels=(0, 1, 2, 3, 4),
    transfer_labels=(5, 6, 7, 8, 9),
)


def rows(together: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Row], list[tuple[str, int]]]:
    """The rows of a start, a middle and an end, and the blocks and images of every pass."""
    from lowland.train.classification import start

    passes: list[tuple[str, int]] = []
    real = MODULE.capture

    def counted(model: Any, batches: Any, blocks: str, **options: Any) -> Any:
        passes.append((blocks, len(batches.split)))
        return real(model, batches, blocks, **options)

    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "capture", counted)
        patched.setattr(MODULE, "TOGETHER", together)
        evaluator = start(make_plan(RECIPE)).evaluator
        return [evaluator(start=True), evaluator(), evaluator(end=True)], passes


def test_how_many_blocks_are_caught_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart, one_by_one = rows(1, monkeypatch)
    together, few = rows(2**30, monkeypatch)
    assert together == apart
    blocks = "block1,block3,pool"
    middle = few[few.index(("block1,block2,block3,pool", 2)) + 5 :][:4]
    assert middle[0] == (blocks, 100)  # ranks on train; then the neighbours of three splits
    assert {name for name, _ in middle} == {blocks}
    assert {name for name, n in one_by_one if n > 2} == {"block1", "block2", "block3", "pool"}
    assert len(few) < len(one_by_one) / 2


def test_as_many_blocks_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"block1": 4 * 8 * 8 * 4, "block3": 16 * 2 * 2 * 4, "pool": 16 * 4}  # bytes an image
    _, passes = rows(100 * (sizes["block1"] + sizes["block3"]), monkeypatch)
    assert ("block1,block3", 100) in passes
    assert ("pool", 100) in passes
    _, passes = rows(100 * sum(sizes.values()) - 1, monkeypatch)
    assert ("block1,block3,pool", 100) not in passes
    _, passes = rows(100 * sum(sizes.values()), monkeypatch)
    assert ("block1,block3,pool", 100) in passes


def test_one_block_needs_no_look_at_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(
        MODULE, "capture", lambda *_, **__: pytest.fail("two images were run for their sizes")
    )
    from lowland.train.classification import start

    recipe = RECIPE.changed(rank_block="block1", rank_blocks="block1")
    evaluator: Any = start(make_plan(recipe)).evaluator
    assert evaluator._groups(100, ["block1"]) == [["block1"]]
