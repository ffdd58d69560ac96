"""Paths between checkpoints: ends exactly, barriers by both conventions, curves around a wall."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from measure_cases import batches, data, per_example, small_net
from surface_cases import Bowl, at_origin, bowl_loss, curvature
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.measure.surface import bezier_path, linear_path, mean_loss
from lowland.measure.surface.curve import bezier_shares, rate_share
from lowland.measure.surface.path import barriers

H = curvature([4.0, 2.0, 1.0])


def bowl(*w: float) -> Bowl:
    return Bowl(torch.tensor(w, dtype=torch.float64))


def test_a_quadratic_in_closed_form() -> None:
    first, last = bowl(1.0, 0.0, 2.0), bowl(-1.0, 3.0, 1.0)
    record = linear_path(first, bowl_loss(H), at_origin(3), last, points=5)
    for alpha, loss in zip(record.alphas, record.losses, strict=True):
        w = (1 - alpha) * first.w.detach() + alpha * last.w.detach()
        assert loss == pytest.approx(float(0.5 * w @ H @ w))
    assert record.alphas == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert record.value == record.barrier == 0.0  # convex: below the chord
    assert record.highest == 0.0
    worst = max(record.losses) - (record.losses[0] + record.losses[-1]) / 2
    assert record.barrier_over_mean == pytest.approx(worst)
    assert record.distance == pytest.approx(math.sqrt(4 + 9 + 1))
    assert record.cosine == pytest.approx((-1 + 2) / math.sqrt(5 * 11))
    assert record.errors is None


def wells(outputs, targets):
    """(‖w‖² - 1)²: low on a circle, with a wall of 1 in its middle."""
    return (outputs.square().sum(1) - 1).square()


def test_a_wall_between_two_wells() -> None:
    record = linear_path(bowl(1.0, 0.0), wells, at_origin(2), bowl(-1.0, 0.0), points=11)
    assert record.barrier == pytest.approx(1.0)
    assert record.highest == 0.5
    assert record.barrier == pytest.approx(record.barrier_over_mean)


def test_the_two_conventions() -> None:
    assert barriers([0, 0.5, 1], [1.0, 4.0, 3.0]) == (2.0, 2.0, 0.5)
    assert barriers([0, 0.5, 1], [1.0, 1.5, 3.0]) == (0.0, 1.0, 0.0)
    assert barriers([0, 0.5, 1], [1.0, math.nan, 3.0]) == (math.inf, math.inf, 0.5)
    assert all(math.isnan(b) for b in barriers([0, 1], [math.nan, 1.0]))


def ends() -> tuple[nn.Module, nn.Module]:
    return small_net(0), small_net(7)


@pytest.mark.parametrize("batch_norm", ["reestimated", "keep"])
@pytest.mark.parametrize("size", [3, 10])
def test_the_ends_are_the_models_themselves(batch_norm, size) -> None:
    first, last = ends()
    pairs = batches(size=size)
    record = linear_path(first, per_example, pairs, last, points=3, batch_norm=batch_norm)
    for i, model in ((0, first), (2, last)):
        expected = mean_loss(model, per_example, pairs)
        assert record.losses[i] == expected.value
        assert record.errors[i] == expected.error


def middle_of(first: nn.Module, last: nn.Module, buffers: bool) -> nn.Module:
    found = copy.deepcopy(first).eval()
    theirs = last.state_dict()
    for name, tensor in found.state_dict().items():
        if tensor.is_floating_point() and (buffers or "running" not in name):
            tensor.copy_((tensor + theirs[name]) / 2)
    return found


def test_batch_norm_in_between() -> None:
    first, last = ends()
    images, labels = data()
    kept = linear_path(first, per_example, batches(), last, points=3, batch_norm="keep")
    middle = middle_of(first, last, buffers=True)
    assert kept.losses[1] == pytest.approx(
        mean_loss(middle, per_example, batches()).value, rel=1e-5
    )
    anew = linear_path(first, per_example, batches(size=10), last, points=3)
    norm = middle.block1[1]
    maps = middle.block1[0](images).detach()
    norm.running_mean.copy_(maps.mean((0, 2, 3)))
    norm.running_var.copy_(maps.var((0, 2, 3)))
    assert anew.losses[1] == pytest.approx(
        per_example(middle(images), labels).mean().item(), rel=1e-5
    )
    assert anew.losses[1] != pytest.approx(kept.losses[1], rel=1e-3)


def test_statistics_weigh_by_examples() -> None:
    """Ragged batches: the mean over examples of the batches' statistics, not over batches."""
    first, last = ends()
    record = linear_path(first, per_example, batches(size=7), last, points=3)
    middle = middle_of(first, last, buffers=False)
    images, labels = data()
    maps = middle.block1[0](images).detach()
    norm = middle.block1[1]
    for buffer, statistic in ((norm.running_mean, torch.mean), (norm.running_var, torch.var)):
        parts = [statistic(part, dim=(0, 2, 3)) for part in (maps[:7], maps[7:])]
        buffer.copy_((7 * parts[0] + 3 * parts[1]) / 10)
    expected = per_example(middle(images), labels).mean().item()
    assert record.losses[1] == pytest.approx(expected, rel=1e-5)


def test_state_dicts_models_and_wrapped_names_are_the_same() -> None:
    first, last = ends()
    expected = linear_path(first, per_example, batches(), last, points=3).losses
    wrapped = {f"_orig_mod.{n}": t for n, t in last.state_dict().items()}
    for end in (last.state_dict(), wrapped):
        assert np.array_equal(
            linear_path(first, per_example, batches(), end, points=3).losses, expected
        )
    other = small_net(3)
    found = linear_path(other, per_example, batches(), last, start=first.state_dict(), points=3)
    assert np.array_equal(found.losses, expected)
    assert other.head.weight.equal(small_net(3).head.weight)


def test_some_parameters_alone() -> None:
    first, last = ends()
    record = linear_path(first, per_example, batches(size=10), last, points=3, parameters="head")
    mixed = copy.deepcopy(first)
    mixed.head.load_state_dict(last.head.state_dict())
    images, labels = data()
    norm, maps = mixed.block1[1], mixed.block1[0](images).detach()
    norm.running_mean.copy_(maps.mean((0, 2, 3)))
    norm.running_var.copy_(maps.var((0, 2, 3)))
    expected = per_example(mixed.eval()(images), labels).mean().item()
    assert record.losses[2] == pytest.approx(expected, rel=1e-5)
    heads = last.head.weight.detach() - first.head.weight.detach()
    biases = last.head.bias.detach() - first.head.bias.detach()
    assert record.distance == pytest.approx(math.hypot(heads.norm(), biases.norm()), rel=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    first, last = ends()
    first.train()
    before = [copy.deepcopy(m.state_dict()) for m in (first, last)]
    linear_path(first, per_example, batches(), last, points=3)
    bezier_path(first, per_example, batches(), last, points=3, steps=3)
    for model, states in zip((first, last), before, strict=True):
        assert all(torch.equal(t, states[n]) for n, t in model.state_dict().items())
    assert first.block1[1].training
    assert first.block1[1].momentum == 0.1


def test_divergence_in_between_is_an_infinite_barrier() -> None:
    def broken(outputs, targets):
        return torch.where(outputs.abs().sum(1) < 0.5, math.nan, 1.0)

    record = linear_path(bowl(1.0, 0.0), broken, at_origin(2), bowl(-1.0, 0.0), points=5)
    assert record.barrier == math.inf
    assert not record.converged
    lost = linear_path(bowl(math.nan, 0.0), wells, at_origin(2), bowl(-1.0, 0.0), points=3)
    assert math.isnan(lost.barrier)


@pytest.mark.parametrize("kind", [linear_path, bezier_path])
def test_mismatches_in_one_line(kind) -> None:
    first, last = ends()
    state = last.state_dict()
    missing = {n: t for n, t in state.items() if n != "head.bias"}
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    untied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for model, end, message in (
        (first, missing, "end: has no 'head.bias', which the model has"),
        (first, {**state, "tail": torch.ones(1)}, "end: has 'tail', which the model has not"),
        (
            first,
            {**state, "head.bias": torch.ones(4)},
            "end: 'head.bias' is (4,), the model's is (3,)",
        ),
        (first, 3, "end: int; give a model or a state dict"),
        (tied, untied, "end: '0.weight' and '1.weight' are one parameter in the model and differ"),
    ):
        with pytest.raises(InputError) as caught:
            kind(model, per_example, batches(), end)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^start: has no 'head.bias'"):
        kind(first, per_example, batches(), last, start=missing)


def test_bad_options() -> None:
    first, last = ends()
    for kind, options, message in (
        (linear_path, {"points": 1}, "points: 1; give a whole number from 2 on"),
        (linear_path, {"batch_norm": "eval"}, "unknown batch_norm 'eval'"),
        (bezier_path, {"steps": 0}, "steps: 0; give a whole number from 1 on"),
        (bezier_path, {"lr": -1.0}, "lr: -1.0; give a finite number above 0"),
    ):
        with pytest.raises(InputError) as caught:
            kind(first, per_example, batches(), last, **options)
        assert str(caught.value).startswith(message)
    loader = DataLoader(TensorDataset(*data()), shuffle=True, batch_size=4)

    def never(outputs, targets):
        raise AssertionError("training had begun")

    for kind in (linear_path, bezier_path):
        with pytest.raises(InputError, match="shuffle=False"):
            kind(first, never, loader, last)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="a batch of one example has no variance for BatchNorm"):
        linear_path(flat, per_example, batches(size=9), copy.deepcopy(flat))
    linear_path(flat, per_example, batches(size=9), copy.deepcopy(flat), batch_norm="keep")


def test_a_curve_goes_around_the_wall() -> None:
    """From (1, 0) to (-0.6, 0.8) the line has a wall; the circle of minima has none. The bend that
    makes the quadratic curve low is known up to what a quadratic cannot follow."""
    first, last = bowl(1.0, 0.0), bowl(-0.6, 0.8)
    line = linear_path(first, wells, at_origin(2), last)
    curve = bezier_path(first, wells, at_origin(2), last, steps=400, lr=0.02)
    assert line.barrier > 0.6
    assert curve.barrier < 0.05
    assert curve.steps == 400
    assert (curve.losses[0], curve.losses[-1]) == (line.losses[0], line.losses[-1])
    bend = curve.bend["w"]
    for t, loss in zip(curve.alphas, curve.losses, strict=True):
        a, b, c = bezier_shares(t)
        w = a * first.w.detach() + b * bend + c * last.w.detach()
        assert loss == pytest.approx(float((w.square().sum() - 1) ** 2), abs=1e-12)


def test_the_bend_is_stochastic_descent_by_its_formula() -> None:
    """Three steps by hand, with the draws of t taken from the record's seed."""
    from lowland.core.seeds import generator

    first, last = bowl(1.0, 0.0), bowl(-0.6, 0.8)
    theta = (first.w.detach() + last.w.detach()) / 2
    speed = torch.zeros(2, dtype=torch.float64)
    for step in range(3):
        t = float(torch.rand((), generator=generator("cpu", "curve", 5, step)))
        w = (1 - t) ** 2 * first.w.detach() + 2 * t * (1 - t) * theta + t**2 * last.w.detach()
        gradient = 4 * (w.square().sum() - 1) * w
        speed = 0.9 * speed + 2 * t * (1 - t) * gradient
        theta = theta - 0.1 * rate_share(step / 3) * speed
    found = bezier_path(first, wells, at_origin(2), last, steps=3, lr=0.1, seed=5)
    assert torch.allclose(found.bend["w"], theta, rtol=1e-12)
    assert found.seed == 5


def test_training_that_diverges_stops() -> None:
    record = bezier_path(
        bowl(1.0, 0.0), wells, at_origin(2), bowl(-0.6, 0.8), steps=300, lr=1e6, points=3
    )
    assert record.steps < 300
    assert record.losses[0] == pytest.approx(0.0)


def test_the_ends_stay_even_if_the_bend_is_lost() -> None:
    first, last = bowl(100.0, 0.0), bowl(-60.0, 80.0)
    record = bezier_path(first, wells, at_origin(2), last, steps=3, lr=1e306, points=3)
    assert not torch.isfinite(record.bend["w"]).all()
    assert record.losses[0] == mean_loss(first, wells, at_origin(2)).value
    assert record.losses[2] == mean_loss(last, wells, at_origin(2)).value
    assert record.barrier == math.inf


def test_a_curve_through_batch_norm() -> None:
    first, last = ends()
    record = bezier_path(first, per_example, batches(), last, steps=4, points=3)
    assert np.isfinite(record.losses).all()
    assert set(record.bend) == set(dict(first.named_parameters()))
    again = bezier_path(first, per_example, batches(), last, steps=4, points=3)
    assert np.array_equal(record.losses, again.losses)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_and_json(dtype) -> None:
    first, last = (m.to(dtype) for m in ends())
    pairs = [(x.to(dtype), y) for x, y in batches(n=1)]
    for kind in (linear_path, bezier_path):
        record = kind(
            first,
            per_example,
            pairs,
            last,
            points=3,
            **({"steps": 2} if kind is bezier_path else {}),
        )
        assert record.dtype == str(dtype).removeprefix("torch.")
        found = json.loads(json.dumps(record.to_dict()))
        assert len(found["losses"]) == 3
        assert "bend" not in found
