"""The arms: every method has one or a reason, and each costs what its line says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.data import load, numbered_batches
from lowland.optim import METHODS
from lowland.studies.methods.arms import ARMS, OMITTED, PLAIN, SAM, UNIT, chosen_arms
from lowland.train import Recipe
from lowland.train.plan import make_plan
from lowland.train.trainer import Trainer

APART = {
    "gradient-norm": "its backward goes through a backward: three passes by products",
    "sl-sam": "its backwards stop below the lowest active tensor",
}
"""Arms whose passes are not whole forwards and backwards, which this count knows alone."""


def test_every_method_has_an_arm_or_a_reason() -> None:
    with_arms = {arm.method for arm in ARMS.values()} - {"none"}
    assert with_arms | (set(OMITTED) & set(METHODS)) == set(METHODS)
    assert not with_arms & set(OMITTED)
    assert all(OMITTED.values())


def test_every_scale_says_where_it_comes_from() -> None:
    for arm in ARMS.values():
        assert arm.why, arm.name
        assert arm.rhos or arm.scale > 0 or arm.name == PLAIN, arm.name


def test_radii_are_the_same_grid_in_each_scale() -> None:
    assert ARMS[SAM].radii([0.1, 0.05]) == (0.05, 0.1)
    assert ARMS["asam"].radii([0.05, 0.1]) == (0.25, 0.5)
    assert ARMS["awp"].radii([UNIT]) == (0.01,)
    assert ARMS[PLAIN].radii([0.05, 0.1]) == (0.0,)
    for name in ("lightsam I", "lightsam II", "lightsam III"):
        radii = ARMS[name].radii([0.1])
        assert radii[-1] / radii[0] == pytest.approx(100)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [(PLAIN, 20), (SAM, 10), ("looksam", 17), ("esam", 11), ("n-sam", 4), ("frob-sam", 7)],
)
def test_epochs_at_equal_compute(name: str, epochs: int) -> None:
    arm = ARMS[name]
    assert arm.epochs_at_equal_compute(10) == epochs
    assert abs(epochs * arm.passes - 20) <= arm.passes / 2
    assert arm.epochs_at_equal_compute(1) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARMS if name not in APART])
def test_a_step_has_the_passes_that_its_arm_says(name: str) -> None:
    """Forwards and backwards are counted where they happen, over a period of LookSAM's steps."""
    arm, size, steps = ARMS[name], 12, 5
    recipe = Recipe(
        method=arm.method,
        rho=0.0 if name == PLAIN else 0.1,
        method_options=arm.options,  # type: ignore[arg-type]
        width=2,
        limit=60,
        batch_size=size,
        device="cpu",
        lr=0.01,
    )
    trainer = Trainer(make_plan(recipe))
    counted = {"forward": 0, "backward": 0}

    def back(gradient: Tensor) -> None:
        counted["backward"] += len(gradient)

    def forth(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        counted["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(back)

    # the features: what the head alone does a second time is not a pass
    trainer.module.get_submodule("pool").register_forward_hook(forth)
    for step, batch in enumerate(numbered_batches(load("digits", limit=60).train, batch_size=size)):
        trainer.update(step, *batch)
    passes = (counted["forward"] + 2 * counted["backward"]) / (3 * size * steps)
    assert passes == pytest.approx(arm.passes, rel=1e-9), counted


def test_some_methods_have_plain_training_and_sam_beside_them() -> None:
    assert [arm.name for arm in chosen_arms("looksam")] == [PLAIN, SAM, "looksam"]
    assert [arm.name for arm in chosen_arms("sam")] == [PLAIN, SAM]
    names = [arm.name for arm in chosen_arms("sam-on, m-sam")]
    assert names == [
        PLAIN, SAM, "sam-on", "sam-on complement", "m-sam m=32", "m-sam m=16", "m-sam m=8",
        "m-sam m=4",
    ]  # fmt: skip
    assert [arm.name for arm in chosen_arms("all")] == list(ARMS)
    with pytest.raises(InputError, match="unknown method 'looksm': did you mean 'looksam'"):
        chosen_arms("looksm")
    with pytest.raises(InputError, match="fedsam has no arm: a round over clients"):
        chosen_arms("sam,fedsam")
