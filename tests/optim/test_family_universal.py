"""The universal class of sharpness measures: trace, determinant, Frobenius, one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family import (
    BASE,
    DTYPES,
    SGD,
    Drawn,
    batches,
    descend,
    drawn,
    each,
    end_of,
    grad,
    moved,
    within,
)
from problems import Quadratic, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.optim import SAM, DetSAM, FrobSAM, Measure, TraceSAM, UniversalSAM

__all__ = ["drawn"]

Memory = dict[str, Any]


def on(f: Quadratic) -> dict[str, Any]:
    return {"loss_fn": lambda x: f() * x, "batch": torch.ones(2, dtype=torch.float64)}


def value(name: str, deltas: Tensor) -> Tensor:
    """S of the Δ_i; for the variance half of it."""
    if name == "trace":
        return deltas.mean()
    if name == "det":
        return torch.exp(-deltas / 2).mean() ** -2
    if name == "frob":
        return deltas.var() / 2
    return torch.sin(deltas).mean() ** 3


def slopes(name: str, deltas: Tensor) -> Tensor:
    """∂S/∂Δ_i by hand."""
    n = len(deltas)
    if name == "trace":
        return torch.ones(n, dtype=torch.float64) / n
    if name == "det":
        e = torch.exp(-deltas / 2)
        return -2 * e.mean() ** -3 * -0.5 * e / n
    if name == "frob":
        return (deltas - deltas.mean()) / (n - 1)
    return 3 * torch.sin(deltas).mean() ** 2 * torch.cos(deltas) / n


OWN = Measure(lambda x: x**3, torch.sin, "sign")
UNIVERSAL: dict[str, tuple[type[UniversalSAM], dict[str, Any]]] = {
    "trace": (TraceSAM, {"rho": 0.1, "lam": 2.0, "n": 2}),
    "det": (DetSAM, {"rho": 1.0, "lam": 1.0, "n": 3}),
    "frob": (FrobSAM, {"rho": 0.05, "lam": 0.05, "n": 3}),
    "own": (UniversalSAM, {"rho": 0.3, "lam": 0.7, "n": 2, "measure": OWN}),
}


def sides(name: str, drawn: Drawn) -> list[list[Tensor]]:
    """The directions u_i of the last step."""
    return [[t * (0.01 if name == "det" else 1.0) for t in u] for u in drawn.directions]


@DTYPES
@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", UNIVERSAL)
def test_universal_is_its_formula(name: str, paper: bool, dtype: torch.dtype, drawn: Drawn) -> None:
    kind, own = UNIVERSAL[name]
    rho = own["rho"]
    own = {**own, "lam": own["lam"] * (rho**2 if paper else 1.0)}

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Any]:
        around = [moved(model, u, rho) for u in sides(name, drawn)]
        assert len(around) == own["n"]
        first, second, *_ = drawn.directions
        assert not torch.equal(first[0], second[0])
        here = each(model, x, y).mean().double()
        deltas = torch.stack([each(m, x, y).mean().double() - here for m in around]) / rho**2
        factors = own["lam"] * slopes(name, deltas) / (rho**2 if paper else 1.0)
        g, there = grad(model, x, y), [grad(m, x, y) for m in around]
        return [
            t + sum(float(f) * (other[i] - t) for f, other in zip(factors, there, strict=True))
            for i, t in enumerate(g)
        ]

    model = network(9, dtype)
    opt = kind(model.parameters(), SGD, model=model, paper_scaling=paper, **own, **BASE)
    descend(opt, model, rule, batches(dtype), within(dtype) * 3, drawn)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", UNIVERSAL)
def test_universal_is_the_gradient_of_its_objective(name: str, paper: bool, drawn: Drawn) -> None:
    """⟨u, v⟩ is the slope of L + λ·S along v, S times ρ² without `paper_scaling`."""
    kind, own = UNIVERSAL[name]
    rho, (x, y) = own["rho"], data(3, dtype=torch.float64)
    model = network(3, torch.float64, norm=False)
    twin = moved(model, weights(model), 0.0)
    kind(model.parameters(), SGD, lr=1.0, paper_scaling=paper, **own).step(
        loss_fn=losses(model), batch=(x, y)
    )
    u = [a - b for a, b in zip(weights(twin), weights(model), strict=True)]
    v = [torch.randn_like(t) for t in u]

    def objective(t: float) -> float:
        at = moved(twin, v, t)
        here = each(at, x, y).mean()
        far = [each(moved(at, d, rho), x, y).mean() for d in sides(name, drawn)]
        s = value(name, (torch.stack(far) - here) / rho**2)
        return float(here + own["lam"] * s * (1.0 if paper else rho**2))

    slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
    inner = float(sum((a * b).sum() for a, b in zip(u, v, strict=True)))
    assert inner == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_trace_on_a_quadratic(drawn: Drawn) -> None:
    """g̃_i − g = ρHu_i, whose mean over Gaussian directions is 0; and they are not rescaled."""
    terms, rho = [], 0.1
    for seed in range(300):
        f = Quadratic(4)
        w = f.w.detach()
        drawn.clear()
        TraceSAM(f.parameters(), SGD, rho=rho, lr=1.0, seed=seed).step(**on(f))
        u = torch.cat(drawn.directions[0])
        terms.append(w - f.w.detach() - f.H @ w)
        torch.testing.assert_close(terms[-1], rho * f.H @ u, rtol=1e-9, atol=1e-12)
    all_terms = torch.stack(terms)
    spread = rho * f.H.norm(dim=1) / 300**0.5
    assert bool((all_terms.mean(0).abs() < 4 * spread).all())
    sizes = torch.linalg.solve(f.H, all_terms.T).norm(dim=0) / rho
    assert sizes.std() > 0.3  # χ with 6 degrees of freedom has 0.69, a sphere 0


@pytest.mark.parametrize("own", [{"lam": 0.0}, {"rho": 0.0}])
@pytest.mark.parametrize("kind", [TraceSAM, DetSAM, FrobSAM])
def test_universal_without_its_term_is_the_base(kind: Any, own: Any) -> None:
    assert equal(end_of(kind, torch.float32, **own), end_of(SAM, torch.float32, rho=0.0))


@pytest.mark.parametrize("lam", [0.0, -0.5])
def test_universal_says_how_many_passes_it_makes(lam: float) -> None:
    f = Quadratic(4)
    opt = TraceSAM(f.parameters(), SGD, lr=0.1, lam=lam)
    said, made = opt.needs_perturbation, []
    opt.step(loss_fn=lambda x: (made.append(1), f() * x)[1], batch=torch.ones(2))
    assert said == (lam != 0)
    assert len(made) == 1 + said
