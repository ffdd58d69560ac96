"""The trainings of the study, and the plan that lays them out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_study import InProcess
from torch import nn
from torch.nn.functional import cross_entropy

from lowland import InputError, studies
from lowland.core.seeds import generator
from lowland.data import load
from lowland.measure import max_eigenvalue
from lowland.optim import SAM
from lowland.studies.methods.experiments.training import network
from lowland.studies.overparam import STUDY, largest_eigenvalues
from lowland.studies.overparam.arms import Arm
from lowland.studies.overparam.level import Crossing, losses
from lowland.studies.overparam.sizes import SIZES
from lowland.studies.overparam.sweep import Examples, noisy_labels, sweep
from lowland.studies.study import Plan
from lowland.train import Experiment
from lowland.train.schedule import learning_rate
from lowland.train.stack import Stack, train

SETTINGS: dict[str, Any] = {
    "rho": 0.0,
    "hidden": (5, 4),
    "noise": 0.2,
    "data": "digits",
    "held_out": 0.55,
    "limit": 96,
    "epochs": 4,
    "batch_size": 32,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "evaluations": 3,
}


def rows(**changes: Any) -> list[dict[str, Any]]:
    settings = {"seed": 7, "count": 2, "radii": [0.0, 0.1], **SETTINGS, **changes}
    return list(sweep(**settings))


def of(found: list[dict[str, Any]], rho: float, seed: int) -> list[dict[str, Any]]:
    return [row for row in found if (row["rho"], row["seed"]) == (rho, seed)]


def test_other_data_at_the_same_place_are_other_runs(tmp_path: Path) -> None:
    """A finished run of the old file must not be taken for one of the new file."""
    file, y = tmp_path / "x.npz", np.arange(900) % 10

    def planned(level: int) -> set[Experiment]:
        np.savez(file, x=np.full((900, 8, 8), level, np.uint8), y=y)
        recipes = [p.recipe for p in STUDY.plan(STUDY.choose(data=f"npz:{file}")).runs]
        return {recipe for recipe in recipes if isinstance(recipe, Experiment)}

    before = planned(1)
    assert before
    assert planned(1) == before
    assert not planned(2) & before
    with pytest.raises(InputError, match="has changed since the study began: start it again"):
        next(sweep(**next(iter(before)).arguments))


def test_noisy_labels_are_exactly_so_many_and_another_class() -> None:
    labels = torch.arange(500) % 10
    some, more = (noisy_labels(labels, share, 10, 3) for share in (0.2, 0.4))
    assert int((some != labels).sum()) == 100
    assert int((more != labels).sum()) == 200
    wrong = some != labels
    assert torch.equal(some[wrong], more[wrong]), "the wrong labels of 20% are among those of 40%"
    assert set(more[more != labels].tolist()) == set(range(10))
    assert torch.equal(noisy_labels(labels, 0.0, 10, 3), labels)
    other = noisy_labels(labels, 0.2, 10, 4)
    assert not torch.equal(other != labels, wrong), "which ones is drawn from the seed"
    with pytest.raises(InputError, match=r"label noise is a share between 0 and 1, not 1.5"):
        noisy_labels(labels, 1.5, 10, 3)


def test_a_run_does_not_depend_on_those_beside_it() -> None:
    together = rows(products=8, level=2.3)
    alone = rows(seed=8, count=1, radii=[0.0, 0.1], products=8, level=2.3)
    for mine, other in zip(of(together, 0.1, 8), of(alone, 0.1, 8), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
    assert [row["epoch"] for row in of(together, 0.1, 8)] == [0, 4 / 3, 8 / 3, 4]


def test_the_start_is_the_network_of_the_seed_on_its_own_labels() -> None:
    start = of(rows(), 0.1, 8)[0]
    examples = Examples.load("digits", held_out=0.55, limit=96, device="cpu")
    x, y = examples.train
    assert len(y) == 96
    net = network((64, 5, 4, 10), seed=8, activation=nn.ReLU)
    with torch.no_grad():
        loss = float(cross_entropy(net(x), noisy_labels(y, 0.2, 10, 8)))
        valid = (net(examples.validation[0]).argmax(1) != examples.validation[1]).double().mean()
    assert start["train/loss"] == pytest.approx(loss, rel=1e-5)
    assert start["validation/error"] == pytest.approx(float(valid))
    data = load("digits", held_out=0.55, limit=96)
    assert torch.equal(x, data.normalise(data.train.images).flatten(1))


def test_the_end_has_distances_and_eigenvalues() -> None:
    found = rows(products=8, level=2.3)
    plain, sam = of(found, 0.0, 7)[-1], of(found, 0.1, 7)[-1]
    assert plain["distance"] == 0
    assert sam["distance"] > 0
    assert sam["travelled"] == plain["travelled"] > 0
    assert sam["lambda_max"] > 0
    assert 0 < plain["level/epoch"] < 4
    assert "lambda_max" not in of(found, 0.1, 7)[0]
    without = of(rows(radii=[0.1]), 0.1, 7)[-1]
    assert not {"distance", "lambda_max", "level/lambda_max"} & set(without)
    never = of(rows(products=2, level=1e-9), 0.1, 7)[-1]
    assert "lambda_max" in never
    assert "level/lambda_max" not in never


def test_nothing_moved_has_travelled_nowhere_and_the_eigenvalue_of_the_start() -> None:
    end = of(rows(lr=0.0, products=20, level=10.0), 0.1, 7)[-1]
    assert (end["distance"], end["travelled"], end["level/epoch"]) == (0, 0, 0)
    x, y = Examples.load("digits", held_out=0.55, limit=96, device="cpu").train
    net = network((64, 5, 4, 10), seed=7, activation=nn.ReLU)
    exact = max_eigenvalue(net, cross_entropy, [(x, noisy_labels(y, 0.2, 10, 7))]).value
    assert end["lambda_max"] == pytest.approx(exact, rel=1e-3)
    assert end["level/lambda_max"] == pytest.approx(exact, rel=1e-3)


def by_the_optimizer(mask: str, seed: int, rho: float) -> tuple[list[float], float]:
    """Train losses at the evaluations of `rows`, and the distance travelled, of one network."""
    examples = Examples.load("digits", held_out=0.55, limit=96, device="cpu")
    x, labels = examples.train[0], noisy_labels(examples.train[1], 0.2, 10, seed)
    net = network((64, 5, 4, 10), seed=seed, activation=nn.ReLU)
    kernels = [p for p in net.parameters() if p.ndim > 1]
    kept = masks_by_hand(mask, net, kernels, x, labels, seed)
    with torch.no_grad():
        for p, m in zip(kernels, kept, strict=True):
            p.mul_(m)
            p.register_hook(lambda g, m=m: g * m)
    start = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    opt, found = SAM(net.parameters(), sgd, rho=rho), []
    for step in range(13):
        if step in (0, 4, 8, 12):
            found.append(cross_entropy(net(x), labels).item())
        if step == 12:
            break
        order = torch.randperm(96, generator=generator("cpu", seed, "order", step // 3))
        batch = order[32 * (step % 3) :][:32]
        for group in opt.param_groups:
            group["lr"] = learning_rate("cosine", 0.1, step=step, steps=12)

        def closure(batch: torch.Tensor = batch) -> torch.Tensor:
            opt.zero_grad()
            loss = cross_entropy(net(x[batch]), labels[batch])
            loss.backward()
            return loss

        opt.step(closure)
    end = nn.utils.parameters_to_vector(net.parameters()).detach()
    return found, float((end - start).norm())


def masks_by_hand(
    mask: str,
    net: nn.Module,
    kernels: list[nn.Parameter],
    x: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
) -> list[torch.Tensor]:
    """Half of every kernel at random, or the half of all with the largest |g·w| on a batch."""
    if not mask:
        return [torch.ones_like(p) for p in kernels]
    if mask == "random":
        names = [name for name, p in net.named_parameters() if p.ndim > 1]
        drawn = [
            torch.randperm(p.numel(), generator=generator("cpu", seed, "mask", name))
            for name, p in zip(names, kernels, strict=True)
        ]
        return [
            torch.isin(torch.arange(p.numel()), order[: p.numel() // 2]).view_as(p).float()
            for p, order in zip(kernels, drawn, strict=True)
        ]
    batch = torch.randperm(len(x), generator=generator("cpu", seed, "snip"))[:32]
    gradients = torch.autograd.grad(cross_entropy(net(x[batch]), labels[batch]), kernels)
    scores = [(g * p).abs() for g, p in zip(gradients, kernels, strict=True)]
    flat = torch.cat([score.flatten() for score in scores])
    least = flat.sort(descending=True).values[len(flat) // 2 - 1]
    return [(score >= least).float() for score in scores]


@pytest.mark.parametrize("mask", ["", "random", "snip"])
def test_a_sweep_is_the_optimizers_training_one_by_one(mask: str) -> None:
    """Wrong labels, masks, batches, weight decay, schedule and ε, of every seed and ρ."""
    found = rows(radii=[0.0, 0.3], mask=mask, sparsity=0.5 if mask else 0.0)
    for seed in (7, 8):
        for rho in (0.0, 0.3):
            run = of(found, rho, seed)
            expected, travelled = by_the_optimizer(mask, seed, rho)
            assert [row["train/loss"] for row in run] == pytest.approx(expected, rel=1e-5)
            if rho == 0:
                assert run[-1]["travelled"] == pytest.approx(travelled, rel=1e-5)


@pytest.mark.parametrize("mask", ["random", "snip"])
def test_what_is_masked_has_not_travelled(mask: str) -> None:
    end = of(rows(mask=mask, sparsity=0.5, lr=0.0), 0.1, 7)[-1]
    assert (end["distance"], end["travelled"]) == (0, 0)


def test_there_is_no_distance_to_plain_training_that_blew_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopping(*args: Any, **kwargs: Any) -> Any:
        found = train(*args, **kwargs)
        found.stopped[0] = 1
        return found

    monkeypatch.setattr("lowland.studies.overparam.sweep.train", stopping)
    found = rows()
    for rho in (0.0, 0.1):
        end = of(found, rho, 7)[-1]
        assert math.isnan(end["distance"])
        assert math.isnan(end["travelled"])
    assert math.isfinite(of(found, 0.1, 7)[-1]["train/loss"]), "SAM of that seed went on"
    assert of(found, 0.1, 8)[-1]["distance"] > 0, "the other seed has both"


def test_a_network_that_blows_up_is_not_finite_from_then_on() -> None:
    found = rows(lr=1e20)
    assert math.isfinite(of(found, 0.0, 7)[0]["train/loss"])
    assert math.isnan(of(found, 0.0, 7)[-1]["validation/error"])


def test_sharpness_at_a_level_is_interpolated_in_the_logarithm_of_the_loss() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False)
    stack, x = Stack([net] * 3), torch.randn(8, 3)
    right = net(x).argmax(1)
    # larger weights lower the loss of right labels, and raise that of the last network's wrong ones
    y = torch.stack([right, right, 1 - right])
    stack.parameters["weight"][1] *= 20
    level, seen = 0.1, []
    crossing = Crossing(stack, level)
    for step in (4, 6, 8):
        seen.append((losses(stack(x), y), largest_eigenvalues(stack, x, y, products=6)))
        crossing.look(step, stack, x, y)
        stack.parameters["weight"] *= 5
    (high, first), (low, second), _ = ((loss[0], sharp[0]) for loss, sharp in seen)
    assert high > level > low
    share = (high / level).log() / (high / low).log()
    found = crossing.sharpness(stack, x, y, 6)
    assert set(found) == {0, 1}, "the last network never comes down"
    expected = (float(4 + 2 * share), float(first * (second / first) ** share))
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert found[1] == pytest.approx((4.0, float(seen[0][1][1])), rel=1e-4), "it starts there"


@pytest.mark.parametrize("mask", ["random", "snip"])
def test_masked_networks_train(mask: str) -> None:
    found = rows(mask=mask, sparsity=0.5)
    assert of(found, 0.1, 7)[-1]["train/loss"] < of(found, 0.1, 7)[0]["train/loss"]
    with pytest.raises(InputError, match="leaves nothing of"):
        rows(mask=mask, sparsity=0.999)


def planned(**choice: Any) -> Plan:
    chosen = STUDY.choose(**choice)
    STUDY.check(chosen)
    return STUDY.plan(chosen)


def experiments(plan: Plan) -> dict[str, list[Experiment]]:
    found: dict[str, list[Experiment]] = {}
    for run in plan.runs:
        if isinstance(run.recipe, Experiment):
            found.setdefault(run.group, []).append(run.recipe)
    return found


def test_the_default_grid() -> None:
    groups = experiments(planned())
    size = SIZES["default"]
    clean = {Arm(hidden=hidden).group for hidden in size.sizes}
    noisy = {Arm(hidden=hidden, noise=0.4).group for hidden in size.sizes}
    assert clean | noisy <= set(groups)
    # the dense twins of masked networks are among the sizes
    assert sum("noise" not in g and "mask" not in g for g in groups) == 2 * len(clean)
    for group, runs in groups.items():
        seeds = [s for run in runs for s in range(run.seed, run.seed + run.arguments["count"])]
        expected = range(10, 30) if "solutions" in group else range(10)
        assert sorted(seeds) == list(expected)
        assert 0.0 in runs[0].arguments["radii"]
        assert (runs[0].arguments.get("products", 0) > 0) == (
            group.partition(",")[0] in clean and "noise" not in group and "mask" not in group
        )
    for run in groups["mlp 200-200, snip mask 0.95"]:
        assert run.arguments["mask"] == "snip"
        assert run.arguments["weight_decay"] == 1e-4
    (first, *_) = groups["mlp 200-200, label noise 0.4, weight decay"]
    assert first.arguments["weight_decay"] == 5e-3


def test_networks_of_the_caller() -> None:
    plan = planned(size="smoke", overrides=("hidden=20-8,5-2,10-4,40-16,30-12",))
    dense = {run.group for run in plan.runs if run.group.count(",") == 0}
    sizes = ["5-2", "10-4", "20-8", "30-12", "40-16"]
    assert dense >= {f"mlp {size}" for size in sizes}
    decayed = [run.group for run in plan.runs if "weight decay" in run.group]
    assert {group.split(",")[0] for group in decayed} == {"mlp 5-2", "mlp 20-8", "mlp 40-16"}
    assert all(run.group.startswith("mlp 40-16") for run in plan.runs if "mask" in run.group)


def test_settings_radii_and_seeds_of_the_caller() -> None:
    plan = planned(
        size="smoke", seed=1000, seeds=1, rhos=(0.3,), overrides=("epochs=3", "limit=none")
    )
    (run, *_) = plan.runs
    assert isinstance(run.recipe, Experiment)
    assert run.recipe.arguments["radii"] == (0.0, 0.3)
    assert (run.recipe.arguments["epochs"], run.recipe.arguments["limit"]) == (3, None)
    for overrides, words in (
        (("widths=3",), "unknown setting of overparam 'widths'"),
        (("hidden=9,8-x",), "write units of each hidden layer, as hidden=19-6,75-25"),
        (("hidden=9,0",), "write units of each hidden layer"),
        (("hidden=9-9,9-9",), "a slope needs two networks or more"),
        (("hidden=9,9-9",), "networks must have equally many hidden layers"),
        (("epochs=",), "has no value"),
        (("limit=20",), "20 training images are fewer than a batch of 32: set batch_size"),
        (("schedule=cosin",), "unknown schedule 'cosin': did you mean 'cosine'"),
        (("lr=-1",), "lr must be finite and 0 or more"),
        (("evaluations=0",), "evaluations must be 1 or more"),
    ):
        with pytest.raises(InputError, match=words):
            planned(size="smoke", overrides=overrides)
    with pytest.raises(InputError, match="trains stacks with sam, not with asam"):
        planned(size="smoke", method="asam")


def test_the_paper_size_has_the_published_settings() -> None:
    (first, *_) = experiments(planned(size="paper", seeds=1))["mlp 300-100"]
    settings = first.arguments
    assert (settings["epochs"], settings["schedule"], settings["lr"]) == (100, "quarters", 0.1)
    assert (settings["batch_size"], settings["momentum"], settings["weight_decay"]) == (
        128,
        0.9,
        1e-4,
    )
    assert first.device == "auto"


@pytest.mark.slow
def test_the_smoke_size_answers_every_claim(tmp_path: Path) -> None:
    choice = STUDY.choose(size="smoke")
    results = studies.execute(STUDY, choice, tmp_path / "o", launcher=InProcess())
    assert results["failures"] == []
    assert "no data here" not in {claim["verdict"] for claim in results["claims"]}
    assert len(results["drawings"]) == 11
    assert (tmp_path / "o" / "report.html").exists()
