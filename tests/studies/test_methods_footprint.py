"""The memory of an arm: what is known of its state is what is measured."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lowland.models import create
from lowland.studies.methods.footprint import planned, rows
from lowland.train import Experiment, Recipe

RECIPE = Recipe(width=8, limit=60, batch_size=20, device="cpu", lr=0.01, momentum=0.9)


def measured(method: str, **changes: object) -> dict[str, float]:
    recipe = dataclasses.replace(RECIPE, method=method, **changes)  # type: ignore[arg-type]
    run = planned("x", recipe).recipe
    assert isinstance(run, Experiment)
    (row,) = rows(**run.arguments)
    return row


@pytest.mark.slow
def test_resting_bytes_are_weights_gradients_momentum_and_the_copies_of_the_method() -> None:
    model = create("preact-resnet-small", shape=(1, 8, 8), classes=10, width=8)
    weights = sum(4 * p.numel() for p in model.parameters())
    plain = measured("none", rho=0.0)
    assert plain["bytes/resting"] == pytest.approx(3 * weights, rel=0.02)  # and statistics
    # one copy of w; F-SAM a running mean beside it
    for method, copies in (("sam", 1), ("f-sam", 2), ("sam-on", 0)):
        found = measured(method, rho=0.1)
        more = found["bytes/resting"] - plain["bytes/resting"]
        assert more == pytest.approx(copies * weights, abs=0.04 * weights), method
        assert found["bytes/peak"] > plain["bytes/peak"]


def test_it_is_a_run_of_its_own_for_every_arm() -> None:
    run = planned("an arm", dataclasses.replace(RECIPE, rho=0.1, seed=3))
    assert run.group == "an arm, memory"
    assert isinstance(run.recipe, Experiment)
    run.recipe.check()
    assert (run.recipe.rho, run.recipe.seed, run.recipe.method) == (0.1, 3, "sam")
    settings = dict(run.recipe.settings)
    assert Recipe.from_mapping(json.loads(str(settings["recipe"]))).batch_size == 20
