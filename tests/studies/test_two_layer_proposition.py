"""Proposition 1 against autograd, and the claims' arithmetic on runs made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lowland.studies.two_layer import ACTIVATIONS, Network, draw
from lowland.studies.two_layer.proposition import RADII, check, sam_step

RELU = ACTIVATIONS["relu"]


@pytest.fixture
def drawn():
    found = draw(RELU, 3, steps=1, units=15)
    student = Network(
        found.student.weight.double(), found.student.outer.double(), found.student.offset.double()
    )
    return student, found.x.double(), found.y.double()


@pytest.mark.parametrize("rho", [0.3, 1e-3])
def test_the_step_is_that_of_autograd(drawn, rho):
    network, x, y = drawn
    step = sam_step(network, x, y, rho, RELU)
    for row in range(3):
        parts = [network.weight[0], network.outer[0], network.offset[0]]

        def loss(weight, outer, offset, row=row):
            hidden = torch.relu(torch.cat([x[row], x.new_ones(1)]) @ weight)
            return 0.5 * (hidden @ outer + offset - y[row]) ** 2

        leaves = [part.clone().requires_grad_() for part in parts]
        gradients = torch.autograd.grad(loss(*leaves), leaves)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        assert float(norm) == pytest.approx(float(step.residual[row].abs() * step.length[row]))
        moved = [
            (p + rho * g / norm).requires_grad_() for p, g in zip(parts, gradients, strict=True)
        ]
        expected = torch.autograd.grad(loss(*moved), moved)[0]
        torch.testing.assert_close(step.gradient[row], expected)


def test_the_two_terms_are_the_gradient_of_loss_plus_rho_times_its_norm(drawn):
    network, x, y = drawn
    rho = 0.2
    step = sam_step(network, x, y, rho, RELU)
    weight = network.weight[0].clone().requires_grad_()
    inputs = torch.cat([x[:1], x.new_ones(1, 1)], 1)
    hidden = torch.relu(inputs @ weight)[0]
    outer = network.outer[0].clone().requires_grad_()
    offset = network.offset[0].clone().requires_grad_()
    value = 0.5 * (hidden @ outer + offset - y[0]) ** 2
    gradients = torch.autograd.grad(value, [weight, outer, offset], create_graph=True)
    regularised = value + rho * torch.sqrt(sum((g**2).sum() for g in gradients))
    (expected,) = torch.autograd.grad(regularised, weight)
    torch.testing.assert_close((step.data_fitting + step.regularisation)[0], expected)


def test_the_check_finds_the_order_and_which_constant_is_right(drawn):
    found = check(*drawn, RELU)
    assert found["order"] == pytest.approx(2, abs=0.05)
    assert found["constant/residual"] == pytest.approx(1, abs=1e-3)
    assert found["constant/loss"] == pytest.approx(math.sqrt(2), abs=2e-3)
    assert found["fitting"] == pytest.approx(1, abs=1e-6)
    assert found["lowered"] == 1
    sizes = [found[f"remainder/{rho:g}"] for rho in RADII]
    assert sizes == sorted(sizes, reverse=True)


def test_the_check_would_see_a_wrong_term(drawn, monkeypatch):
    """Twice the regularisation leaves a remainder of first order."""
    from lowland.studies.two_layer import proposition

    right = sam_step

    def wrong(*arguments):
        import dataclasses

        step = right(*arguments)
        return dataclasses.replace(step, regularisation=2 * step.regularisation)

    monkeypatch.setattr(proposition, "sam_step", wrong)
    assert check(*drawn, RELU)["order"] == pytest.approx(1, abs=0.05)
