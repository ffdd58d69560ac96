"""Closed forms: quadratics, norms, and the reductions between methods."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import Quadratic, data, equal, losses, network, norm, weights
from torch import Tensor, nn

from lowland.optim import (
    ASAM,
    FSAM,
    MSAM,
    SAM,
    Elementwise,
    LookSAM,
    Normalized,
    Perturbation,
    SharpnessAware,
    Step,
)
from lowland.optim.gradient import Gradient, Part
from lowland.optim.looksam import sharpness_part


def epsilon(opt: SharpnessAware, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """ε of a step, seen from inside the perturbed pass."""
    before = weights(model)
    opt.zero_grad()
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        moved = weights(model)
        losses(model)(x, y).mean().backward()
    return [a - b for a, b in zip(moved, before, strict=True)]


@given(seed=st.integers(0, 1000), rho=st.floats(1e-3, 10))
def test_sam_on_a_quadratic(seed: int, rho: float) -> None:
    """u = Hw + ρ·H²w/‖Hw‖, exactly the gradient of f + ρ‖∇f‖."""
    f = Quadratic(seed)
    w, lr = f.w.detach(), 0.1
    opt = SAM(f.parameters(), torch.optim.SGD, rho=rho, lr=lr)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = f()
        loss.backward()
        return loss

    loss = opt.step(closure)
    g = f.H @ w
    u = g + rho * f.H @ g / g.norm()
    torch.testing.assert_close(f.w.detach(), w - lr * u, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(loss, 0.5 * w @ g)
    variable = w.clone().requires_grad_()
    objective = 0.5 * variable @ f.H @ variable + rho * (f.H @ variable).norm()
    torch.testing.assert_close(u, torch.autograd.grad(objective, variable)[0], rtol=1e-9, atol=1e-9)


def test_what_last_says_on_a_quadratic() -> None:
    """L(w), L(w+ε) = L + ρ‖g‖ + ½ρ²·gᵀHg/‖g‖², n = ‖g‖ and ‖ε‖ = ρ."""
    f, rho = Quadratic(3), 0.4
    w = f.w.detach()
    g = f.H @ w
    opt = SAM(f.parameters(), torch.optim.SGD, rho=rho, lr=0.1)
    assert opt.last is None
    opt.step(loss_fn=lambda x: f() * x, batch=torch.ones(4, dtype=torch.float64))
    last = opt.last
    assert last is not None
    assert last.sharpness is not None
    torch.testing.assert_close(last.loss, 0.5 * w @ g)
    expected = rho * g.norm() + 0.5 * rho**2 * (g @ f.H @ g) / g.norm() ** 2
    torch.testing.assert_close(last.sharpness, expected)
    torch.testing.assert_close(last.grad_norm, g.norm())
    torch.testing.assert_close(last.perturbation_norm, torch.tensor(rho, dtype=torch.float64))
    assert last.skipped is False
    assert last.skipped_total == 0


@given(seed=st.integers(0, 1000), rho=st.floats(1e-2, 2))
def test_norms_of_epsilon(seed: int, rho: float) -> None:
    """‖ε‖ = ρ and ε ∥ g for SAM; ‖T⁻¹ε‖ = ρ for ASAM."""
    model, (x, y) = network(seed, torch.float64), data(seed, dtype=torch.float64)
    opt = SAM(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1, model=model)
    e = epsilon(opt, model, x, y)
    assert abs(float(norm(e)) - rho) < 1e-9
    adaptive = ASAM(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1, model=model)
    e = epsilon(adaptive, model, x, y)
    scales = [
        p.detach().abs() + 0.01 if "weight" in name else torch.ones_like(p)
        for name, p in model.named_parameters()
    ]
    assert abs(float(norm([v / s for v, s in zip(e, scales, strict=True)])) - rho) < 1e-9


@given(scale=st.floats(1e-3, 1e3))
def test_epsilon_does_not_depend_on_the_loss_scale(scale: float) -> None:
    model, (x, y) = network(1, torch.float64), data(1, dtype=torch.float64)
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, model=model)
    plain = epsilon(opt, model, x, y)
    before = weights(model)
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, model=model)
    opt.zero_grad()
    (scale * losses(model)(x, y).mean()).backward()
    with opt.perturbed():
        scaled = [a - b for a, b in zip(weights(model), before, strict=True)]
        losses(model)(x, y).mean().backward()
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


def test_asam_is_invariant_to_rescaling_relu_layers_and_sam_is_not() -> None:
    """With η = 0 and no biases, (W₁, W₂) → (a·W₁, W₂/a) leaves the perturbed function as it is."""

    def perturbed_outputs(kind: str, a: float) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 9, bias=False), nn.ReLU(), nn.Linear(9, 3, bias=False))
        model = model.double()
        with torch.no_grad():
            model[0].weight.mul_(a)
            model[2].weight.div_(a)
        x, y = data(dtype=torch.float64)
        metric = {"metric": Elementwise(eta=0.0)} if kind == "asam" else {}
        opt = SharpnessAware(
            model.parameters(),
            torch.optim.SGD,
            rho=1.0,
            lr=0.1,
            perturbation=Perturbation(**metric),  # type: ignore[arg-type]
        )
        losses(model)(x, y).mean().backward()
        with opt.perturbed():
            outputs = model(x)
            losses(model)(x, y).mean().backward()
        return outputs.detach()

    assert (perturbed_outputs("asam", 1.0) - perturbed_outputs("asam", 7.0)).abs().max() < 1e-12
    assert (perturbed_outputs("sam", 1.0) - perturbed_outputs("sam", 7.0)).abs().max() > 0.05


class Ones(Elementwise):
    """T = 1 through the arithmetic of the elementwise metric."""

    def scales(self, part: Part, step: Step) -> dict[int, Tensor | float]:
        return {i: torch.ones_like(p) for i, p in enumerate(part.params)}


REDUCTIONS = {
    "asam with T = 1": lambda m, **k: SharpnessAware(
        m.parameters(), torch.optim.SGD, perturbation=Perturbation(metric=Ones(eta=0.0)), **k
    ),
    "f-sam with σ = 0": lambda m, **k: FSAM(m.parameters(), torch.optim.SGD, sigma=0.0, **k),
    "f-sam along a mean with no memory": lambda m, **k: FSAM(
        m.parameters(), torch.optim.SGD, along="mean", ema_decay=0.0, **k
    ),
    "looksam with k = 1": lambda m, **k: LookSAM(m.parameters(), torch.optim.SGD, k=1, **k),
    "m-sam with m = b": lambda m, **k: MSAM(m.parameters(), torch.optim.SGD, m=12, **k),
    "m-sam with m > b": lambda m, **k: MSAM(m.parameters(), torch.optim.SGD, m=99, **k),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_to_sam_are_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    ends = []
    for build in (REDUCTIONS[name], lambda m, **k: SAM(m.parameters(), torch.optim.SGD, **k)):
        model, (x, y) = network(2, dtype), data(2, dtype=dtype)
        opt = build(model, rho=0.3, lr=0.1, momentum=0.9, model=model)
        for _ in range(6):
            opt.step(loss_fn=losses(model), batch=(x, y))
        ends.append(weights(model))
    assert equal(*ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_shards_are_sam(dtype: torch.dtype) -> None:
    ends = []
    for m in (4, 12):
        model = network(2, dtype, norm=False)
        x, y = data(2, n=4, dtype=dtype)
        opt = MSAM(model.parameters(), torch.optim.SGD, m=m, rho=0.3, lr=0.1)
        opt.step(loss_fn=losses(model), batch=(x.repeat(3, 1), y.repeat(3)))
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b)


def test_m_sam_with_one_example_shards_on_a_quadratic() -> None:
    """u = mean over i of H_i·(w + ρ·H_iw/‖H_iw‖)."""
    torch.manual_seed(0)
    raw = torch.randn(5, 4, 4, dtype=torch.float64)
    H = raw @ raw.transpose(1, 2)
    p = nn.Parameter(torch.randn(4, dtype=torch.float64))
    w = p.detach().clone()
    opt = MSAM([p], torch.optim.SGD, m=1, rho=0.3, lr=0.01)
    opt.step(loss_fn=lambda h: 0.5 * torch.einsum("i,nij,j->n", p, h, p), batch=H)
    g = H @ w
    u = torch.einsum("nij,nj->ni", H, w + 0.3 * g / g.norm(dim=1, keepdim=True)).mean(0)
    torch.testing.assert_close(p.detach(), w - 0.01 * u)


def test_looksam_parts() -> None:
    """⟨g_v, g⟩ = 0, and ‖u − g‖ = α‖g‖ in the steps that reuse it."""
    model, (x, y) = network(4, torch.float64), data(4, dtype=torch.float64)
    opt = LookSAM(model.parameters(), torch.optim.SGD, k=2, alpha=0.6, rho=0.4, lr=0.0, model=model)
    passes = []

    def closure() -> Tensor:
        opt.zero_grad()
        loss = losses(model)(x, y).mean()
        loss.backward()
        passes.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        return loss

    opt.step(closure)
    assert len(passes) == 2
    g = passes[0]
    g_v = [opt.state[p]["sam_gv"] for p in model.parameters()]
    assert abs(float(sum((a * b).sum() for a, b in zip(g, g_v, strict=True)))) < 1e-12
    assert not opt.needs_perturbation
    opt.step(closure)
    assert len(passes) == 3
    u = [p.grad for p in model.parameters() if p.grad is not None]
    distance = norm([a - b for a, b in zip(u, passes[2], strict=True)])
    torch.testing.assert_close(distance, 0.6 * norm(passes[2]))


@given(seed=st.integers(0, 2000))
def test_looksam_does_not_normalize_rounding_noise(seed: int) -> None:
    """Where g̃ is a multiple of g, nothing of g̃ is orthogonal to it, in float32 either."""
    torch.manual_seed(seed)
    p = nn.Parameter(torch.randn(50))
    g = torch.randn(50)
    group = {"params": [p]}
    at_w, away = (Gradient([Part(group, [p], [t])]) for t in (g, 1.7 * g))
    step = SAM([p], torch.optim.SGD, lr=0.1)._engine.begin()
    part = sharpness_part(at_w, away, step)
    assert not part.tensors[0].any()


def test_f_sam_does_not_normalize_rounding_noise() -> None:
    """With a constant gradient d is rounding noise from the second step on: ε = 0 there."""
    p = nn.Parameter(torch.randn(40, generator=torch.Generator().manual_seed(0)))
    c = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 1e3
    opt = FSAM([p], torch.optim.SGD, rho=0.5, lr=1e-3)
    for step in range(4):
        opt.zero_grad()
        (p @ c).backward()
        before = p.detach().clone()
        with opt.perturbed():
            moved = (p.detach() - before).norm()
            (p @ c).backward()
        opt.step()
        assert (abs(moved - 0.5) < 1e-4) if step == 0 else (moved == 0)


def test_one_norm_over_all_groups_and_a_radius_for_each() -> None:
    f = Quadratic(5)
    g = (f.H @ f.w).detach()
    groups = [{"params": [f.a], "rho": 0.2}, {"params": [f.b]}]
    opt = SAM(groups, torch.optim.SGD, rho=0.7, lr=0.1)
    w = f.w.detach()
    f().backward()
    with opt.perturbed():
        e = f.w.detach() - w
        f().backward()
    torch.testing.assert_close(e[:2], 0.2 * g[:2] / g.norm())
    torch.testing.assert_close(e[2:], 0.7 * g[2:] / g.norm())
    opt.step()
    sizes = torch.tensor([0.2, 0.7]) * torch.stack([g[:2].norm(), g[2:].norm()]) / g.norm()
    assert opt.last is not None
    torch.testing.assert_close(opt.last.perturbation_norm, sizes.norm(), check_dtype=False)


def test_a_group_with_radius_zero_stays_at_w_but_counts_in_the_norm() -> None:
    f = Quadratic(5)
    g = (f.H @ f.w).detach()
    w = f.w.detach()
    groups = [{"params": [f.a], "rho": 0.0}, {"params": [f.b], "rho": 0.7}]
    opt = SAM(groups, torch.optim.SGD, lr=0.1)
    f().backward()
    with opt.perturbed():
        e = f.w.detach() - w
        f().backward()
    assert not e[:2].any()
    torch.testing.assert_close(e[2:], 0.7 * g[2:] / g.norm())


def test_the_worst_case_of_a_maximized_objective_is_its_minimum() -> None:
    """With maximize=True the objective is ascended, and ε goes down its gradient."""
    f = Quadratic(6)
    g, w = (f.H @ f.w).detach(), f.w.detach()
    opt = SAM(f.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, maximize=True)
    f().backward()
    with opt.perturbed():
        torch.testing.assert_close(f.w.detach() - w, -0.5 * g / g.norm())
        f().backward()
    opt.step()


def test_zero_gradient_means_no_perturbation() -> None:
    p = nn.Parameter(torch.zeros(4))
    opt = SAM([p], torch.optim.SGD, rho=0.5, lr=0.1)
    (p**2).sum().backward()
    with opt.perturbed():
        assert not p.any()
        (p**2).sum().backward()
    opt.step()
    assert not p.any()


@given(norm_value=st.floats(1e-6, 1e6), rho=st.floats(0, 10))
def test_radius(norm_value: float, rho: float) -> None:
    assert Normalized()(norm_value, rho, {}) * norm_value == pytest.approx(rho, rel=2e-6)
    assert Normalized()(0.0, rho, {}) * 0.0 == 0.0


def test_complex_parameters_are_moved_by_rho() -> None:
    p = nn.Parameter(torch.randn(6, dtype=torch.complex64))
    before = p.detach().clone()
    opt = SAM([p], torch.optim.SGD, rho=0.5, lr=0.1)
    (p.abs() ** 2).sum().backward()
    with opt.perturbed():
        assert (p.detach() - before).norm() == pytest.approx(0.5, rel=1e-5)
        assert (p.abs() ** 2).sum() > (before.abs() ** 2).sum()
        (p.abs() ** 2).sum().backward()
    assert torch.equal(p.detach(), before)
    opt.step()
