"""One-step sharpness: closed form on quadratics, weights by example, what moves and what not."""

from __future__ import annotations

import math

import pytest
import torch
from measure_cases import Quadratic, batches, data, half_squares, per_example, small_net
from torch import nn
from torch.nn import functional

from lowland.core.errors import InputError
from lowland.measure import one_step_sharpness


def rise(w, x, a, rho: float) -> float:
    """L(w + ρg/‖g‖) - L(w) = ρ‖g‖ + ½ρ² uᵀAu for L = mean ½ Σ_j a_j (w_j - x_j)², u = g/‖g‖."""
    w, x, a = (torch.tensor(v, dtype=torch.float64) for v in (w, x, a))
    g = (a * (w - x)).mean(0)
    u = g / g.norm()
    return float(rho * g.norm() + 0.5 * rho**2 * (a.mean(0) * u * u).sum())


W = [1.0, -2.0]
X = [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [5.0, 1.0], [0.5, 0.0]]
A = [[1.0, 3.0], [1.0, 3.0], [2.0, 0.5], [1.0, 1.0], [4.0, 1.0]]


def quadratic_batches(*sizes: int):
    x, a = torch.tensor(X, dtype=torch.float64), torch.tensor(A, dtype=torch.float64)
    return list(zip(x.split(list(sizes)), a.split(list(sizes)), strict=True))


@pytest.mark.parametrize("rho", [1e-3, 0.1, 2.0])
def test_closed_form_on_a_quadratic(rho) -> None:
    record = one_step_sharpness(Quadratic(*W), half_squares, quadratic_batches(5), rho=rho)
    assert record.value == pytest.approx(rise(W, X, A, rho), rel=1e-10)
    assert (record.m, record.smallest_m, record.batches, record.n) == (5, 5, 1, 5)
    assert record.uncertainty is None
    assert record.rho == rho


def test_ragged_batches_weigh_by_examples() -> None:
    record = one_step_sharpness(Quadratic(*W), half_squares, quadratic_batches(2, 2, 1), rho=0.5)
    parts = [rise(W, X[i:j], A[i:j], 0.5) for i, j in ((0, 2), (2, 4), (4, 5))]
    assert record.value == pytest.approx((2 * parts[0] + 2 * parts[1] + parts[2]) / 5, rel=1e-10)
    assert abs(sum(parts) / 3 - record.value) > 0.01  # what averaging batches would give
    assert (record.m, record.smallest_m, record.batches, record.n) == (2, 1, 3, 5)
    assert record.uncertainty is not None
    assert record.uncertainty > 0


def test_the_standard_error_of_equal_batches_is_the_usual_one() -> None:
    pairs = quadratic_batches(1, 1, 1, 1, 1)
    record = one_step_sharpness(Quadratic(*W), half_squares, pairs, rho=0.5)
    parts = torch.tensor([rise(W, X[i : i + 1], A[i : i + 1], 0.5) for i in range(5)])
    assert record.uncertainty == pytest.approx(float(parts.std() / math.sqrt(5)), rel=1e-5)


def test_smaller_m_is_sharper_here() -> None:
    values = [
        one_step_sharpness(Quadratic(*W), half_squares, quadratic_batches(*sizes), rho=0.5).value
        for sizes in ([1] * 5, [5])
    ]
    assert values[0] > values[1]


def test_mean_losses_and_losses_per_example_agree() -> None:
    model = small_net()
    one = one_step_sharpness(model, per_example, batches(), rho=0.1)
    other = one_step_sharpness(model, nn.CrossEntropyLoss(), batches(), rho=0.1)
    assert one.value == pytest.approx(other.value, rel=1e-4)


def test_a_zero_gradient_gives_zero() -> None:
    pairs = [(torch.tensor([W, W], dtype=torch.float64), torch.ones(2, 2).double())]
    record = one_step_sharpness(Quadratic(*W), half_squares, pairs, rho=0.5)
    assert record.value == 0.0
    mixed = [*pairs, *quadratic_batches(2, 2, 1)[:1]]
    record = one_step_sharpness(Quadratic(*W), half_squares, mixed, rho=0.5)
    assert record.value == pytest.approx(rise(W, X[:2], A[:2], 0.5) / 2)


def test_radius_zero_gives_zero() -> None:
    assert one_step_sharpness(small_net(), per_example, batches(), rho=0.0).value == 0.0


def expected_by_hand(model: nn.Module, rho: float, frozen: tuple[str, ...] = ()) -> float:
    """The definition on a copy of the weights, with the model as it is."""
    images, labels = data()
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    free = {n: p.requires_grad_() for n, p in weights.items() if n not in frozen}

    def loss(w: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = torch.func.functional_call(model, w, (images,))
        return functional.cross_entropy(outputs, labels)

    low = loss(weights)
    gradients = dict(zip(free, torch.autograd.grad(low, list(free.values())), strict=True))
    norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
    moved = {n: w + rho * gradients[n] / norm if n in free else w for n, w in weights.items()}
    return float((loss(moved) - low).detach())


def test_eval_mode_with_batch_norm_and_dropout() -> None:
    model = small_net().train()
    record = one_step_sharpness(model, per_example, batches(size=10), rho=0.3)
    assert record.value == pytest.approx(expected_by_hand(small_net().eval(), 0.3), rel=1e-4)
    assert record.value == one_step_sharpness(model, per_example, batches(size=10), rho=0.3).value
    assert not record.training_mode
    assert "eval mode" in record.definition


def test_training_mode_uses_statistics_of_the_batch() -> None:
    model, other = small_net(), small_net()
    model.block2[3].p = other.block2[3].p = 0.0
    record = one_step_sharpness(model, per_example, batches(size=10), rho=0.3, training_mode=True)
    assert record.value == pytest.approx(expected_by_hand(other.train(), 0.3), rel=1e-4)
    assert "train mode" in record.definition


def test_dropout_draws_the_same_at_both_points() -> None:
    """With other masks at the second point a tiny step would show their difference."""
    record = one_step_sharpness(small_net(), per_example, batches(), rho=1e-4, training_mode=True)
    assert abs(record.value) < 1e-3


def test_frozen_parameters_do_not_move() -> None:
    model, other = small_net().eval(), small_net().eval()
    model.head.requires_grad_(False)
    record = one_step_sharpness(model, per_example, batches(size=10), rho=0.3)
    expected = expected_by_hand(other, 0.3, frozen=("head.weight", "head.bias"))
    assert record.value == pytest.approx(expected, rel=1e-4)


def test_parameters_without_influence_are_allowed() -> None:
    model = Quadratic(*W)
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    record = one_step_sharpness(model, half_squares, quadratic_batches(5), rho=0.5)
    assert record.value == pytest.approx(rise(W, X, A, 0.5))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context) -> None:
    pairs = quadratic_batches(5)
    with context():
        record = one_step_sharpness(Quadratic(*W), half_squares, pairs, rho=0.5)
        assert not torch.is_grad_enabled()
    assert record.value == pytest.approx(rise(W, X, A, 0.5))


def test_a_diverged_model_gives_nan() -> None:
    record = one_step_sharpness(Quadratic(math.nan, 0.0), half_squares, quadratic_batches(5), rho=1)
    assert math.isnan(record.value)
    assert not record.converged


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_a_bad_radius_is_refused(rho) -> None:
    with pytest.raises(InputError, match=r"is not a radius; give a finite number from 0 on"):
        one_step_sharpness(Quadratic(*W), half_squares, quadratic_batches(5), rho=rho)


def test_a_model_that_is_all_frozen_is_refused() -> None:
    model = Quadratic(*W).requires_grad_(False)
    with pytest.raises(InputError, match=r"call model\.requires_grad_\(\) first"):
        one_step_sharpness(model, half_squares, quadratic_batches(5), rho=0.1)


def test_a_detached_loss_is_refused() -> None:
    with pytest.raises(InputError, match="the loss does not depend on the weights; return"):
        one_step_sharpness(
            Quadratic(*W),
            lambda o, t: half_squares(o, t).detach(),
            quadratic_batches(5),
            rho=0.1,
        )


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="batches: no examples"):
        one_step_sharpness(Quadratic(*W), half_squares, [], rho=0.1)
