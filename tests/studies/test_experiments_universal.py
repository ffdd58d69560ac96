"""The universal class's functionals against closed forms, and its trainings against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.seeds import derived_seed
from lowland.optim import TraceSAM
from lowland.studies.methods.experiments import universal
from lowland.studies.methods.experiments.training import batches, digits, error, network, update

SMALL = {"examples": 48, "hidden": 2, "steps": 6, "evaluations": 2, "batch_size": 16}


def small(seed: int = 3) -> nn.Sequential:
    return network((16, 2, 10), seed=seed, activation=nn.Tanh, dtype=torch.float64)


def test_the_hessian_is_the_derivative_of_the_gradient() -> None:
    """Column by column, by central differences of the gradient."""
    model, data = small(), universal.pooled_digits(48)
    matrix = universal.loss_hessian(model, data.train)
    params = list(model.parameters())

    def gradient() -> Tensor:
        loss = cross_entropy(model(data.train[0]), data.train[1])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])

    columns, h = [], 1e-5
    for param in params:
        for i in range(param.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    param.view(-1)[i] += sign * h
                sides.append(gradient())
                with torch.no_grad():
                    param.view(-1)[i] -= sign * h
            columns.append((sides[0] - sides[1]) / (2 * h))
    assert matrix.shape == (64, 64)
    torch.testing.assert_close(matrix, torch.stack(columns, 1), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(matrix, matrix.T)


def test_functionals_of_a_diagonal_have_closed_forms() -> None:
    """E exp(−h·u²/4) for u uniform on [−c, c] is √π·erf(c√h/2)/(c√h), and coordinates are
    independent."""
    h = torch.linspace(2e3, 4e4, 12, dtype=torch.float64)
    found = universal.functionals(torch.diag(h))
    assert found["trace"] == pytest.approx(float(h.sum()) / 2)
    assert found["frobenius"] == pytest.approx(float((h**2).sum()))
    c = universal.CUBE
    roots = [math.sqrt(value) for value in h.tolist()]
    means = [math.sqrt(math.pi) * math.erf(c * r / 2) / (c * r) for r in roots]
    exact = -2 * sum(map(math.log, means))
    assert 1.5 < exact < 5  # far from the second order
    assert found["determinant"] == pytest.approx(exact, rel=0.03)


def test_functionals_of_a_flat_loss_are_zero_and_a_small_one_is_second_order() -> None:
    assert universal.functionals(torch.zeros(5, 5, dtype=torch.float64)) == {
        "trace": 0.0,
        "determinant": 0.0,
        "frobenius": 0.0,
    }
    draws = torch.Generator().manual_seed(0)
    a = torch.randn(20, 20, generator=draws, dtype=torch.float64)
    matrix = a @ a.T
    second = universal.CUBE**2 / 6 * float(matrix.trace())
    assert universal.functionals(matrix)["determinant"] == pytest.approx(second, rel=0.03)


def test_pooled_digits_are_means_of_four_pixels_standardized_by_the_training_ones() -> None:
    data = universal.pooled_digits(48)
    assert data.train[0].shape == (48, 1, 4, 4)
    whole = digits(torch.float64)
    blocks = whole.test[0].reshape(-1, 4, 2, 4, 2).mean((2, 4))
    flat = data.test[0][:, 0]
    # an affine map of each pixel, the same for all images
    for row, column in ((1, 1), (2, 3)):
        x, y = blocks[:, row, column], flat[:, row, column]
        slope = (y[x.argmax()] - y[x.argmin()]) / (x.max() - x.min())
        torch.testing.assert_close(y - y[0], slope * (x - x[0]))
    zero = torch.zeros(1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(data.train[0].mean(0), zero)


@pytest.mark.parametrize(("method", "rho"), [("none", 0.0), ("trace-sam", 0.1)])
def test_a_training_is_a_plain_loop(method: str, rho: float) -> None:
    rows = list(universal.train(seed=3, rho=rho, method=method, **SMALL))
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert rows == list(universal.train(seed=3, rho=rho, method=method, **SMALL))
    model, data = small(), universal.pooled_digits(48)
    opt = TraceSAM(
        model.parameters(),
        torch.optim.SGD,
        lr=0.3,
        rho=rho or 1.0,
        lam=1.0 if rho else 0.0,
        seed=derived_seed(3, "directions"),
    )
    for x, y in batches(data.train, 16, seed=3, steps=6):
        before = [p.detach().clone() for p in model.parameters()]

        def losses(x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(model(x), y, reduction="none")

        if rho:
            update(opt, losses, (x, y))
            continue
        gradients = torch.autograd.grad(losses(x, y).mean(), list(model.parameters()))
        with torch.no_grad():
            for p, w, g in zip(model.parameters(), before, gradients, strict=True):
                p.copy_(w - 0.3 * g)
    with torch.no_grad():
        loss = cross_entropy(model(data.train[0]), data.train[1])
    assert rows[-1]["train/loss"] == pytest.approx(float(loss), rel=1e-12)
    assert rows[-1]["test/error"] == error(model, data.test)
    trace = universal.functionals(universal.loss_hessian(model, data.train))["trace"]
    assert rows[-1]["trace"] == pytest.approx(trace, rel=1e-9)


def test_batches_are_epochs_in_fresh_orders() -> None:
    numbers = torch.arange(10)
    seen = [b[0].tolist() for b in batches((numbers, numbers), 4, seed=1, steps=5)]
    assert [len(batch) for batch in seen] == [4] * 5
    for epoch in (seen[0] + seen[1], seen[2] + seen[3]):
        assert len(set(epoch)) == 8
    assert seen[0] + seen[1] != seen[2] + seen[3]
    again = [b[1].tolist() for b in batches((numbers, numbers), 4, seed=1, steps=5)]
    assert again == seen
    assert seen != [b[0].tolist() for b in batches((numbers, numbers), 4, seed=2, steps=5)]
