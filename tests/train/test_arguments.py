"""What methods get from the run, and that each of them trains, stops and goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.data import load, numbered_batches
from lowland.models import create
from lowland.optim import METHODS
from lowland.optim.balanced import LabelWeights
from lowland.studies import Choice, get
from lowland.train import Progress, Recipe, check_recipe, read_history, read_record, run
from lowland.train.arguments import Clock, build_optimizer
from lowland.train.plan import make_plan
from lowland.train.stepped import FEDERATED
from lowland.train.trainer import Trainer

Make = Callable[..., Recipe]
TRAINED = [name for name in METHODS if name not in FEDERATED]
NORMS = {"model": "preact-resnet-small", "width": 2, "rank_block": "block3"}
SPECIAL: dict[str, dict[str, Any]] = {
    "sam-on": NORMS,
    "adasam": {"lr": 0.001},
    "lightsam": {"lr": 0.001},
    "looksam": {"method_options": {"k": 4}},
    "n-sam": {"method_options": {"ascent_batches": 2}},
    "saf": {"method_options": {"start_epoch": 0, "back": 1}, "rho": 1.0},
    "logits-sam": {"rho": 0.5},
    "mesa": {"method_options": {"decay": 0.5}, "rho": 1.0},
}


def recipe_of(tiny: Make, method: str, **changes: Any) -> Recipe:
    return tiny(**{"method": method, "rho": 0.05, **SPECIAL.get(method, {}), **changes})


def optimizer_of(recipe: Recipe, clock: Clock | None = None) -> Any:
    plan = make_plan(recipe)
    model = create(
        recipe.model, shape=plan.data.shape, classes=plan.data.classes, width=recipe.width
    )
    return build_optimizer(plan, model, clock)


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_and_goes_on_with_the_same_bits(
    tiny: Make, tmp_path: Path, result: Any, plain: dict[str, Any], method: str
) -> None:
    """Stopped after half of the updates, with everything that it remembers on disk."""
    recipe = recipe_of(tiny, method)
    whole = run(recipe, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(recipe, tmp_path / "stopped", on_progress=stop)
    assert result(run(recipe, tmp_path / "stopped")) == result(whole)
    assert len(read_record(tmp_path / "stopped" / whole.name)["sessions"]) == 2
    rows = read_history(whole / "history.parquet")
    assert rows[-1]["skipped"] == rows[-1]["diverged"] == 0
    assert rows[-1]["train/loss"] != plain[recipe.model]


@pytest.fixture(scope="module")
def plain(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train loss after plain training, by network."""
    root = tmp_path_factory.mktemp("plain")
    found = {}
    for shape in ({}, NORMS):
        recipe = tiny(method="none", rho=0.0, **shape)
        found[recipe.model] = read_history(run(recipe, root) / "history.parquet")[-1]["train/loss"]
    return found


@pytest.mark.parametrize("method", TRAINED)
def test_the_low_rank_study_takes_every_method(method: str) -> None:
    plan = get("low-rank").plan(Choice(size="smoke", method=method, seeds=1))
    main = [planned.recipe for planned in plan.runs if planned.group == "main"]
    assert [recipe.rho for recipe in main] == [0.0, 0.2]
    check_recipe(main[-1])
    alone = METHODS[method].kind == "base optimizer"
    assert main[0].method == (method if alone else "none")
    said = any("the base optimizer that" in note for note in plan.notes)
    assert said == alone


@pytest.mark.parametrize("method", FEDERATED)
def test_rounds_over_clients_are_no_recipe(method: str) -> None:
    with pytest.raises(InputError, match=f"{method} trains in rounds over clients"):
        get("low-rank").plan(Choice(size="smoke", method=method))


def test_label_weights_are_those_of_the_training_images_with_mean_one(tiny: Make) -> None:
    optimizer = optimizer_of(tiny(method="balanced-sam"))
    (term,) = optimizer._engine.loss_terms
    assert isinstance(term, LabelWeights)
    labels = load("digits", limit=60).train.labels
    counts = torch.bincount(labels).float()
    assert term.weights[labels].mean().item() == pytest.approx(1.0)
    assert term.weights * counts.sqrt() == pytest.approx(float(term.weights[0] * counts[0] ** 0.5))


def test_base_width_is_half_the_width_or_as_told(tiny: Make) -> None:
    """ε of the hidden layer against the first: its factor is 1, that of the first is k = n/n₀."""

    def first_factor(recipe: Recipe) -> float:
        optimizer = optimizer_of(recipe)
        factors = optimizer._engine.perturbation.metric.factors
        return float(factors[next(iter(factors))])

    assert first_factor(tiny(method="mup2")) == pytest.approx(2**0.5)
    told = tiny(method="mup2", method_options={"base_width": 2})
    assert first_factor(told) == pytest.approx(4**0.5)
    wide = tiny(method="mup2", width=None)  # the default, 128
    assert first_factor(wide) == pytest.approx(2**0.5)


def test_ascent_data_follow_seed_and_step_alone(tiny: Make) -> None:
    recipe = tiny(method="n-sam", method_options={"ascent_batches": 2})
    clock = Clock()
    draw = optimizer_of(recipe, clock)._engine.plan.data
    again = optimizer_of(recipe, clock)._engine.plan.data
    other = optimizer_of(recipe_of(tiny, "n-sam", seed=1), clock)._engine.plan.data
    ((images, labels, rows),) = draw()
    data = load("digits", limit=60)
    assert images.shape == (40, 1, 8, 8)
    assert len(set(rows.tolist())) == 40
    assert torch.equal(labels, data.train.labels[rows])
    assert torch.equal(images, again()[0][0])
    assert not torch.equal(rows, other()[0][2])
    clock.step = 1
    assert not torch.equal(rows, draw()[0][2])
    clock.step = 0
    assert torch.equal(rows, draw()[0][2])
    still = optimizer_of(tiny(method="n-sam", augment=False))._engine.plan.data
    ((images, _, rows),) = still()
    assert sorted(rows.tolist()) == list(range(60))
    assert torch.equal(images, data.normalise(data.train.images[rows]))


def test_updates_tell_their_number(tiny: Make) -> None:
    """What n-SAM looks at is drawn anew in every update, also after a resumption."""
    trainer = Trainer(make_plan(recipe_of(tiny, "n-sam")))
    draw = trainer.optimizer._engine.plan.data
    seen = []
    batch = next(numbered_batches(load("digits", limit=60).train, batch_size=20))
    for step in (0, 5):
        trainer.update(step, *batch)
        seen.append(draw()[0][2].tolist())
    assert seen[0] != seen[1]
    clock = Clock()
    clock.step = 5
    again = optimizer_of(recipe_of(tiny, "n-sam"), clock)._engine.plan.data
    assert again()[0][2].tolist() == seen[1]


def test_draws_of_a_method_differ_between_seeds_of_the_run(tiny: Make) -> None:
    seeds = [optimizer_of(tiny(method="esam", seed=seed))._engine.plan.seed for seed in (0, 1)]
    assert seeds == [derived_seed(0, "method"), derived_seed(1, "method")]
    told = tiny(method="esam", method_options={"seed": 5})
    assert optimizer_of(told)._engine.plan.seed == 5


def test_m_is_a_quarter_of_the_batch_unless_told(tiny: Make) -> None:
    assert optimizer_of(tiny(method="m-sam")).param_groups[0]["m"] == 5
    assert optimizer_of(tiny(method="m-sam", batch_size=3)).param_groups[0]["m"] == 1
    told = tiny(method="m-sam", method_options={"m": 4})
    assert optimizer_of(told).param_groups[0]["m"] == 4


def test_saf_counts_the_epochs_of_its_run(tiny: Make) -> None:
    plan = optimizer_of(tiny(method="saf"))._engine.plan
    assert (plan.examples, plan.steps_per_epoch) == (60, 3)

    def start(**changes: Any) -> int:
        return int(optimizer_of(tiny(method="saf", **changes)).param_groups[0]["start"])

    assert [start(epochs=epochs) for epochs in (2, 8, 20, 200)] == [0, 6, 15, 15]
    assert start(method_options={"start_epoch": 1}) == 3
    assert start(method_options={"start": 2}) == 2


def test_mesa_averages_over_the_same_share_of_any_run(tiny: Make) -> None:
    def decay(epochs: int) -> float:
        return float(optimizer_of(tiny(method="mesa", epochs=epochs)).param_groups[0]["decay"])

    assert decay(90 * 1251 // 3) == pytest.approx(0.9998)  # three updates in an epoch
    assert decay(100) == pytest.approx(1 - 90 * 1251 / (5000 * 300))
    assert decay(2) == 0.0


@pytest.mark.parametrize(("method", "forwards"), [("last-layer-sam", 1), ("sam", 2)])
def test_the_last_layer_alone_is_run_a_second_time(tiny: Make, method: str, forwards: int) -> None:
    trainer = Trainer(make_plan(tiny(method=method)))
    counted: list[int] = []
    trainer.module.block1.register_forward_hook(lambda *_: counted.append(1))
    trainer.update(0, *next(numbered_batches(load("digits", limit=60).train, batch_size=20)))
    assert len(counted) == forwards


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mup2", {"base_width": 0}, "base_width must be 1 or more, not 0"),
        ("mup2", {"base_width": 2.5}, "base_width must be 1 or more, not 2.5"),
        ("n-sam", {"ascent_batches": 0}, "ascent_batches must be 1 or more, not 0"),
        ("n-sam", {"ascent_batches": "all"}, "ascent_batches must be 1 or more, not 'all'"),
        ("saf", {"start_epoch": -1}, "start_epoch must be 0 or more, not -1"),
        ("sam", {"base_width": 4}, "method_options do not fit method sam over sgd"),
        ("adasam", {"base_width": 4}, "do not fit method adasam over its own base optimizer"),
        ("sam-on", {}, "normalization"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tiny: Make, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_recipe(tiny(method=method, method_options=options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("none", "sgd"),
        ("asam", "asam over sgd"),
        ("adasam", "adasam over its own base optimizer; base and momentum are not used"),
    ],
)
def test_the_record_says_what_steps(tiny: Make, method: str, words: str) -> None:
    recipe = tiny(method=method, rho=0.0)
    assert make_plan(recipe).record()["optimizer"] == words


def test_a_method_with_a_base_of_its_own_does_not_look_at_momentum(tiny: Make) -> None:
    optimizer = optimizer_of(tiny(method="adasam", momentum=0.9, weight_decay=0.01))
    assert type(optimizer.base_optimizer).__name__ == "UncorrectedAdam"
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert "momentum" not in optimizer.param_groups[0]
