"""What is read off a ResNet, against counts made here; and a smoke run to its verdicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from made_trained import made_trained
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.measure import feature_rank
from lowland.studies.relu import STUDY, columns
from lowland.studies.relu.readings import read, subset
from lowland.studies.results import assemble, read_runs
from lowland.studies.runs import Runs
from lowland.studies.study import Plan, assess
from lowland.train import Reading, read_history, run_any
from lowland.train.reading import Trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return made_trained(tmp_path_factory.mktemp("run"), model="resnet18", width=2)


@torch.no_grad()
def outputs(trained: Trained, module: nn.Module) -> dict[str, Tensor]:
    """Every superblock on all training images, as (n, channels, positions)."""
    x, found = trained.data.normalise(trained.data.train.images), {}
    for name, child in module.named_children():
        x = child(x)
        if name.startswith("block"):
            found[name] = x.flatten(2)
    return found


def test_active_units_of_all_training_images(trained: Trained) -> None:
    row = read(trained, draws=1)
    n = len(trained.data.train)
    assert n > trained.recipe.rank_examples
    fresh = outputs(trained, trained.untrained())
    for block, values in outputs(trained, trained.module).items():
        above = values > 0.05 * values.max()
        often = above.flatten(1).sum(0)
        for share in columns.EXAMPLES:
            expected = (often > math.floor(share * n + 1e-9)).double().mean()
            assert row[columns.active(block, share)] == pytest.approx(float(expected))
        assert row[columns.values(block)] == pytest.approx(float(above.double().mean()))
        channels = above.any(2).any(0).double().mean()
        assert row[columns.channels(block)] == pytest.approx(float(channels))
        start = (fresh[block] > 0.05 * fresh[block].max()).flatten(1).any(0).double().mean()
        assert row[columns.active(block, of="start")] == pytest.approx(float(start))
    assert not any(name.startswith("curve/") for name in row)  # the run measured none


def test_ranks_of_random_subsets_in_plain_training_alone(trained: Trained, tmp_path: Path) -> None:
    row = read(trained, draws=3)
    n = trained.recipe.rank_examples
    for block in ("block3", "block4"):
        features = outputs(trained, trained.module)[block][:n].flatten(1)
        for share in columns.KEPT:
            ranks = [feature_rank(subset(features, share, 0, i)).value for i in range(3)]
            assert row[columns.kept(block, share)] == pytest.approx(sum(ranks) / 3)
    assert columns.kept("block2", 0.5) not in row
    sharp = made_trained(tmp_path, model="resnet18", width=2, rho=0.1)
    assert not any("rank-kept" in name for name in read(sharp, draws=1))


def test_subsets_are_drawn_without_replacement_and_differ() -> None:
    features = torch.arange(40.0).expand(2, 40)
    one, again, other = (subset(features, 0.25, 0, draw)[0] for draw in (0, 0, 1))
    assert len(set(one.tolist())) == 10
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert subset(features, 0.001, 0, 0).shape == (2, 1)


def planned(**choice: Any) -> Plan:
    chosen = STUDY.choose(**choice)
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def reading(plan: Plan) -> Reading:
    found = plan.runs[0].recipe
    assert isinstance(found, Reading)
    return found


def test_default_and_paper_size() -> None:
    plan = planned()
    assert len(plan.runs) == 25
    recipe = reading(plan).recipe
    assert (recipe.model, recipe.data, recipe.rank_block) == ("resnet18", "digits", "block*")
    plan = planned(size="paper")
    recipe = reading(plan).recipe
    assert sorted({p.recipe.rho for p in plan.runs}) == [0.0, 0.1, 0.2, 0.4, 0.6]
    assert (recipe.width, recipe.epochs, recipe.batch_size, recipe.lr) == (64, 200, 256, 0.05)
    assert (recipe.momentum, recipe.weight_decay, recipe.schedule) == (0.0, 0.0, "constant")


@pytest.mark.parametrize(("epochs", "evaluations"), [(20, 10), (7, 7), (11, 1), (9, 9)])
def test_instruments_measure_when_evaluations_do(epochs: int, evaluations: int) -> None:
    recipe = reading(planned(overrides=(f"epochs={epochs}",))).recipe
    steps = 16 * epochs  # 1,077 images in batches of 64
    assert recipe.evaluations == evaluations
    assert recipe.measure_every * evaluations == steps


def test_what_the_study_sets_itself_is_refused() -> None:
    for setting in ("model=mlp", "measures=rank", "rank_block=block2"):
        with pytest.raises(InputError, match="the study sets"):
            planned(overrides=(setting,))


@pytest.mark.slow
def test_smoke_from_training_to_verdicts(tmp_path: Path) -> None:
    plan = planned(size="smoke", seeds=1)
    runs = [run for p in plan.runs for run in read_runs(p, run_any(p.recipe, tmp_path))]
    for claim in plan.claims:
        finding, verdict = assess(claim, Runs(runs), family=len(plan.claims))
        if "matched" not in claim.name:
            assert verdict.n == 1, (claim.name, verdict.reason)
            assert all(map(math.isfinite, finding.effects.values())), claim.name
    # the last measurement during training is the one at the end, where all images are measured
    for run in runs:
        evaluations = len(read_history(tmp_path / run.name / "history.parquet"))
        assert evaluations == 3
        for block in ("block1", "block4"):
            last = run.final(columns.curve(block, evaluations - 1))
            assert last == pytest.approx(run.final(columns.active(block)))
    results = assemble(STUDY, plan, runs, keys={}, asked={}, failures=[], provenance={})
    assert len(results["drawings"]) == 4
    assert len(results["tables"]) == 1
