"""Landscapes: every point is where it says, w is in the middle, and nothing stays moved."""

from __future__ import annotations

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
from lowland.measure.surface import (
    direction_towards,
    loss_line,
    loss_plane,
    mean_loss,
    random_direction,
)


def moved_net(*terms) -> nn.Module:
    """A fresh copy of the network at w + Σ a·d."""
    model = small_net()
    with torch.no_grad():
        for a, direction in terms:
            for name, step in direction.steps.items():
                dict(model.named_parameters())[name].add_(step, alpha=a)
    return model


@pytest.mark.parametrize("reads", ["once", "every point"])
def test_every_point_of_a_plane_is_where_it_says(reads) -> None:
    """A peer shears its planes: every second row is shifted by a step. Rows and columns differ in
    number and span here, so that any mix-up shows."""
    model = small_net()
    record = loss_plane(
        model, per_example, batches(), span=(1.0, 0.5), points=(3, 5), reads=reads, seed=2
    )
    d1, d2 = (random_direction(model, seed=2, number=i) for i in (0, 1))
    assert record.axes == ((-1.0, 0.0, 1.0), (-0.5, -0.25, 0.0, 0.25, 0.5))
    assert record.losses.shape == record.errors.shape == (3, 5)
    for i, a in enumerate(record.axes[0]):
        for j, b in enumerate(record.axes[1]):
            here = mean_loss(moved_net((a, d1), (b, d2)), per_example, batches())
            assert record.losses[i, j] == pytest.approx(here.value, rel=1e-5)
            assert record.errors[i, j] == here.error


@pytest.mark.parametrize("reads", ["once", "every point"])
def test_every_point_of_a_line_is_where_it_says(reads) -> None:
    model = small_net()
    record = loss_line(model, per_example, batches(), span=2.0, points=5, reads=reads)
    direction = random_direction(model)
    assert record.axes == ((-2.0, -1.0, 0.0, 1.0, 2.0),)
    for a, loss in zip(record.axes[0], record.losses, strict=True):
        here = mean_loss(moved_net((a, direction)), per_example, batches()).value
        assert loss == pytest.approx(here, rel=1e-5)


def test_reading_once_or_for_every_point_gives_the_same_bits() -> None:
    options = {"points": 5, "span": 0.5}
    once = loss_plane(small_net(), per_example, batches(), **options)
    often = loss_plane(small_net(), per_example, batches(), reads="every point", **options)
    assert np.array_equal(once.losses, often.losses)
    assert np.array_equal(once.errors, often.errors)


@pytest.mark.parametrize("points", [3, 11, 21, 101])
@pytest.mark.parametrize("span", [1.0, 0.3, 1e-3])
def test_the_grid_is_symmetric_with_the_weights_in_the_middle(points, span) -> None:
    record = loss_line(
        nn.Linear(2, 2), nn.MSELoss(), [(torch.ones(1, 2),) * 2], points=points, span=span
    )
    axis = record.axes[0]
    assert len(axis) == points
    assert axis[points // 2] == 0.0
    assert list(axis) == [-a for a in reversed(axis)]
    assert max(axis) == span
    assert record.losses[points // 2] == record.value


def test_the_middle_is_the_mean_loss_exactly() -> None:
    model = small_net().eval()
    expected = mean_loss(model, per_example, batches())
    for record in (
        loss_line(model, per_example, batches(), points=3),
        loss_plane(model, per_example, batches(), points=3),
    ):
        assert record.value == expected.value
        assert record.errors.flat[record.errors.size // 2] == expected.error


@pytest.mark.parametrize("points", [4, 20, 50])
def test_a_grid_without_a_middle_is_refused(points) -> None:
    for function in (loss_line, loss_plane):
        with pytest.raises(InputError, match=f"is even, so that .* give {points + 1}"):
            function(small_net(), per_example, batches(), points=points)


H = curvature([4.0, 2.0, 1.0, 0.5])


def test_a_quadratic_in_closed_form() -> None:
    """Along eigenvectors, given as flat vectors: ½(λ₁a² + λ₂b²), a plane of ellipses."""
    values, vectors = torch.linalg.eigh(H)
    record = loss_plane(
        Bowl(torch.zeros(4, dtype=torch.float64)),
        bowl_loss(H),
        at_origin(4, 3),
        directions=[vectors[:, 3], vectors[:, 0]],
        span=(2.0, 3.0),
        points=(5, 7),
    )
    a, b = np.meshgrid(*map(np.array, record.axes), indexing="ij")
    expected = 0.5 * (float(values[3]) * a**2 + float(values[0]) * b**2)
    assert np.allclose(record.losses, expected, rtol=1e-12)
    assert record.norms == pytest.approx((1.0, 1.0))
    assert record.cosine == pytest.approx(0.0, abs=1e-12)
    assert record.seed is None
    assert record.errors is None


def test_orthogonal_directions() -> None:
    d1 = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    d2 = torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    plane = {"directions": [d1, d2], "points": 3}
    model = Bowl(torch.zeros(4, dtype=torch.float64))
    sheared = loss_plane(model, bowl_loss(H), at_origin(4), **plane)
    record = loss_plane(model, bowl_loss(H), at_origin(4), orthogonal=True, **plane)
    assert sheared.cosine == pytest.approx(3 / math.sqrt(10))
    assert record.cosine == pytest.approx(0.0, abs=1e-12)
    assert record.norms == pytest.approx((1.0, 1.0))
    assert "orthogonal" in record.directions[1]
    assert record.losses[1, 2] == pytest.approx(0.5 * float(H[1, 1]))


def test_towards_a_checkpoint_its_loss_is_at_one() -> None:
    model, other = small_net(0), small_net(1)
    for module in (model, other):
        module.block1[1] = nn.Identity()
    record = loss_line(
        model, per_example, batches(), direction=direction_towards(model, other), points=3
    )
    expected = mean_loss(other, per_example, batches()).value
    assert record.losses[2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_ragged_batches_are_exact(size) -> None:
    whole = loss_plane(small_net(), per_example, batches(size=10), points=3)
    record = loss_plane(small_net(), nn.CrossEntropyLoss(), batches(size=size), points=3)
    assert np.allclose(record.losses, whole.losses, rtol=1e-5)
    assert record.n == 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_and_a_single_example(dtype) -> None:
    pairs = [(x.to(dtype), y) for x, y in batches(n=1)]
    record = loss_plane(small_net().to(dtype), per_example, pairs, points=3)
    assert np.isfinite(record.losses).all()
    assert record.dtype == str(dtype).removeprefix("torch.")


def test_divergence_is_on_the_grid() -> None:
    model = Bowl(torch.ones(4, dtype=torch.float64))
    huge = torch.full((4,), 1e200, dtype=torch.float64)
    record = loss_line(model, bowl_loss(H), at_origin(4), direction=huge, points=3)
    assert not np.isfinite(record.losses[[0, 2]]).any()
    assert math.isfinite(record.value)
    model.w.data.fill_(math.nan)
    for landscape in (loss_line, loss_plane):
        record = landscape(model, bowl_loss(H), at_origin(4), points=3, biases="keep")
        assert math.isnan(record.value)
        assert not record.converged


def test_the_weights_come_back_bit_for_bit() -> None:
    """A peer leaves them displaced by 63% of their norm, without gradients required."""
    model = small_net().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    for options in ({}, {"reads": "every point"}, {"batch_norm": "reestimated"}):
        loss_plane(model, per_example, batches(), points=3, **options)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])
        assert all(p.requires_grad for p in model.parameters())
        assert model.training
        assert model.block1[1].momentum == 0.1


def test_frozen_parameters_move_and_tied_ones_together() -> None:
    model = small_net().requires_grad_(False)
    assert np.ptp(loss_line(model, per_example, batches(), points=3).losses) > 0

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    torch.manual_seed(0)
    tied = Tied()
    step = torch.eye(3)
    x = torch.ones(2, 3)
    record = loss_line(
        tied, nn.MSELoss(), [(x, x)], direction={"a.weight": step}, points=3, span=0.5
    )
    w = tied.a.weight.detach() + 0.5 * step
    assert record.losses[2] == pytest.approx(float(((x @ w.T @ w.T - x) ** 2).mean()))


def test_reestimated_statistics_are_those_of_the_point() -> None:
    """One batch, so that the statistics are its own but for the unbiased variance."""
    record = loss_line(
        small_net(), per_example, batches(size=10), points=3, batch_norm="reestimated"
    )
    direction = random_direction(small_net())
    images, labels = data()
    for a, loss in zip(record.axes[0], record.losses, strict=True):
        model = moved_net((a, direction)).eval()
        norm = model.block1[1]
        maps = model.block1[0](images).detach()
        norm.running_mean.copy_(maps.mean((0, 2, 3)))
        norm.running_var.copy_(maps.var((0, 2, 3)))
        expected = per_example(model(images), labels).mean().item()
        assert loss == pytest.approx(expected, rel=1e-5)
    keep = loss_line(small_net(), per_example, batches(size=10), points=3)
    assert not np.allclose(keep.losses, record.losses, rtol=1e-3)
    assert "re-estimated at each point" in record.definition


def test_statistics_of_a_point_that_diverged_do_not_stay() -> None:
    huge = {"block1.0.weight": torch.full((4, 1, 3, 3), 3e38)}
    options = {"direction": huge, "points": 3, "batch_norm": "reestimated"}
    record = loss_line(small_net(), per_example, batches(), **options)
    assert np.isfinite(record.losses).tolist() == [False, True, False]


def test_records_are_ready_for_json() -> None:
    record = loss_plane(small_net(), per_example, batches(), points=3)
    found = json.loads(json.dumps(record.to_dict()))
    assert np.array(found["losses"]).shape == (3, 3)
    assert found["axes"] == [[-1.0, 0.0, 1.0]] * 2


def test_one_reading_is_enough_for_an_iterator_and_more_are_refused() -> None:
    expected = loss_line(small_net(), per_example, batches(), points=3).losses
    found = loss_line(small_net(), per_example, iter(batches()), points=3).losses
    assert np.array_equal(found, expected)
    loader = DataLoader(TensorDataset(*data()), shuffle=True, batch_size=4)
    loss_line(small_net(), per_example, loader, points=3)
    for options in ({"reads": "every point"}, {"batch_norm": "reestimated"}):
        with pytest.raises(InputError, match="shuffle=False"):
            loss_line(small_net(), per_example, loader, points=3, **options)


def test_bad_options() -> None:
    for function, options, message in (
        (loss_line, {"points": 1}, "points: 1; give an odd whole number from 3 on"),
        (loss_line, {"span": 0.0}, "span: 0.0; give a finite number above 0"),
        (loss_line, {"batch_norm": "eval"}, "unknown batch_norm 'eval'"),
        (loss_line, {"reads": "twice"}, "unknown reads 'twice'"),
        (loss_plane, {"directions": [torch.ones(3)]}, "directions: 1; give two"),
        (loss_plane, {"points": (3, 3, 3)}, "points: (3, 3, 3); give one number, or one for"),
    ):
        with pytest.raises(InputError) as caught:
            function(small_net(), per_example, batches(), **options)
        assert str(caught.value).startswith(message)
    model = small_net()
    model.block1[1] = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(InputError, match="uses the statistics of each batch"):
        loss_line(model, per_example, batches(), points=3)
