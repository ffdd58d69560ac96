"""Eigenvalues of networks against dense Hessians."""

from __future__ import annotations

import json
import math

import pytest
import torch
from curvature_cases import (
    dense_ggn,
    dense_hessian,
    double_batches,
    double_net,
    tiny_batches,
    tiny_net,
)
from measure_cases import Quadratic, half_squares, per_example
from torch import nn

from lowland.core.errors import InputError
from lowland.measure.curvature import hessian_eigenvalues, max_eigenvalue
from lowland.measure.curvature.lanczos import order


@pytest.mark.parametrize("which", ["algebraic", "magnitude", "smallest"])
@pytest.mark.parametrize("block", [1, 2])
def test_a_network(which, block) -> None:
    model, data = double_net(), double_batches()
    every = torch.linalg.eigvalsh(dense_hessian(model, data))
    expected = every[order(every, which)]
    found = hessian_eigenvalues(model, per_example, data, 5, which=which, block=block)
    assert found.converged
    assert found.complete
    assert found.values == pytest.approx(tuple(expected[:5].tolist()), rel=1e-5)
    assert found.value == found.values[0]
    assert found.uncertainty == found.residuals[0]
    for (low, high), value in zip(found.intervals, expected.tolist(), strict=False):
        assert low - 1e-12 <= value <= high + 1e-12


def test_the_order_by_magnitude_with_negative_eigenvalues() -> None:
    """A published library gave .614, .486, -.301 where .615, .487, .440, -.424, .396 are right."""
    wanted = [0.615, 0.487, 0.440, -0.424, 0.396]
    bulk = torch.linspace(-0.3, 0.35, 60).tolist()
    curvatures = torch.tensor([wanted + bulk] * 3, dtype=torch.float64)
    data = [(torch.zeros_like(curvatures), curvatures)]
    model = Quadratic(*[0.0] * curvatures.shape[1])
    found = hessian_eigenvalues(model, half_squares, data, 5, which="magnitude")
    assert found.converged
    assert found.complete
    assert found.values == pytest.approx(wanted, abs=1e-5)


def test_the_gauss_newton_matrix() -> None:
    model, data = double_net(), double_batches()
    expected = torch.linalg.eigvalsh(dense_ggn(model, data)).flip(0)
    found = hessian_eigenvalues(model, per_example, data, 3, matrix="ggn")
    assert found.values == pytest.approx(tuple(expected[:3].tolist()), rel=1e-5)
    assert "Gauss-Newton" in found.definition


def test_a_block_and_a_single_value() -> None:
    model, data = double_net(), double_batches()
    names = ["head.weight", "head.bias"]
    expected = torch.linalg.eigvalsh(dense_hessian(model, data, names=names))[-1]
    found = max_eigenvalue(model, per_example, data, parameters="head")
    assert found.name == "max_eigenvalue"
    assert found.value == pytest.approx(float(expected), rel=1e-6)
    assert found.size == 15
    assert "head" in found.definition


def test_linear_regression_has_the_spectrum_of_its_data() -> None:
    """Multiple eigenvalues: each of XᵀX/n comes once per output."""
    scales = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(20, 6, dtype=torch.float64)).Q
    x = basis * (20 * scales).sqrt()
    layer = nn.Linear(6, 3, bias=False).double()
    data = list(zip(x.split(7), torch.zeros(20, 3).double().split(7), strict=True))
    found = hessian_eigenvalues(layer, lambda z, y: 0.5 * (z - y).square().sum(1), data, 7)
    assert found.values == pytest.approx((4, 4, 4, 3, 3, 3, 2), rel=1e-6)
    assert found.complete


def test_eigenvectors_by_parameter() -> None:
    model, data = double_net(), double_batches()
    found = hessian_eigenvalues(model, per_example, data, 2, vectors=True, tolerance=1e-8)
    dense = dense_hessian(model, data)
    assert found.vectors is not None
    for value, named in zip(found.values, found.vectors, strict=True):
        assert list(named) == [name for name, _ in model.named_parameters()]
        vector = torch.cat([part.flatten() for part in named.values()])
        assert float(vector.norm()) == pytest.approx(1)
        assert float((dense @ vector - value * vector).norm()) < 1e-7
    plain = found.to_dict()
    assert plain["vectors"] is None
    assert json.loads(json.dumps(plain))["values"] == list(found.values)


def test_the_same_seed_gives_the_same_values() -> None:
    model, data = tiny_net(), tiny_batches()
    first, again, other = (
        hessian_eigenvalues(model, per_example, data, 2, seed=seed) for seed in (0, 0, 1)
    )
    assert first.values == again.values
    assert other.values == pytest.approx(first.values, rel=1e-4)


def test_float64_reaches_residuals_that_float32_does_not() -> None:
    """Rounding in the products is the floor, and the record says that it was hit."""
    model, data = tiny_net(), tiny_batches()
    options = {"tolerance": 1e-9, "max_products": 1000}
    single = hessian_eigenvalues(model, per_example, data, 1, **options)
    assert not single.converged
    assert single.stagnated
    double = hessian_eigenvalues(model, per_example, data, 1, dtype=torch.float64, **options)
    assert double.converged
    assert double.dtype == "float64"
    assert single.value == pytest.approx(double.value, abs=single.residuals[0])


def test_products_in_a_half_type_have_float32_vectors() -> None:
    model, data = tiny_net(), tiny_batches()
    exact = max_eigenvalue(model, per_example, data, dtype=torch.float64)
    rough = max_eigenvalue(
        model, per_example, data, dtype=torch.bfloat16, tolerance=0.2, max_products=40
    )
    assert rough.dtype == "bfloat16"
    assert rough.value == pytest.approx(exact.value, rel=0.1)


def test_few_products_are_flagged() -> None:
    model, data = double_net(), double_batches()
    found = hessian_eigenvalues(model, per_example, data, 5, max_products=13)
    assert not found.converged
    assert not found.complete
    assert found.products <= 13
    assert math.isinf(found.others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k=0, block=1: give 1 or more"),
        ({"k": 66}, "66 eigenvalues of a matrix of 65 rows"),
        ({"which": "largest"}, "known: algebraic, magnitude, smallest"),
        ({"tolerance": 0.0}, "tolerance: 0.0; give a positive"),
        ({"max_products": 5}, "max_products: 5 are too few for 5"),
    ],
)
def test_what_cannot_be_asked_for(options, message) -> None:
    with pytest.raises(InputError, match=message):
        hessian_eigenvalues(
            tiny_net(), per_example, tiny_batches(), **{"max_products": 900, **options}
        )
