"""Effective, stable and other ranks: formulas, closed forms, conventions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import rank_family_oracle
import rank_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowland.core.errors import InputError
from lowland.measure.features.family import feature_spectrum
from lowland.measure.features.rank import feature_rank
from lowland.measure.features.ranks import (
    effective_rank,
    entropy_rank,
    mean_energy,
    numerical_rank,
    participation_ratio,
    rankme,
    stable_rank,
)

CENTERS = ["unit", "example", "none"]
FUNCTIONS = [
    effective_rank,
    rankme,
    entropy_rank,
    stable_rank,
    participation_ratio,
    numerical_rank,
]


def features(n: int, d: int, seed: int = 0, offset: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator) @ torch.randn(4, d, generator=generator)
    return (x + 0.3 * torch.randn(n, d, generator=generator) + offset).relu()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(3, 30),
    d=st.integers(3, 30),
    seed=st.integers(0, 10**6),
    center=st.sampled_from(CENTERS),
)
def test_each_is_its_formula(n, d, seed, center) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 0.5
    found = feature_spectrum(x, center)
    oracle = rank_family_oracle
    array = x.numpy()
    near = {"rel": 1e-5}  # a zero among σ, which centring makes, is a square root of rounding
    assert found.effective_rank().value == pytest.approx(
        oracle.effective_rank(array, center), **near
    )
    assert found.rankme().value == pytest.approx(oracle.rankme(array, center, 1e-7), **near)
    assert found.entropy_rank().value == pytest.approx(oracle.entropy_rank(array, center))
    assert found.stable_rank().value == pytest.approx(oracle.stable_rank(array, center))
    ratio = found.participation_ratio().value
    assert ratio == pytest.approx(oracle.participation_ratio(array, center))
    for share, rank in found.rank((0.5, 0.9)).ranks.items():
        assert rank in rank_oracle.possible_ranks(array, share, center)
    assert 1 <= found.stable_rank().value <= ratio * (1 + 1e-9)
    assert ratio <= found.entropy_rank().value * (1 + 1e-9)
    assert found.entropy_rank().value <= found.effective_rank().value * (1 + 1e-9)
    assert found.effective_rank().value <= min(n, d) * (1 + 1e-9)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_equal_singular_values_have_full_rank_by_all(function) -> None:
    q = torch.linalg.qr(torch.randn(40, 7, dtype=torch.float64))[0]
    assert function(q, "none").value == pytest.approx(7, rel=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("center", CENTERS)
def test_zero_features_have_rank_zero_by_all(function, center) -> None:
    record = function(torch.zeros(5, 3), center)
    assert record.value == 0
    assert math.isnan(record.mean_energy)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_direction_is_one_by_all(function) -> None:
    x = torch.outer(torch.randn(30), torch.randn(9))
    assert function(x, "none").value == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e30, 1e200])
def test_scale_does_not_matter(function, scale) -> None:
    x = features(20, 10).double()
    assert function(x * scale).value == pytest.approx(function(x).value)


def test_published_definitions_are_the_defaults() -> None:
    x = features(30, 12)
    for function, center in [(f, "none") for f in FUNCTIONS if f is not participation_ratio] + [
        (participation_ratio, "unit")
    ]:
        record = function(x)
        assert record.center == record.options["center"] == center
        assert record.value == function(x, center).value
        assert record.value != function(x, "unit" if center == "none" else "none").value or (
            function is numerical_rank
        )


def test_closed_forms() -> None:
    x = torch.diag(torch.tensor([3.0, 4.0]).double())
    assert stable_rank(x).value == pytest.approx(25 / 16)
    assert participation_ratio(x, "none").value == pytest.approx(625 / (81 + 256))
    p, q = 3 / 7, 4 / 7
    assert effective_rank(x).value == pytest.approx(p**-p * q**-q)
    assert effective_rank(x).entropy == pytest.approx(-p * math.log(p) - q * math.log(q))
    p, q = 9 / 25, 16 / 25
    assert entropy_rank(x).value == pytest.approx(p**-p * q**-q)


def test_rankme_adds_epsilon_to_zeros_too() -> None:
    x = torch.zeros(10, 6)
    x[0, 0] = 1.0
    p = [1 + 1e-3] + [1e-3] * 5
    assert rankme(x, epsilon=1e-3).value == pytest.approx(rank_family_oracle.exp_entropy(p))
    assert rankme(x, epsilon=0).value == effective_rank(x).value == 1
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"epsilon: .* is not a number from 0 on"):
            rankme(x, epsilon=bad)


class TestParticipation:
    def test_few_examples_are_corrected(self) -> None:
        """White features: γ = d, and γ̂ ≈ 1/(1/n + 1/d)."""
        x = torch.randn(400, 200, generator=torch.Generator().manual_seed(0))
        naive = participation_ratio(x).value
        assert naive == pytest.approx(1 / (1 / 400 + 1 / 200), rel=0.02)
        assert participation_ratio(x, correction="examples").value == pytest.approx(200, rel=0.03)

    def test_few_features_are_corrected(self) -> None:
        """10 directions seen through 60 features: γ = 10."""
        generator = torch.Generator().manual_seed(0)
        estimates = []
        for _ in range(20):
            x = torch.randn(80, 10, generator=generator) @ torch.randn(10, 60, generator=generator)
            estimates.append(
                [
                    participation_ratio(x, correction=c).value
                    for c in ("none", "examples", "examples and features")
                ]
            )
        naive, examples, both = np.mean(estimates, axis=0)
        assert naive < examples < both
        assert both == pytest.approx(10, rel=0.05)
        assert naive < 8.5

    def test_a_sample_that_cannot_tell_says_so(self) -> None:
        assert participation_ratio(torch.eye(5), "none", correction="examples").value == math.inf

    def test_an_unknown_correction_is_refused(self) -> None:
        with pytest.raises(InputError, match="unknown correction 'example'"):
            participation_ratio(torch.eye(3), correction="example")


class TestNumerical:
    @pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)])
    @pytest.mark.parametrize("r", [1, 7, 40])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_numpys(self, shape, r, dtype) -> None:
        torch.manual_seed(r)
        x = torch.randn(shape[0], r, dtype=dtype) @ torch.randn(r, shape[1], dtype=dtype)
        assert numerical_rank(x).value == np.linalg.matrix_rank(x.numpy()) == r

    @pytest.mark.parametrize("small", [1e-3, 1e-8, 1e-11])
    @pytest.mark.parametrize("center", CENTERS)
    def test_float64_resolves_what_squares_do_not(self, small, center) -> None:
        q = torch.linalg.qr(torch.randn(30, 4, dtype=torch.float64) @ torch.randn(4, 4).double())[0]
        x = q * torch.tensor([1.0, 0.5, small, small])
        values = rank_family_oracle.singular_values(x.numpy(), center)
        expected = int((values > 30 * 2.0**-52 * values[0]).sum())
        assert numerical_rank(x, center).value == expected

    def test_a_tolerance_of_its_own(self) -> None:
        x = torch.diag(torch.tensor([1.0, 0.1, 0.01]))
        assert [numerical_rank(x, tolerance=t).value for t in (0.5, 0.05, 0.005)] == [1, 2, 3]
        for bad in (0, 1, -0.1, "scipy", math.nan):
            with pytest.raises(InputError, match=r"tolerance: .* is neither 'numpy' nor between"):
                numerical_rank(x, tolerance=bad)

    def test_a_stream_too_coarse_for_the_tolerance_is_refused(self) -> None:
        x = torch.eye(4, dtype=torch.float64)
        with pytest.raises(InputError, match=r"is below .*, what squared singular values resolve"):
            numerical_rank(lambda: iter([x]))
        assert numerical_rank(lambda: iter([x]), tolerance=1e-3).value == 4
        assert numerical_rank(lambda: iter([x.float()])).value == 4

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
    def test_other_types(self, dtype) -> None:
        x = (torch.eye(6) * 3).to(dtype)
        assert numerical_rank(x).value == 6


def test_all_from_one_spectrum() -> None:
    x = features(50, 20)
    found = feature_spectrum(x, "unit").all((0.99, 0.9))
    assert list(found) == [
        "feature_rank",
        "effective_rank",
        "rankme",
        "entropy_rank",
        "stable_rank",
        "participation_ratio",
        "numerical_rank",
    ]
    assert found["feature_rank"].ranks == feature_rank(x, (0.99, 0.9)).ranks
    for function in FUNCTIONS:
        assert found[function.__name__].value == function(x, "unit").value
    for record in found.values():
        json.dumps(record.to_dict())
        assert "each feature minus its mean" in record.definition
        assert record.n == 50


def test_the_spectrum_is_a_frozen_record() -> None:
    record = feature_spectrum(features(50, 20), "none")
    json.dumps(record.to_dict())
    assert record.value == 20
    with pytest.raises(ValueError, match="read-only"):
        record.energies[0] = 0
    with pytest.raises(AttributeError):
        record.value = 3


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_mean_energy(shape) -> None:
    x = features(*shape)
    expected = float(x.mean(0).square().sum() / x.square().sum(1).mean())
    assert mean_energy(x).value == pytest.approx(expected)
    assert mean_energy(lambda: iter(x.split(3))).value == pytest.approx(expected)
    assert mean_energy(x).value == pytest.approx(feature_rank(x).mean_energy)


def test_mean_energy_of_nothing_is_nan_as_in_the_rank() -> None:
    """A block that has died would otherwise end an inspection of the others."""
    dead = torch.zeros(3, 4)
    assert math.isnan(mean_energy(dead).value)
    assert math.isnan(feature_rank(dead).mean_energy)


@pytest.mark.parametrize("function", [*FUNCTIONS, feature_spectrum])
def test_bad_input_is_one_line(function) -> None:
    with pytest.raises(InputError, match="features: NaN or infinity"):
        function(torch.tensor([[math.nan, 1.0]]))
    with pytest.raises(InputError, match="unknown center"):
        function(torch.eye(3), "column")
