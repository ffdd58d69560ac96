"""Average-case sharpness: closed forms on quadratics, and intervals that cover what they say."""

from __future__ import annotations

import math

import pytest
import torch
from measure_cases import batches, per_example, small_net
from surface_cases import Bowl, at_origin, bowl_at_rest, bowl_loss, curvature
from torch.utils.data import DataLoader, TensorDataset

from lowland.core.errors import InputError
from lowland.core.student import student_t
from lowland.measure.surface import average_sharpness

D = 30
VALUES = torch.linspace(0.2, 3.0, D, dtype=torch.float64).tolist()
H = curvature(VALUES)
TRACE = sum(VALUES)

LAWS = {
    "gaussian": ({}, 1 / 2),
    "gaussian of a norm": ({"per": "norm"}, 1 / (2 * D)),
    "ball": ({"noise": "ball"}, 1 / (2 * (D + 2))),
    "sphere": ({"noise": "sphere"}, 1 / (2 * D)),
    "cube": ({"noise": "ball", "p": math.inf}, 1 / 6),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("antithetic", [False, True])
def test_closed_forms_on_a_quadratic(law, antithetic) -> None:
    options, factor = LAWS[law]
    record = average_sharpness(
        bowl_at_rest(D),
        bowl_loss(H),
        at_origin(D),
        rho=0.3,
        draws=400,
        antithetic=antithetic,
        **options,
    )
    expected = factor * 0.3**2 * TRACE
    assert abs(record.value - expected) < 4 * record.uncertainty
    assert record.uncertainty < 0.05 * expected
    low, high = record.interval
    assert high - low == pytest.approx(2 * student_t(0.95, 399) * record.uncertainty)
    assert (record.draws, record.n, record.groups, record.loss) == (400, 1, 1, 0.0)


def test_a_ball_of_another_norm() -> None:
    """E[x²] = 2ρ²/((d + 1)(d + 2)) for each element of a uniform point with ‖x‖₁ ≤ ρ."""
    record = average_sharpness(
        bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=2.0, noise="ball", p=1.0, draws=600
    )
    expected = TRACE * 2.0**2 / ((D + 1) * (D + 2))
    assert abs(record.value - expected) < 4 * record.uncertainty


def test_adaptive_noise_is_scaled_by_the_weights() -> None:
    w = torch.linspace(-1, 2, D, dtype=torch.float64)
    record = average_sharpness(
        Bowl(w),
        bowl_loss(H),
        at_origin(D),
        rho=0.3,
        adaptive="elementwise",
        eta=0.1,
        draws=600,
        antithetic=True,
    )
    expected = 0.5 * 0.3**2 * float((H.diagonal() * (w.abs() + 0.1) ** 2).sum())
    assert abs(record.value - expected) < 4 * record.uncertainty


def far_out() -> Bowl:
    return Bowl(torch.full((D,), 5.0, dtype=torch.float64))


def test_pairs_remove_the_gradient() -> None:
    options = {"rho": 0.01, "draws": 50}
    single = average_sharpness(far_out(), bowl_loss(H), at_origin(D), **options)
    pairs = average_sharpness(far_out(), bowl_loss(H), at_origin(D), antithetic=True, **options)
    assert pairs.uncertainty < single.uncertainty / 100
    assert pairs.value == pytest.approx(0.5 * 0.01**2 * TRACE, rel=0.1)


def test_groups_change_the_uncertainty_alone() -> None:
    x = torch.zeros(40, D, dtype=torch.float64)
    pairs = list(zip(x.split(4), x.split(4), strict=True))
    together = average_sharpness(bowl_at_rest(D), bowl_loss(H), pairs, rho=0.3, draws=60)
    apart = average_sharpness(bowl_at_rest(D), bowl_loss(H), pairs, rho=0.3, draws=60, m="batch")
    assert abs(together.value - apart.value) < 4 * together.uncertainty
    assert apart.uncertainty < 0.6 * together.uncertainty
    assert (together.groups, apart.groups, apart.m) == (1, 10, 4)


def test_draws_are_those_of_the_seed() -> None:
    def of(**options):
        return average_sharpness(small_net(), per_example, batches(), rho=0.1, **options).value

    assert of(seed=1) == of(seed=1) != of(seed=2)
    few = average_sharpness(bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=0.1, draws=1)
    assert few.uncertainty is None
    assert few.interval is None
    two = average_sharpness(bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=0.1, draws=2)
    low, high = two.interval
    width = student_t(0.95, 1) * 2 * abs(few.value - two.value)  # s = |a - b|/√2, n = 2
    assert high - low == pytest.approx(width, rel=1e-6)


def test_the_error_rises_too() -> None:
    record = average_sharpness(small_net(), per_example, batches(), rho=3.0)
    assert record.error is not None
    assert -1 <= record.error <= 1
    none = average_sharpness(bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=0.1, draws=2)
    assert none.error is None


def test_no_radius_gives_zero() -> None:
    record = average_sharpness(small_net(), per_example, batches(), rho=0.0, draws=3)
    assert (record.value, record.uncertainty) == (0.0, 0.0)


def test_it_goes_on_until_the_tolerance() -> None:
    def of(**options):
        return average_sharpness(
            bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=0.3, draws=10, **options
        )

    record = of(tolerance=0.03)
    low, high = record.interval
    assert record.converged
    assert record.draws > 50
    assert (high - low) / 2 <= 0.03 * record.value
    assert of(tolerance=0.9).draws == 10
    cut = of(tolerance=0.001, most=30)
    assert (cut.draws, cut.converged) == (30, False)


def test_bad_options() -> None:
    for options, message in (
        ({"noise": "normal"}, "unknown noise 'normal'"),
        ({"per": "weight"}, "unknown per 'weight'"),
        ({"noise": "ball", "per": "norm"}, "per: says what ρ is of Gaussian noise"),
        ({"p": math.inf}, "p: inf needs noise='ball'; gaussian noise has p=2"),
        ({"noise": "sphere", "p": 1.0}, "p: 1 needs noise='ball'"),
        ({"draws": 0}, "draws: 0; give a whole number from 1 on"),
        ({"tolerance": 0.0}, "tolerance: 0.0; give a share of the value"),
        ({"tolerance": 0.1, "draws": 1}, "draws: a tolerance needs a spread, so at least 2"),
    ):
        with pytest.raises(InputError) as caught:
            average_sharpness(bowl_at_rest(D), bowl_loss(H), at_origin(D), rho=0.1, **options)
        assert str(caught.value).startswith(message)
    loader = DataLoader(TensorDataset(*batches(size=10)[0]), shuffle=True)
    for options in ({}, {"tolerance": 0.1, "m": "batch"}):
        with pytest.raises(InputError, match="shuffle=False"):
            average_sharpness(small_net(), per_example, loader, rho=0.1, **options)


def coverage(repetitions: int, **options) -> float:
    expected = 0.5 * 0.3**2 * TRACE
    model, loss, data = bowl_at_rest(D), bowl_loss(H), at_origin(D)
    inside = 0
    for seed in range(repetitions):
        found = average_sharpness(model, loss, data, rho=0.3, seed=seed, **options)
        low, high = found.interval
        inside += low <= expected <= high
    return inside / repetitions


@pytest.mark.parametrize("options", [{"draws": 12}, {"draws": 10, "tolerance": 0.2}])
def test_intervals_cover(options) -> None:
    """95% within four standard errors of that share over the repetitions."""
    repetitions = 300
    share = coverage(repetitions, **options)
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repetitions)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"draws": 12},
        {"draws": 12, "antithetic": True},
        {"draws": 10, "tolerance": 0.1},
        {"draws": 20, "tolerance": 0.05},
    ],
)
def test_intervals_cover_between_93_and_97_percent(options) -> None:
    assert 0.93 <= coverage(1500, **options) <= 0.97
