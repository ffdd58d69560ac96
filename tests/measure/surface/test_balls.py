"""Balls: the steepest direction beats all others, and uniform points are uniform."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.measure.surface.balls import (
    Ball,
    dual_order,
    norm_of,
    project,
    scaled,
    steepest,
    uniform_in_ball,
)

ORDERS = [1.0, 1.5, 2.0, 3.0, math.inf]


def some_gradients() -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
        None,
        torch.randn(4, generator=generator, dtype=torch.float64),
    ]


def flat(parts) -> torch.Tensor:
    return torch.cat([t.flatten() for t in parts if t is not None])


@pytest.mark.parametrize("p", ORDERS)
def test_the_steepest_direction_is_on_the_sphere_and_beats_every_other(p) -> None:
    gradients = some_gradients()
    scales = [torch.rand(2, 3, dtype=torch.float64) + 0.1, None, None]
    slopes = scaled(gradients, scales)
    found, divisor = steepest(slopes, p)
    z = [
        torch.zeros_like(g) if t is None else t / divisor
        for g, t in zip(slopes, found, strict=True)
        if g is not None
    ]
    v = flat(slopes)
    assert norm_of(z, p) == pytest.approx(1.0)
    gain = float(v @ flat(z))
    assert gain == pytest.approx(float(torch.linalg.vector_norm(v, dual_order(p))))
    others = torch.randn(2000, len(v), dtype=torch.float64)
    others /= torch.linalg.vector_norm(others, p, dim=1, keepdim=True)
    assert float((others @ v).max()) <= gain


@pytest.mark.parametrize("p", ORDERS)
def test_without_a_gradient_there_is_no_step(p) -> None:
    assert steepest([torch.zeros(3), None], p)[1] == math.inf
    assert math.isnan(steepest([torch.tensor([1.0, math.nan])], p)[1])


def test_half_precision_gradients_do_not_overflow() -> None:
    steps, divisor = steepest([torch.full((4,), 6e4, dtype=torch.float16)], 3.0)
    assert norm_of(steps, 3.0) / divisor == pytest.approx(1.0, rel=1e-3)


def test_projection() -> None:
    z = [torch.tensor([3.0, 0.5]), torch.tensor([4.0])]
    inside = project([t.clone() for t in z], 2, 10.0)
    assert torch.equal(inside[0], z[0])
    cube = project([t.clone() for t in z], math.inf, 1.0)
    assert torch.equal(flat(cube), torch.tensor([1.0, 0.5, 1.0]))
    ray = project([t.clone() for t in z], 2, 1.0)
    assert torch.allclose(flat(ray), flat(z) / flat(z).norm())
    assert norm_of(project([t.clone() for t in z], 3, 1.0), 3) == pytest.approx(1.0)


def draws(p: float, d: int, count: int, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    like = [torch.zeros(2, dtype=torch.float64), torch.zeros(d - 2, dtype=torch.float64)]
    return torch.stack(
        [flat(uniform_in_ball(like, p, 2.0, generator, **options)) for _ in range(count)]
    )


@pytest.mark.parametrize("p", ORDERS)
def test_points_are_uniform_in_the_ball(p) -> None:
    """(‖z‖/ρ)^d is uniform in (0, 1), and a coordinate has the mean size of a uniform point's."""
    z = draws(p, 3, 3000)
    share = (torch.linalg.vector_norm(z, p, dim=1) / 2.0) ** 3
    assert float(share.max()) <= 1.0
    for at in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float((share < at).double().mean()) == pytest.approx(at, abs=0.04)
    cube = 4 * torch.rand(60_000, 3, dtype=torch.float64) - 2
    inside = cube[torch.linalg.vector_norm(cube, p, dim=1) <= 2]
    assert float(z.abs().mean()) == pytest.approx(float(inside.abs().mean()), rel=0.05)
    assert float(z.mean()) == pytest.approx(0.0, abs=0.06)


def test_points_on_the_sphere() -> None:
    z = draws(2.0, 5, 500, surface=True)
    assert torch.allclose(z.norm(dim=1), torch.full((500,), 2.0, dtype=torch.float64))
    assert float(z.square().mean()) == pytest.approx(4 / 5)


WEIGHTS = {
    "a.weight": torch.tensor([[3.0, -4.0], [0.0, 0.0]]),
    "a.bias": torch.tensor([-2.0, 0.0]),
}


@pytest.mark.parametrize(
    ("adaptive", "weight", "bias"),
    [
        ("elementwise", [[3.5, 4.5], [0.5, 0.5]], [2.5, 0.5]),
        ("layerwise", 5.5, 2.5),
        ("filterwise", [[5.5], [0.5]], [2.5, 0.5]),
    ],
)
def test_the_size_of_the_weights(adaptive, weight, bias) -> None:
    named = {name: nn.Parameter(t) for name, t in WEIGHTS.items()}
    found = Ball(1.0, adaptive=adaptive, eta=0.5).scales(named)
    assert torch.equal(found[0], torch.tensor(weight))
    assert torch.equal(found[1], torch.tensor(bias))
    assert Ball(1.0, adaptive=adaptive, scale_bias=False).scales(named)[1] is None
    assert Ball(1.0).scales(named) == [None, None]


BAD = [
    ({"rho": -1.0}, "rho: -1.0 is not a radius; give a finite number from 0 on"),
    ({"rho": 1.0, "p": 0.5}, "p: 0.5 is no norm; give a number from 1 on, or math.inf"),
    ({"rho": 1.0, "p": math.nan}, "p: nan is no norm"),
    ({"rho": 1.0, "adaptive": "layer"}, "unknown adaptive 'layer': did you mean 'layerwise'?"),
    ({"rho": 1.0, "eta": -0.1}, "eta: -0.1; give a finite number from 0 on"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_balls(options, message) -> None:
    with pytest.raises(InputError) as caught:
        Ball(**options)
    assert str(caught.value).startswith(message)
