"""The width sweep: both parametrisations alike at base width, and ε's reach by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowland.studies.methods.experiments.mup import sweep as module
from lowland.studies.methods.experiments.mup.findings import lowest
from lowland.studies.methods.experiments.mup.sweep import BASE, build, noisy_digits, sweep
from lowland.studies.methods.experiments.training import batches, digits, update

TINY = {"reach": 1, "steps": 2, "examples": 32, "batch_size": 16}


def trained(width: int, *, scaled: bool, lr: float, rho: float) -> nn.Module:
    train, _ = noisy_digits(32, 0.4, 5)
    model, opt = build(5, width, scaled=scaled, lr=lr, rho=rho)

    def losses(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(x), y, reduction="none")

    for batch in batches(train, 16, seed=5, steps=2):
        update(opt, losses, batch)
    return model


def test_at_base_width_both_parametrisations_are_one() -> None:
    """So that one run may stand for both."""
    standard = trained(BASE, scaled=False, lr=0.2, rho=0.4)
    scaled = trained(BASE, scaled=True, lr=0.2, rho=0.4)
    for a, b in zip(standard.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(a, b)
    other = trained(BASE, scaled=False, lr=0.2, rho=0.8)
    assert not torch.equal(next(other.parameters()), next(standard.parameters()))


def test_at_another_width_the_last_layer_and_the_steps_are_scaled() -> None:
    width = 4 * BASE
    standard, sgd = build(5, width, scaled=False, lr=0.2, rho=0.4)
    scaled, opt = build(5, width, scaled=True, lr=0.2, rho=0.4)
    weights = dict(standard.named_parameters())
    for name, p in scaled.named_parameters():
        factor = 0.5 if name == "layer3.weight" else 1.0
        assert torch.equal(p, factor * weights[name]), name
    names = {id(p): name for name, p in scaled.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in opt.param_groups for p in group["params"]}
    assert rates == pytest.approx(
        {
            "layer1.weight": 0.8,
            "layer1.bias": 0.8,
            "layer2.weight": 0.2,
            "layer2.bias": 0.8,
            "layer3.weight": 0.05,
            "layer3.bias": 0.2,
        }
    )
    assert [group["lr"] for group in sgd.param_groups] == [0.2]


def test_a_sweep_is_a_cross_of_trainings() -> None:
    rows = list(sweep(seed=5, rho=0.4, width=80, scaled=True, **TINY))
    assert rows == list(sweep(seed=5, rho=0.4, width=80, scaled=True, **TINY))
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.1, 0.2, 0.2, 0.2])
    assert [row["rho"] for row in rows] == pytest.approx([0.4, 0.4, 0.2, 0.8, 0.4])
    validation = noisy_digits(32, 0.4, 5)[1]
    for row in rows:
        lr, rho = float(row["lr"] or 0), float(row["rho"] or 0)
        model = trained(80, scaled=True, lr=lr, rho=rho)
        with torch.no_grad():
            loss = cross_entropy(model(validation[0]), validation[1])
        assert row["validation/loss"] == float(loss)
    assert all(not name.startswith("change") for row in rows[:-1] for name in row)
    times = {name.split("/")[1] for name in rows[-1] if name.startswith("change")}
    assert times == {"start", "middle", "end"}


def test_how_far_epsilon_reaches_is_what_it_does_to_each_layer_by_itself() -> None:
    """For SAM on the whole data at the start: ε = ρ·g/‖g‖, layer by layer, by hand."""
    rows = list(sweep(seed=5, rho=0.4, width=80, scaled=False, **TINY))
    (x, y), _ = noisy_digits(32, 0.4, 5)
    model, _ = build(5, 80, scaled=False, lr=0.2, rho=0.4)
    loss = cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    inputs = x.flatten(1)
    for i, layer in enumerate(m for m in model if isinstance(m, nn.Linear)):
        weight, bias = (0.4 * g / norm for g in gradients[2 * i : 2 * i + 2])
        change = inputs @ weight.T + bias
        expected = float(change.square().mean().sqrt())
        assert rows[-1][f"change/start/layer{i + 1}"] == pytest.approx(expected, rel=1e-4)
        inputs = torch.tanh(layer(inputs)).detach()


def test_a_network_that_diverged_is_the_worst_place_not_a_lost_run() -> None:
    rows = list(sweep(seed=5, rho=0.4, width=64, scaled=False, lr=1e30, **TINY))
    assert {row["validation/loss"] for row in rows} == {module.WORST}


def test_some_training_labels_are_drawn_anew() -> None:
    (images, labels), validation = noisy_digits(400, 0.4, 1)
    clean = digits().train[1][:400]
    wrong = float((labels != clean).double().mean())
    assert 0.28 < wrong < 0.44  # a tenth of the 40% are drawn as they were
    assert torch.equal(labels, noisy_digits(400, 0.4, 1)[0][1])
    assert not torch.equal(labels, noisy_digits(400, 0.4, 2)[0][1])
    assert torch.equal(images, noisy_digits(400, 0.4, 2)[0][0])
    assert torch.equal(noisy_digits(400, 0.0, 1)[0][1], clean)
    assert torch.equal(validation[1], digits().validation[1])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 1.0, 0.0, 1.0, 4.0], 2.0),
        ([6.25, 2.25, 0.25, 0.25, 2.25], 2.5),
        ([0.0, 1.0, 2.0, 3.0, 4.0], 0.0),
        ([4.0, 3.0, 2.0, 1.0, 0.0], 4.0),
        ([3.0, 1.0, 1.0, 1.0, 3.0], 1.5),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.0),
        ([module.WORST, 1.0, 2.0, module.WORST, module.WORST], 1.5),
    ],
)
def test_the_lowest_point_of_a_curve(losses: list[float], expected: float) -> None:
    assert lowest([0.0, 1.0, 2.0, 3.0, 4.0], losses) == pytest.approx(expected, abs=1e-5)
