"""The grid of the study, its examples and its small networks."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from lowland import InputError
from lowland.data import load
from lowland.measure import max_eigenvalue
from lowland.studies.balance import STUDY, columns
from lowland.studies.balance.columns import REDUNDANT
from lowland.studies.balance.evaluation import sharpness, worst_groups
from lowland.studies.balance.examples import EASY, HARD, annotated
from lowland.studies.balance.experiment import balanced_validation, log_steps, runs
from lowland.studies.balance.names import with_settings
from lowland.studies.balance.networks import NETWORKS, initialised
from lowland.studies.balance.plan import changed
from lowland.studies.balance.probing import Probed, dfr_error, probing_errors
from lowland.studies.study import Plan
from lowland.train import Experiment

DATA = "digit-dominoes:correlation=0.95"


def planned(**choice: object) -> Plan:
    chosen = STUDY.choose(**choice)  # type: ignore[arg-type]
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def experiments(plan: Plan) -> list[tuple[str, int, dict[str, object]]]:
    found = []
    for run in plan.runs:
        assert isinstance(run.recipe, Experiment)
        run.recipe.check()
        found.append((run.group, run.recipe.seed, dict(run.recipe.arguments)))
    return found


def test_every_group_has_every_seed_once_at_every_rho() -> None:
    seen: dict[str, list[int]] = {}
    for group, seed, settings in experiments(planned()):
        seen.setdefault(group, []).extend(range(seed, seed + settings["count"]))  # type: ignore[operator]
        radii = (0.0,) if "alone" in group else (0.0, 0.02, 0.05, 0.1, 0.2)
        assert settings["radii"] == radii
        assert settings["dfr"] == group.endswith(REDUNDANT)
    assert len(seen) == 8
    assert all(sorted(seeds) == list(range(12)) for seeds in seen.values())
    assert {seed for _, seed, _ in experiments(planned(seed=1000, seeds=3))} == {1000, 1002}


def test_settings_are_correlations_of_the_data_that_were_chosen() -> None:
    found = experiments(planned(size="smoke", data="digit-dominoes:hard=3-8", rhos=(0.3,)))
    data = {group: settings["data"] for group, _, settings in found}
    assert data["mlp, redundant"] == "digit-dominoes:hard=3-8,correlation=1"
    assert data["cnn, spurious 0.99"] == "digit-dominoes:hard=3-8,correlation=0.99"
    assert data["mlp, hard alone"] == "digit-dominoes:hard=3-8,correlation=1,easy=none"
    balanced = {group: settings["balanced"] for group, _, settings in found}
    assert balanced["mlp, hard alone"] == "digit-dominoes:hard=3-8,easy=none,correlation=0.5"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"data": DATA}, "the study sets correlation itself"),
        ({"data": "digit-dominoes:easy=none"}, "the study sets easy itself"),
        ({"method": "asam"}, "trained with sam, not with asam"),
        ({"overrides": ("epoch=2",)}, "unknown setting of small networks 'epoch'"),
        ({"overrides": ("epochs=2.5",)}, "give a whole number, as epochs=50"),
        ({"overrides": ("epochs=0",)}, "give 1 or more"),
        ({"overrides": ("lr=-1",)}, "give 0 or more"),
        ({"overrides": ("lr=nan",)}, "lr must be finite"),
        ({"data": "digits"}, "not annotated with a hard and a simple feature"),
    ],
)
def test_what_cannot_be_is_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**choice)


def test_overrides_keep_their_kind() -> None:
    assert changed({"lr": 0.1, "epochs": 3}, ("lr=1", " epochs = 4 ")) == {"lr": 1.0, "epochs": 4}
    assert with_settings("digit-dominoes", easy="none") == "digit-dominoes:easy=none"


def test_other_annotated_data_are_trained_by_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dominoes of digits under another name stand for data that were found."""
    module = sys.modules[STUDY.plan.__module__]
    monkeypatch.setattr(module, "DATA", "something-else")
    plan = planned(size="smoke", data=DATA)
    assert {run.group for run in plan.runs} == {"resnet, as given"}
    names = [claim.name for claim in plan.claims]
    assert "resnet-worst-group-as-given" in names
    assert [run.recipe.rho for run in plan.runs] == [0.0, 0.1, 0.0, 0.1]
    with pytest.raises(InputError, match="the study sets labels itself"):
        planned(size="smoke", data=DATA, overrides=("labels=0,1",))


def test_examples_have_both_features_independent_where_probes_are_fitted() -> None:
    found = annotated(load(DATA))
    for part in (found.probing, found.test):
        assert len(set(part.groups.bincount().tolist())) == 1
        assert torch.equal(part.notes[HARD], part.y)
    train = found.train
    agree = (train.notes[HARD] == train.notes[EASY]).double().mean().item()
    assert agree == pytest.approx(0.95, abs=0.002)
    # pixels within an image are as many, so that the mean over the split is that over pixels
    assert train.x.mean().item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(InputError, match="digits is not annotated"):
        annotated(load("digits"))


def test_balanced_validation_is_seen_as_training_is() -> None:
    """Normalised by the statistics of what is trained on, not by its own."""
    images, other = load(DATA), load("digit-dominoes:correlation=0.5")
    found = balanced_validation("digit-dominoes:correlation=0.5", images)
    assert torch.equal(found.x, images.normalise(other.validation.images))
    assert not torch.equal(found.x, other.normalise(other.validation.images))
    assert len(set(found.groups.bincount().tolist())) <= 2, "equally often, up to odd numbers"


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_features_that_their_head_reads(name: str) -> None:
    net = initialised(lambda: NETWORKS[name]((1, 16, 8), 2, 16), 3)
    x = torch.randn(5, 1, 16, 8)
    assert net.features(x).shape == (5, 16)
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    assert not list(net.buffers())
    again = initialised(lambda: NETWORKS[name]((1, 16, 8), 2, 16), 3)
    assert torch.equal(again.head.weight, net.head.weight)


def test_times_of_evaluations() -> None:
    assert log_steps(390, 8)[-3:] == [105, 202, 390]
    assert log_steps(3, 8) == [0, 1, 2, 3]
    assert log_steps(5, 1) == [0, 5]


def test_worst_groups_of_many_networks() -> None:
    wrong = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
    assert worst_groups(wrong, torch.tensor([0, 0, 1, 1])).tolist() == [0.5, 1.0]


def test_sharpness_is_that_of_the_instrument() -> None:
    part = annotated(load(DATA)).train
    net = initialised(lambda: NETWORKS["mlp"]((1, 16, 8), 2, 8), 0)
    batches = [(part.x[:512], part.y[:512])]
    expected = max_eigenvalue(net, nn.functional.cross_entropy, batches).value
    assert sharpness(net, part) == pytest.approx(expected, rel=1e-2)


def test_probes_find_a_feature_that_is_there_and_not_one_that_is_not() -> None:
    draws = torch.Generator().manual_seed(0)
    there = torch.randint(0, 2, (400,), generator=draws)
    absent = torch.randint(0, 2, (400,), generator=draws)
    x = torch.cat([there[:, None] * 2.0 - 1, torch.randn(400, 3, generator=draws)], 1)
    notes = {HARD: there, EASY: absent}
    part = Probed(x, notes, there * 2 + absent)
    assert probing_errors(HARD, part, part, part) == [0.0, 0.0]
    (error,) = probing_errors(EASY, part, part)
    assert 0.35 < error < 0.55
    assert dfr_error(HARD, part, part) == 0.0


@pytest.mark.parametrize("network", NETWORKS)
def test_rows_of_an_experiment(network: str) -> None:
    rows = list(
        runs(
            seed=7,
            rho=0.0,
            count=1,
            radii=[0.0, 0.1],
            data="digit-dominoes:correlation=1",
            balanced="digit-dominoes:correlation=0.5",
            network=network,
            width=8,
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            epochs=1,
            batch_size=256,
            evaluations=2,
            dfr=False,
        )
    )
    assert [(row["rho"], row["seed"], row["step"]) for row in rows] == [
        (rho, 7, step) for step in (0, 1, 3) for rho in (0.0, 0.1)
    ]
    assert rows[0][columns.HARD] == rows[1][columns.HARD], "the same network before training"
    assert rows[0][columns.SHARE] == rows[0][columns.SHARE_HERE]
    assert rows[1][columns.SHARE] != rows[1][columns.SHARE_HERE]
    assert all(math.isfinite(v) for row in rows for v in row.values() if v is not None)
    assert columns.SHARPNESS in rows[-1]
    assert columns.SHARPNESS not in rows[0]
    assert columns.HARD_DFR not in rows[-1]


def test_a_network_that_was_stopped_has_no_numbers_from_then_on() -> None:
    """Its gradient at w + ε is not finite: it stays where it was, which is no trained network."""
    rows = list(
        runs(
            seed=7,
            rho=0.0,
            count=1,
            radii=[0.0, 1e38],
            data="digit-dominoes:correlation=1",
            balanced="digit-dominoes:correlation=0.5",
            network="mlp",
            width=4,
            lr=0.1,
            momentum=0.0,
            weight_decay=0.0,
            epochs=1,
            batch_size=256,
            evaluations=1,
            dfr=False,
        )
    )
    start, end = ({row["rho"]: row for row in rows if row["step"] == step} for step in (0, 3))
    assert math.isfinite(start[1e38][columns.HARD] or math.nan), "it was measured before that"
    assert math.isfinite(end[0.0][columns.HARD] or math.nan), "plain training went on"
    names = (columns.HARD, columns.VALIDATION, columns.TRAIN, columns.SHARPNESS)
    assert all(math.isnan(end[1e38][name] or 0.0) for name in names)
