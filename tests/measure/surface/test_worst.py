"""Worst-case sharpness: it reaches what is known, never goes beyond, and hides nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from measure_cases import batches, per_example, small_net
from surface_cases import (
    Bowl,
    TwoLayers,
    at_origin,
    bowl_at_rest,
    bowl_loss,
    curvature,
    two_layer_batches,
)
from torch import nn
from torch.nn import functional

from lowland.core.errors import InputError
from lowland.measure.surface import (
    average_sharpness,
    one_step_sharpness,
    sharpness_preset,
    worst_sharpness,
)
from lowland.measure.surface.ascent import looks

VALUES = [5.0, 3.0, 2.0, 1.0, 0.5, 0.1, -1.0]
D = len(VALUES)
H = curvature(VALUES)


def worst(model, **options):
    return worst_sharpness(model, bowl_loss(H), at_origin(D), **options)


def highest(w: torch.Tensor, rho: float) -> float:
    """max wᵀHε + ½εᵀHε over ‖ε‖ ≤ ρ: ε = (μ - H)⁻¹Hw with ‖ε‖ = ρ and μ ≥ λ_max, by bisection."""
    g = H @ w

    def step(mu: float) -> torch.Tensor:
        return torch.linalg.solve(mu * torch.eye(D, dtype=torch.float64) - H, g)

    low, high = VALUES[0] + 1e-12, VALUES[0] + 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if step(middle).norm() > rho else (low, middle)
    eps = step(low)
    return float(g @ eps + eps @ H @ eps / 2)


@pytest.mark.parametrize(
    ("options", "tolerance"), [({}, 1e-6), ({"ascent": "fixed", "steps": 120}, 1e-3)]
)
def test_at_rest_it_is_the_largest_eigenvalue(options, tolerance) -> None:
    record = worst(bowl_at_rest(D), rho=0.3, **options)
    assert record.value == pytest.approx(0.5 * 0.3**2 * VALUES[0], rel=tolerance)
    assert record.value <= 0.5 * 0.3**2 * VALUES[0] * (1 + 1e-12)
    assert record.converged
    assert record.radius == pytest.approx(0.3)
    assert record.error is None


@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
def test_on_a_slope_it_is_that_of_the_trust_region(rho) -> None:
    w = torch.linspace(-1, 1, D, dtype=torch.float64)
    record = worst(Bowl(w), rho=rho)
    assert record.value == pytest.approx(highest(w, rho), rel=1e-4)
    step = one_step_sharpness(Bowl(w), bowl_loss(H), at_origin(D), rho=rho)
    assert record.value >= step.value


def test_in_the_cube_it_is_the_best_corner() -> None:
    """Convex here, so the maximum is at a corner."""
    convex = curvature([4.0, 2.0, 1.0, 0.5, 0.2])
    corners = torch.tensor(list(itertools.product([-0.3, 0.3], repeat=5)), dtype=torch.float64)
    expected = float((0.5 * (corners @ convex) * corners).sum(1).max())
    record = worst_sharpness(
        bowl_at_rest(5), bowl_loss(convex), at_origin(5), rho=0.3, p=math.inf, restarts=8
    )
    assert record.value == pytest.approx(expected, rel=1e-3)
    assert record.value <= expected * (1 + 1e-12)


@pytest.mark.parametrize("p", [1.0, 1.5, 4.0])
def test_other_norms_stay_inside_and_climb(p) -> None:
    """Against many points of the sphere: the ascent is above all of them, and on it."""
    record = worst(bowl_at_rest(D), rho=0.3, p=p, steps=60, restarts=10)
    z = torch.randn(20_000, D, dtype=torch.float64)
    z *= 0.3 / torch.linalg.vector_norm(z, p, dim=1, keepdim=True)
    assert record.value > float((0.5 * (z @ H) * z).sum(1).max()) * 0.999
    assert record.radius <= 0.3 * (1 + 1e-9)


def published(model: nn.Module, data, rho: float) -> float:
    """Twenty steps of ρ/10 up the normalised gradient from w, written from the formula."""
    rises, sizes = [], []
    names = [n for n, _ in model.named_parameters()]
    home = {n: p.detach().clone() for n, p in model.named_parameters()}
    for x, y in data:

        def loss(eps, x=x, y=y):
            at = {n: home[n] + eps[n] for n in names}
            return functional.cross_entropy(torch.func.functional_call(model, at, (x,)), y)

        eps = {n: torch.zeros_like(home[n]) for n in names}
        seen = [float(loss(eps))]
        for _ in range(20):
            free = {n: e.clone().requires_grad_() for n, e in eps.items()}
            grads = torch.autograd.grad(loss(free), list(free.values()))
            norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
            eps = {
                n: e + 0.1 * rho * g / norm for (n, e), g in zip(eps.items(), grads, strict=True)
            }
            length = math.sqrt(sum(float(e.square().sum()) for e in eps.values()))
            if length > rho:
                eps = {n: e * rho / length for n, e in eps.items()}
            seen.append(float(loss(eps)))
        rises.append(max(seen) - seen[0])
        sizes.append(len(y))
    return sum(r * n for r, n in zip(rises, sizes, strict=True)) / sum(sizes)


def test_the_published_ascent_by_its_formula() -> None:
    options = {**sharpness_preset("low-rank-paper", "worst_sharpness"), "m": "batch", "rho": 0.5}
    data = two_layer_batches(6, 6, 2)
    record = worst_sharpness(TwoLayers(), per_example, data, **options)
    assert record.value == pytest.approx(published(TwoLayers(), data, 0.5), rel=1e-9)
    assert (record.restarts, record.converged, record.gap) == (1, False, None)
    assert record.seed is None


def test_an_error_of_zero_has_no_say() -> None:
    """The published mistake: where no perturbed example is wrong, it reports minus the loss."""
    model = TwoLayers()
    data = [(x, model(x).argmax(1)) for x, _ in two_layer_batches(8)]
    record = worst_sharpness(model, per_example, data, rho=0.01)
    assert record.error == 0.0
    assert record.value > 0
    assert record.value > -record.loss
    far = worst_sharpness(model, per_example, data, rho=3.0)
    assert far.error is not None
    assert far.error > 0


def test_it_is_never_below_zero_nor_below_the_average() -> None:
    model = Bowl(torch.zeros(2, dtype=torch.float64))
    hill = -torch.eye(2, dtype=torch.float64)
    assert worst_sharpness(model, bowl_loss(hill), at_origin(2), rho=1.0).value == 0.0
    net, data = small_net(), batches()
    average = average_sharpness(net, per_example, data, rho=0.3, noise="ball").value
    assert worst_sharpness(net, per_example, data, rho=0.3).value >= average


def test_more_of_everything_never_finds_less() -> None:
    def of(**options):
        return worst_sharpness(small_net(), per_example, batches(), rho=0.5, **options).value

    assert of(restarts=3, steps=5) >= of(restarts=1, steps=5)
    assert of(m=1, steps=5) > of(m=None, steps=5)
    assert of(ascent="fixed", steps=6) >= of(ascent="fixed", steps=3)
    assert of(seed=1) == of(seed=1)


def test_ascents_that_agree_but_still_rise_have_not_converged() -> None:
    flat = curvature(torch.linspace(0.01, 1, 200).tolist())
    for steps, converged in ((20, False), (400, True)):
        record = worst_sharpness(
            bowl_at_rest(200),
            bowl_loss(flat),
            at_origin(200),
            rho=0.3,
            ascent="fixed",
            steps=steps,
            tolerance=0.1,
        )
        assert record.gap <= 0.1 * record.value
        assert record.converged is converged
        assert (record.late <= 0.1 * record.value) is converged


def test_a_gradient_that_is_not_finite_is_not_hidden() -> None:
    """√ has an infinite slope at 0: times 0 it is NaN there, and the ascent from w cannot go on."""

    def roots(outputs, targets):
        return 0 * outputs.abs().sqrt().sum(1) + bowl_loss(H)(outputs, targets)

    record = worst_sharpness(bowl_at_rest(D), roots, at_origin(D), rho=0.3)
    assert record.value == pytest.approx(0.5 * 0.3**2 * VALUES[0], rel=1e-6)
    assert max(record.gap, record.late) < 0.01 * record.value
    assert not record.converged
    assert math.isnan(one_step_sharpness(bowl_at_rest(D), roots, at_origin(D), rho=0.3).value)


def test_ragged_batches_weigh_by_examples() -> None:
    sizes = (6, 6, 2)
    parts = [
        worst_sharpness(TwoLayers(), per_example, [pair], rho=0.3, restarts=1).value
        for pair in two_layer_batches(*sizes)
    ]
    whole = worst_sharpness(
        TwoLayers(), per_example, two_layer_batches(*sizes), rho=0.3, restarts=1
    )
    expected = sum(v * n for v, n in zip(parts, sizes, strict=True)) / 14
    assert whole.value == pytest.approx(expected, rel=1e-9)
    assert abs(sum(parts) / 3 - expected) > 1e-3
    assert whole.uncertainty is not None
    assert (whole.groups, whole.m, whole.smallest_m) == (3, 6, 2)


def test_the_looks_of_apgd() -> None:
    """22%, 41%, 57%, 70%, 80%, 87%, 93%, 99%, and 6% apart from there."""
    assert looks(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    assert looks(1) == set()


def test_bad_options() -> None:
    for options, message in (
        ({"ascent": "apgd"}, "unknown ascent 'apgd'"),
        ({"steps": 0}, "steps: 0; give a whole number from 1 on"),
        ({"restarts": 0}, "restarts: 0; give a whole number from 1 on"),
        ({"step": -1.0}, "step: -1.0; give a share of the radius, for example 0.1"),
    ):
        with pytest.raises(InputError) as caught:
            worst(bowl_at_rest(D), rho=0.1, **options)
        assert str(caught.value).startswith(message)
