"""The four interfaces carry methods that are not presets, in a few lines each."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from problems import Quadratic, data, gradient, losses, network, weights
from torch import Tensor

from lowland.optim import (
    Evaluate,
    Gradient,
    Named,
    Pass,
    Perturbation,
    Program,
    SharpnessAware,
    Step,
    TwoPass,
    Update,
)

SGD = torch.optim.SGD


def test_a_radius_of_ones_own() -> None:
    """Unnormalized SAM: φ(n) = ρ, so that w⁺ = (I − η(H + ρH²))w on a quadratic."""
    f, rho, lr = Quadratic(1), 0.3, 0.1
    w = f.w.detach()
    unnormalized = Perturbation(radius=lambda norm, rho, group: rho + 0.0 * norm)
    opt = SharpnessAware(f.parameters(), SGD, lr=lr, rho=rho, perturbation=unnormalized)
    f().backward()
    with opt.perturbed():
        f().backward()
    opt.step()
    torch.testing.assert_close(f.w.detach(), w - lr * (f.H @ w + rho * f.H @ f.H @ w))


def test_a_combination_of_both_gradients() -> None:
    """u = g̃ + γ·(g̃ − g): what WSAM-like methods descend."""

    def extrapolated(g: Gradient, g_perturbed: Gradient, step: Step) -> Gradient:
        pairs = zip(g_perturbed.tensors, g.tensors, strict=True)
        return g.like([t + 0.5 * (t - s) for t, s in pairs])

    f, rho, lr = Quadratic(2), 0.3, 0.1
    w = f.w.detach()
    opt = SharpnessAware(f.parameters(), SGD, lr=lr, rho=rho, plan=TwoPass(extrapolated))
    f().backward()
    with opt.perturbed():
        f().backward()
    opt.step()
    g = f.H @ w
    gt = f.H @ (w + rho * g / g.norm())
    torch.testing.assert_close(f.w.detach(), w - lr * (gt + 0.5 * (gt - g)))


class Twice:
    """Two ascent steps: w, w+ε₁, w+ε₂ with ε₂ along the gradient at w+ε₁."""

    splits: ClassVar[bool] = False
    keeps_gradient: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ()

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        first = yield Evaluate()
        second = yield Evaluate(at=step.perturb(first))
        third = yield Evaluate(at=step.perturb(second))
        yield Update(third.gradient)


def test_a_plan_of_three_evaluations() -> None:
    f, rho, lr = Quadratic(3), 0.3, 0.1
    w = f.w.detach()
    opt = SharpnessAware(f.parameters(), SGD, lr=lr, rho=rho, plan=Twice())
    opt.step(loss_fn=lambda x: f() * x, batch=torch.ones(1, dtype=torch.float64))
    g = f.H @ w
    for _ in range(2):
        g = f.H @ (w + rho * g / g.norm())
    torch.testing.assert_close(f.w.detach(), w - lr * g)


def test_a_loss_term() -> None:
    """L + λ‖∇L‖ by double backward: on a quadratic exactly SAM with ρ = λ."""

    def gradient_norm(values: Tensor, at: Pass) -> Tensor:
        grads = torch.autograd.grad(values.mean(), list(at.params), create_graph=True)
        return values + 0.3 * torch.sqrt(sum((g**2).sum() for g in grads))

    ends = []
    for options in ({"rho": 0.0, "loss_terms": [gradient_norm]}, {"rho": 0.3}):
        f = Quadratic(4)
        opt = SharpnessAware(f.parameters(), SGD, lr=0.1, **options)  # type: ignore[arg-type]
        for _ in range(3):
            opt.step(loss_fn=lambda x, f=f: f() * x, batch=torch.ones(2, dtype=torch.float64))
        ends.append(f.w.detach())
    torch.testing.assert_close(*ends)


def test_a_selection_by_name() -> None:
    model, (x, y) = network(5, torch.float64), data(5, dtype=torch.float64)
    before, g = weights(model), gradient(model, x, y)
    head = Perturbation(Named("3.*"))
    opt = SharpnessAware(model.parameters(), SGD, lr=0.1, rho=0.4, model=model, perturbation=head)
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        size = torch.cat([t.flatten() for t in g[-2:]]).norm()
        for i, (a, b) in enumerate(zip(weights(model), before, strict=True)):
            expected = 0.4 * g[i] / size if i >= len(g) - 2 else torch.zeros_like(b)
            torch.testing.assert_close(a - b, expected)
        losses(model)(x, y).mean().backward()
    opt.step()
