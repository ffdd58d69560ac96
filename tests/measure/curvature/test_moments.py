"""Per-example moments and the stability of SAM against the examples' Hessians themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from curvature_cases import (
    TinyNet,
    double_batches,
    double_net,
    example_hessians,
    tiny_batches,
    tiny_net,
)
from measure_cases import Quadratic, half_squares, per_example
from torch import Tensor, nn
from torch.linalg import eigvalsh, matrix_power

from lowland.core.errors import InputError
from lowland.measure.curvature import ExampleHessians, hessian_moments, sam_stability
from lowland.measure.curvature import per_example as module
from lowland.measure.curvature.moment_matrices import spread

ETA, RHO = 0.3, 0.2


@pytest.fixture(scope="module")
def hessians() -> list[Tensor]:
    return example_hessians(double_net(), double_batches())


def mean(matrices: list[Tensor]) -> Tensor:
    return torch.stack(matrices).mean(0)


def apart(hessians: list[Tensor], k: int) -> Tensor:
    return mean([matrix_power(h, k) for h in hessians]) - matrix_power(mean(hessians), k)


@pytest.mark.parametrize(
    "options",
    [{"method": "dense"}, {"method": "products"}, {"method": "products", "vectorised": False}],
)
def test_a_network(hessians, options) -> None:
    model, data = double_net(), double_batches()
    found = hessian_moments(model, per_example, data, tolerance=1e-3, **options)
    assert found.converged
    assert found.orders == (2, 3, 4)
    for k, value in zip(found.orders, found.top, strict=True):
        assert value == pytest.approx(float(eigvalsh(apart(hessians, k))[-1]), rel=1e-5)
    assert found.value == found.top[0]
    assert found.largest == pytest.approx(float(eigvalsh(mean(hessians))[-1]), rel=1e-5)
    trace = float(apart(hessians, 2).trace())
    assert abs(found.trace - trace) <= 3.5 * found.trace_error + 1e-9 * trace
    assert (found.trace_error == 0) == found.dense
    assert found.n == 10


def test_the_spread_is_the_mean_square_distance_to_the_mean(hessians) -> None:
    H = mean(hessians)
    distance = sum(float((h - H).square().sum()) for h in hessians) / len(hessians)
    found = hessian_moments(double_net(), per_example, double_batches())
    assert found.dense
    assert found.trace == pytest.approx(distance, rel=1e-10)


def test_the_trace_of_the_spread_has_an_honest_error() -> None:
    model, data = double_net(), double_batches(6, 6)
    exact = hessian_moments(model, per_example, data, parameters="head").trace
    inside = 0
    with ExampleHessians(model, per_example, data, parameters="head", check=False) as examples:
        for seed in range(40):
            found, error = spread(examples, 8, seed)
            inside += abs(found - exact) <= 2.365 * error
    assert inside >= 33  # 95% of 40 less three standard errors


def test_diagonal_hessians_in_closed_form() -> None:
    curvatures = torch.tensor([[1.0, 2.0, -1.0], [3.0, 2.0, -2.0]], dtype=torch.float64)
    data = [(torch.zeros(2, 3, dtype=torch.float64), curvatures)]
    for method in ("dense", "products"):
        found = hessian_moments(Quadratic(0.0, 0.0, 0.0), half_squares, data, method=method)
        second = (curvatures**2).mean(0) - curvatures.mean(0) ** 2
        third = (curvatures**3).mean(0) - curvatures.mean(0) ** 3
        assert found.top[0] == pytest.approx(float(second.max()))
        assert found.top[1] == pytest.approx(float(third.max()))
        assert found.largest == pytest.approx(2)


def test_examples_that_are_alike_have_no_spread() -> None:
    data = [(torch.zeros(4, 3).double(), torch.tensor([[1.0, 2.0, 3.0]]).double().repeat(4, 1))]
    found = hessian_moments(Quadratic(0.0, 0.0, 0.0), half_squares, data)
    assert found.top == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.trace == pytest.approx(0, abs=1e-12)


def condition(hessians: list[Tensor], eta: float, rho: float) -> tuple[Tensor, Tensor]:
    """The two forms of the condition: by moments, and as the mean of a square."""
    H, eye = mean(hessians), torch.eye(len(hessians[0]), dtype=torch.float64)
    by_moments = (
        matrix_power(eye - eta * H - eta * rho * H @ H, 2)
        + eta * (eta - 2 * rho) * apart(hessians, 2)
        + 2 * eta**2 * rho * apart(hessians, 3)
        + eta**2 * rho**2 * apart(hessians, 4)
    )
    of_steps = mean([matrix_power(eye - eta * h - eta * rho * h @ h, 2) for h in hessians])
    return by_moments, of_steps


def test_the_identity_of_the_two_forms(hessians) -> None:
    by_moments, of_steps = condition(hessians, ETA, RHO)
    assert float((by_moments - of_steps).abs().max() / of_steps.abs().max()) < 2e-15


@pytest.mark.parametrize("method", ["dense", "products"])
@pytest.mark.parametrize(("eta", "rho"), [(ETA, RHO), (ETA, 0.0), (0.001, 0.05)])
def test_the_stability_condition(hessians, method, eta, rho) -> None:
    expected = float(eigvalsh(condition(hessians, eta, rho)[0])[-1])
    model, data = double_net(), double_batches()
    found = sam_stability(model, per_example, data, lr=eta, rho=rho, method=method, tolerance=1e-5)
    assert found.converged
    assert found.value == pytest.approx(expected, rel=1e-7)
    assert found.excess == pytest.approx(expected - 1, abs=1e-7)
    assert found.stable == (expected <= 1 + 1e-9)


def test_stable_and_unstable_steps_in_closed_form() -> None:
    """One example with curvature 2: SGD is stable up to η = 1, SAM up to η·2·(1 + 2ρ) = 2."""
    data = [(torch.zeros(1, 1).double(), torch.full((1, 1), 2.0).double())]

    def stable(lr: float, rho: float, method: str = "auto") -> bool | None:
        found = sam_stability(Quadratic(0.0), half_squares, data, lr=lr, rho=rho, method=method)
        return found.stable

    assert stable(0.99, 0.0)
    assert not stable(1.01, 0.0)
    assert not stable(0.99, 0.05)
    assert stable(0.9, 0.05)
    assert stable(0.9, 0.05, "products")


def test_directions_that_no_example_sees_are_stable() -> None:
    """More weights than examples: the largest eigenvalue is 1, and that is no instability."""
    curvatures = torch.tensor([[1.0, 0.0, 0.0, 0.5]] * 2)
    data = [(torch.zeros(2, 4), curvatures)]
    model = Quadratic(0.0, 0.0, 0.0, 0.0).float()
    for method in ("dense", "products"):
        found = sam_stability(model, half_squares, data, lr=0.1, rho=0.1, method=method)
        assert found.stable
        assert found.value == pytest.approx(1, abs=1e-6)


def test_a_short_search_cannot_tell() -> None:
    model, data = double_net(), double_batches()
    found = sam_stability(
        model, per_example, data, lr=1e-4, rho=0.1, method="products", max_products=5
    )
    assert not found.converged
    assert found.stable is None


def test_mean_losses_are_taken_apart_by_batches_of_one() -> None:
    model, data = double_net(), double_batches()
    found = hessian_moments(model, nn.CrossEntropyLoss(), data, orders=(2,))
    assert found.top == hessian_moments(model, per_example, data, orders=(2,)).top


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


@pytest.mark.parametrize("instrument", [hessian_moments, sam_stability])
def test_a_loss_across_examples_is_refused(instrument) -> None:
    options: dict[str, Any] = {"lr": 0.1, "rho": 0.1} if instrument is sam_stability else {}
    with pytest.raises(InputError, match="give a loss that is a mean over examples"):
        instrument(double_net(), contrastive, double_batches(), **options)


class Recurrent(nn.Module):
    """Its weights cannot be swapped for others, so that examples are taken one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x[:, 0])[0][:, -1]


@pytest.mark.parametrize(("make", "together"), [(TinyNet, True), (Recurrent, False)])
def test_one_at_a_time_and_together_agree(make, together) -> None:
    torch.manual_seed(0)
    model, data = make().double(), [(x, y % 2) for x, y in double_batches()]
    results = []
    for vectorised in (True, False):
        with ExampleHessians(model, per_example, data, vectorised=vectorised) as examples:
            vector = torch.linspace(-1, 1, examples.layout.size, dtype=torch.float64)
            results.append(examples.mean(lambda hessian, v=vector: hessian(hessian(v))))
            assert examples.products == pytest.approx(2)
            if vectorised and together:
                assert examples.vectorised
            if not vectorised:
                assert not examples.vectorised
    assert torch.allclose(*results, rtol=1e-10, atol=1e-14)


def test_examples_together_are_not_trusted_unless_they_agree(monkeypatch) -> None:
    right = ExampleHessians._several

    def wrong(self: ExampleHessians, *given: Any) -> Tensor:
        return 1.01 * right(self, *given)

    monkeypatch.setattr(ExampleHessians, "_several", wrong)
    with ExampleHessians(double_net(), per_example, double_batches()) as examples:
        assert not examples.vectorised


def test_chunks_of_a_batch_give_the_same(monkeypatch) -> None:
    model, data = double_net(), double_batches(9, 9)
    options: dict[str, Any] = {"orders": (2,), "method": "products", "max_products": 6, "probes": 2}
    whole = hessian_moments(model, per_example, data, **options)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 65 * 8 * 2)  # two examples at a time
    parts = hessian_moments(model, per_example, data, **options)
    assert parts.value == pytest.approx(whole.value, rel=1e-9)


def test_float64_for_a_float32_model(hessians) -> None:
    found = hessian_moments(tiny_net(), per_example, tiny_batches(), dtype=torch.float64)
    single = hessian_moments(
        tiny_net(), per_example, tiny_batches(), method="products", orders=(2,), probes=2
    )
    assert single.dtype == "float32"
    assert single.value == pytest.approx(found.value, rel=1e-4)


def test_a_closed_one_is_not_used() -> None:
    examples = ExampleHessians(tiny_net(), per_example, tiny_batches())
    with pytest.raises(InputError, match="inside `with`"):
        examples.mean(lambda hessian: hessian(torch.ones(65)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": ()}, r"orders: \(\); give whole numbers from 2"),
        ({"orders": (1,)}, "give whole numbers from 2"),
        ({"method": "exact"}, "known: auto, dense, products"),
        ({"probes": 1}, "a standard error needs at least 2"),
        ({"max_products": 3}, "max_products: 3; give at least 4"),
        ({"tolerance": math.nan}, "tolerance: nan; give a positive"),
    ],
)
def test_what_cannot_be_asked_for(options, message) -> None:
    with pytest.raises(InputError, match=message):
        hessian_moments(tiny_net(), per_example, tiny_batches(), **options)


@pytest.mark.parametrize(("lr", "rho"), [(0.0, 0.1), (math.inf, 0.1), (0.1, -1.0)])
def test_steps_that_are_none(lr, rho) -> None:
    with pytest.raises(InputError, match="give a positive learning rate and rho from 0 on"):
        sam_stability(tiny_net(), per_example, tiny_batches(), lr=lr, rho=rho)
