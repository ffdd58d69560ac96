"""Every rule against a slow reference written from its formula, several steps long."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import closure_for, data, gradient, losses, network, norm, weights
from torch import Tensor, nn

from lowland.optim import (
    ASAM,
    FSAM,
    MSAM,
    SAM,
    SAMON,
    Elementwise,
    LookSAM,
    MinusRunningMean,
    NormLayers,
    Perturbation,
    SharpnessAware,
)

Rule = Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], list[Tensor]]
RHO = 0.3


def at(model: nn.Module, epsilon: list[Tensor]) -> nn.Module:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, e in zip(moved.parameters(), epsilon, strict=True):
            p.add_(e.to(p.dtype))
    return moved


def sam(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
    g = gradient(model, x, y)
    return gradient(at(model, [RHO * t / norm(g) for t in g]), x, y)


def adaptive(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
    g, w = gradient(model, x, y), weights(model)
    n = norm([v.abs() * t for v, t in zip(w, g, strict=True)])
    return gradient(at(model, [RHO * v**2 * t / n for v, t in zip(w, g, strict=True)]), x, y)


def asam(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
    g = gradient(model, x, y)
    scales = [
        p.detach().abs() + 0.01 if "weight" in name else torch.ones_like(p)
        for name, p in model.named_parameters()
    ]
    n = norm([s * t for s, t in zip(scales, g, strict=True)])
    return gradient(at(model, [RHO * s**2 * t / n for s, t in zip(scales, g, strict=True)]), x, y)


def fsam(after: bool, sigma: float) -> Rule:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
        g = gradient(model, x, y)
        old = memory.get("m")
        new = g if old is None else [0.9 * m + 0.1 * t for m, t in zip(old, g, strict=True)]
        mean = None if old is None else (new if after else old)
        d = g if mean is None else [t - sigma * m for t, m in zip(g, mean, strict=True)]
        memory["m"] = new
        return gradient(at(model, [RHO * t / norm(d) for t in d]), x, y)

    return rule


def full_alone(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
    """Along F-SAM's estimate of the full gradient, which it takes away."""
    g = gradient(model, x, y)
    old = memory.get("m", g)
    memory["m"] = d = [0.9 * m + 0.1 * t for m, t in zip(old, g, strict=True)]
    return gradient(at(model, [RHO * t / norm(d) for t in d]), x, y)


def samon(inverted: bool) -> Rule:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
        inside = {id(p) for m in model if isinstance(m, nn.BatchNorm1d) for p in m.parameters()}
        moves = [(id(p) in inside) != inverted for p in model.parameters()]
        g = [t * keep for t, keep in zip(gradient(model, x, y), moves, strict=True)]
        return gradient(at(model, [RHO * t / norm(g) for t in g]), x, y)

    return rule


def msam(m: int) -> Rule:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in model.parameters()]
        for xs, ys in zip(x.split(m), y.split(m), strict=True):
            part = sam(model, xs, ys, {})
            total = [t + len(xs) / len(x) * p for t, p in zip(total, part, strict=True)]
        return total

    return rule


def looksam(k: int, alpha: float) -> Rule:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
        count = memory["count"] = memory.get("count", -1) + 1
        g = gradient(model, x, y)
        if count % k == 0:
            u = sam(model, x, y, {})
            inner = sum((a * b).sum() for a, b in zip(g, u, strict=True))
            memory["v"] = [b - inner / norm(g) ** 2 * a for a, b in zip(g, u, strict=True)]
            return u
        v = memory["v"]
        return [a + alpha * norm(g) / norm(v) * b for a, b in zip(g, v, strict=True)]

    return rule


def composed(model: nn.Module, x: Tensor, y: Tensor, memory: dict[str, Any]) -> list[Tensor]:
    """F-SAM's direction, on normalization layers only, with ASAM's metric."""
    g, w = gradient(model, x, y), weights(model)
    old = memory.get("m")
    memory["m"] = g if old is None else [0.9 * m + 0.1 * t for m, t in zip(old, g, strict=True)]
    d = g if old is None else [t - m for t, m in zip(g, old, strict=True)]
    inside = {id(p) for m in model if isinstance(m, nn.BatchNorm1d) for p in m.parameters()}
    keep = [id(p) in inside for p in model.parameters()]
    scale = [(v.abs() + 0.01) * k for v, k in zip(w, keep, strict=True)]
    n = norm([s * t for s, t in zip(scale, d, strict=True)])
    return gradient(at(model, [RHO * s**2 * t / n for s, t in zip(scale, d, strict=True)]), x, y)


def build_composed(model: nn.Module, **settings: Any) -> SharpnessAware:
    perturbation = Perturbation(NormLayers(), MinusRunningMean(), Elementwise())
    return SharpnessAware(
        model.parameters(), torch.optim.SGD, model=model, perturbation=perturbation, **settings
    )


def preset(kind: type[SharpnessAware], **own: Any) -> Callable[..., SharpnessAware]:
    def build(model: nn.Module, **settings: Any) -> SharpnessAware:
        return kind(model.parameters(), torch.optim.SGD, model=model, **own, **settings)

    return build


CASES: dict[str, tuple[Callable[..., SharpnessAware], Rule]] = {
    "sam": (preset(SAM), sam),
    "sam adaptive": (preset(SAM, adaptive=True), adaptive),
    "asam": (preset(ASAM), asam),
    "f-sam": (preset(FSAM), fsam(False, 1.0)),
    "f-sam after": (preset(FSAM, ema="after"), fsam(True, 1.0)),
    "f-sam sigma .5": (preset(FSAM, sigma=0.5), fsam(False, 0.5)),
    "f-sam after sigma .5": (preset(FSAM, sigma=0.5, ema="after"), fsam(True, 0.5)),
    "f-sam along the mean": (preset(FSAM, along="mean"), full_alone),
    "sam-on": (preset(SAMON), samon(False)),
    "sam-on complement": (preset(SAMON, no_norm=True), samon(True)),
    "m-sam even": (preset(MSAM, m=4), msam(4)),
    "m-sam ragged": (preset(MSAM, m=5), msam(5)),
    "looksam": (preset(LookSAM, k=3, alpha=0.7), looksam(3, 0.7)),
    "looksam k=1": (preset(LookSAM, k=1), sam),
    "composition": (build_composed, composed),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_the_rule_is_its_formula(name: str, dtype: torch.dtype, seed: int) -> None:
    build, rule = CASES[name]
    model = network(seed, dtype)
    x, y = data(seed, dtype=dtype)
    opt = build(model, rho=RHO, lr=0.1, momentum=0.9)
    twin = copy.deepcopy(model)
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    memory: dict[str, Any] = {}
    for _ in range(5):
        opt.step(loss_fn=losses(model), batch=(x, y))
        u = rule(twin, x, y, memory)
        losses(twin)(x, y)  # the first pass updates running statistics
        for p, t in zip(twin.parameters(), u, strict=True):
            p.grad = t.to(dtype)
        base.step()
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_wrong_rule_is_told_apart() -> None:
    """The comparison above can fail: no rule passes for another's."""
    x, y = data(dtype=torch.float64)
    ends = {}
    for name, (build, _) in CASES.items():
        model = network(dtype=torch.float64)
        opt = build(model, rho=RHO, lr=0.1, momentum=0.9)
        for _ in range(5):
            opt.step(loss_fn=losses(model), batch=(x, y))
        ends[name] = torch.cat([w.flatten() for w in weights(model)])
    same = {("sam", "looksam k=1"), ("f-sam", "f-sam after")}
    names = list(ends)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            distance = (ends[a] - ends[b]).abs().max()
            assert (distance < 1e-9) == ((a, b) in same), (a, b, distance)


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_any_base_gets_u_at_w(base: type[torch.optim.Optimizer]) -> None:
    # Without BatchNorm: a bias before it has no gradient but rounding, which these bases normalize.
    model, (x, y) = network(dtype=torch.float64, norm=False), data(dtype=torch.float64)
    twin = copy.deepcopy(model)
    opt = SAM(model.parameters(), base, rho=RHO, lr=0.01, model=model)
    plain = base(twin.parameters(), lr=0.01)  # type: ignore[call-arg]
    for _ in range(4):
        opt.step(closure_for(opt, model, x, y))
        for p, t in zip(twin.parameters(), sam(twin, x, y, {}), strict=True):
            p.grad = t
        plain.step()
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
