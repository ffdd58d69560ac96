"""Eigenvalues of a stack, against the instrument and a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowland.measure import max_eigenvalue
from lowland.studies.overparam import curvature, largest_eigenvalues
from lowland.train.stack import Stack


def made(size: int = 4) -> tuple[Stack, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    nets = [nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)) for _ in range(size)]
    return Stack(nets), torch.randn(30, 5), torch.randint(3, (size, 30))


def test_they_are_those_of_the_instrument() -> None:
    stack, x, y = made()
    found = largest_eigenvalues(stack, x, y, products=25)
    for k in range(stack.size):
        alone = max_eigenvalue(stack.member(k), cross_entropy, [(x, y[k])], tolerance=1e-5)
        assert alone.converged
        assert float(found[k]) == pytest.approx(alone.value, rel=1e-4)


def test_few_products_come_from_below_and_close() -> None:
    stack, x, y = made()
    exact = largest_eigenvalues(stack, x, y, products=25)
    few = [largest_eigenvalues(stack, x, y, products=m) for m in (2, 6, 12)]
    assert all((a <= b * (1 + 1e-5)).all() for a, b in zip(few, [*few[1:], exact], strict=True))
    assert torch.allclose(few[-1], exact, rtol=0.01)


def test_a_linear_model_has_the_eigenvalue_of_its_closed_form() -> None:
    """One input of norm r and p = softmax(Wx): H = (diag p - pp')⊗xx', here with p = 1/2."""
    net = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        net.weight.zero_()
    x = torch.tensor([[1.0, 2.0, 0.0, 2.0]])
    found = largest_eigenvalues(Stack([net]), x, torch.tensor([0]), products=8)
    assert float(found) == pytest.approx(0.5 * 9, rel=1e-5)


def test_parts_of_a_stack_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, x, y = made()
    whole = largest_eigenvalues(stack, x, y)
    monkeypatch.setattr(curvature, "ROWS", 40)  # one network of 30 examples at a time
    assert torch.allclose(largest_eigenvalues(stack, x, y), whole, rtol=1e-4)


def test_a_network_that_is_not_finite_is_nan_and_spoils_no_other() -> None:
    stack, x, y = made()
    whole = largest_eigenvalues(stack, x, y)
    stack.parameters["0.weight"][1] = torch.nan
    found = largest_eigenvalues(stack, x, y)
    assert found.isnan().tolist() == [False, True, False, False]
    assert torch.allclose(found[[0, 2, 3]], whole[[0, 2, 3]], rtol=1e-5)


def test_a_product_that_breaks_later_is_nan_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, x, y = made()
    whole = largest_eigenvalues(stack, x, y)
    multiply, asked = curvature._Hessian.__call__, iter(range(100))

    def breaking(self: curvature._Hessian, vectors: torch.Tensor) -> torch.Tensor:
        found = multiply(self, vectors)
        if next(asked) == 3:
            found[1, 0] = torch.inf
        return found

    monkeypatch.setattr(curvature._Hessian, "__call__", breaking)
    found = largest_eigenvalues(stack, x, y)
    assert found.isnan().tolist() == [False, True, False, False]
    assert torch.allclose(found[[0, 2, 3]], whole[[0, 2, 3]], rtol=1e-5)
