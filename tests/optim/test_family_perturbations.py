"""Perturbations and combinations of the family against slow references from their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import data, equal, gradient, losses, norm, weights
from torch import Tensor, nn

from lowland.optim import (
    ASAM,
    AWP,
    GCSAM,
    GSAM,
    SAM,
    USAM,
    WSAM,
    Elementwise,
    LastLayerSAM,
    LayerwiseSAM,
    MongeSAM,
    MuP2,
    Named,
    Perturbation,
    SharpnessAware,
    TwoPass,
    UnifiedSAM,
)
from lowland.optim.gsam import MinusOrthogonal

SGD, INF = torch.optim.SGD, math.inf
Tensors = list[Tensor]
Epsilon = Callable[[nn.Module, Tensors, float, int, float], Tensors]
"""(model at w, g, ρ, number of the step from 1, lr) → ε."""
Combination = Callable[[Tensors, Tensors], Tensors]


def small(seed: int, dtype: torch.dtype, k: int = 1) -> nn.Module:
    """Linear, convolution, normalization and output layer, k times as wide."""
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 6 * k), nn.Tanh(), nn.Unflatten(1, (2 * k, 3))]
    layers += [nn.Conv1d(2 * k, 4 * k, 2, bias=False), nn.BatchNorm1d(4 * k), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * k, 3))
    with torch.no_grad():
        model[4].bias.normal_()
    return model.to(dtype)


def at(model: nn.Module, epsilon: Tensors) -> nn.Module:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, e in zip(moved.parameters(), epsilon, strict=True):
            p.copy_(p + e)
    return moved


def dot(a: Tensors, b: Tensors) -> Tensor:
    return sum((s * t).sum() for s, t in zip(a, b, strict=True))  # type: ignore[return-value]


def steepest(v: Tensors, rho: float, p: float) -> Tensors:
    """ρ·sign(v)·|v|^(q−1)/(‖v‖_q^q)^(1/p)."""
    if p == INF:
        return [rho * t.sign() for t in v]
    q = p / (p - 1)
    total = sum((t.abs() ** q).sum() for t in v)
    return [rho * t.sign() * t.abs() ** (q - 1) / total ** (1 / p) for t in v]


def sam(p: float = 2.0) -> Epsilon:
    return lambda model, g, rho, t, lr: steepest(g, rho, p)


def unified(lam: Callable[[int], float]) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        return [rho * (1 - lam(t) + lam(t) / norm(g)) * v for v in g]

    return epsilon


def scaling(name: str, w: Tensor, kind: str, eta: float, scale_bias: bool) -> Tensor:
    """T of one tensor, as large as it."""
    T = torch.ones_like(w)
    if not (scale_bias or "weight" in name):
        return T
    if kind == "layerwise":
        return T * (torch.sqrt((w**2).sum()) + eta)
    if kind == "filterwise" and w.ndim > 1:
        for f in range(len(w)):
            T[f] = torch.sqrt((w[f] ** 2).sum()) + eta
        return T
    return w.abs() + eta


def asam(kind: str = "elementwise", p: float = 2.0, eta: float = 0.01, bias: bool = False) -> Any:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        T = [scaling(n, w.detach(), kind, eta, bias) for n, w in model.named_parameters()]
        e = steepest([s * v for s, v in zip(T, g, strict=True)], rho, p)
        return [s * v for s, v in zip(T, e, strict=True)]

    return epsilon


def layerwise(by_weight: bool, least: int = 0) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        out = []
        for w, v in zip(weights(model), g, strict=True):
            size = torch.sqrt((w**2).sum()) if by_weight else 1.0
            out.append(rho * size * v / torch.sqrt((v**2).sum()) * (w.ndim >= least))
        return out

    return epsilon


def masked(*names: str) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        named = [n for n, _ in model.named_parameters()]
        kept = [v * (n in names) for n, v in zip(named, g, strict=True)]
        return [rho * v / norm(kept) for v in kept]

    return epsilon


def monge(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
    n = norm(g)
    return [rho * v / (n * torch.sqrt(1 + n**2)) for v in g]


ROLES = {
    "0.weight": "in", "0.bias": "in", "3.weight": "hidden", "4.weight": "in", "4.bias": "in",
    "7.weight": "out", "7.bias": "fixed",
}  # fmt: skip


def mup(k: float) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        of = {"in": k, "hidden": 1.0, "out": 1 / k, "fixed": 1.0}
        s = [of[ROLES[n]] for n, _ in model.named_parameters()]
        D = torch.sqrt(sum(a * (v**2).sum() for a, v in zip(s, g, strict=True)))
        return [rho * a * v / D for a, v in zip(s, g, strict=True)]

    return epsilon


def centered(v: Tensor, least: int = 2) -> Tensor:
    if v.ndim < least:
        return v
    return torch.stack([row - row.sum() / row.numel() for row in v])


def gcsam(after: bool = False, least: int = 2) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        d = [centered(v, least) for v in g]
        return [rho * v / norm(d if after else g) for v in d]

    return epsilon


def following(rho_min: float, lr_max: float, lr_min: float) -> Epsilon:
    def epsilon(model: nn.Module, g: Tensors, rho: float, t: int, lr: float) -> Tensors:
        now = rho_min + (rho - rho_min) * (lr - lr_min) / (lr_max - lr_min)
        return [now * v / norm(g) for v in g]

    return epsilon


def perturbed(g: Tensors, h: Tensors) -> Tensors:
    return h


def minus_orthogonal(alpha: float) -> Combination:
    def u(g: Tensors, h: Tensors) -> Tensors:
        share = dot(g, h) / dot(h, h)
        return [b - alpha * (a - share * b) for a, b in zip(g, h, strict=True)]

    return u


def plus_orthogonal(alpha: float) -> Combination:
    def u(g: Tensors, h: Tensors) -> Tensors:
        share = dot(g, h) / dot(g, g)
        return [a + alpha * (b - share * a) for a, b in zip(g, h, strict=True)]

    return u


def weighted(kappa: float) -> Combination:
    return lambda g, h: [a + kappa * (b - a) for a, b in zip(g, h, strict=True)]


def gsam_over(perturbation: Perturbation) -> Callable[..., SharpnessAware]:
    def build(params: Any, base: Any, **settings: Any) -> SharpnessAware:
        plan = TwoPass(MinusOrthogonal(0.6))
        return SharpnessAware(params, base, perturbation=perturbation, plan=plan, **settings)

    return build


FOLLOW = {"rho_min": 0.02, "lr_max": 0.1, "lr_min": 0.01}
BASE = {n: p.shape for n, p in small(0, torch.float32).named_parameters()}
CASES: dict[str, tuple[Any, dict[str, Any], Epsilon, Combination]] = {
    **{f"sam p={p}": (SAM, {"p": p}, sam(p), perturbed) for p in (1.5, 3, INF)},
    "sam adaptive p=inf": (SAM, {"adaptive": True, "p": INF}, asam("", INF, 0.0, True), perturbed),
    "usam": (USAM, {}, unified(lambda t: 0.0), perturbed),
    "unified .5": (UnifiedSAM, {}, unified(lambda t: 0.5), perturbed),
    "unified .3": (UnifiedSAM, {"lam": 0.3}, unified(lambda t: 0.3), perturbed),
    "unified 1/t": (UnifiedSAM, {"lam": "1/t"}, unified(lambda t: 1 / t), perturbed),
    "unified 1-1/t": (UnifiedSAM, {"lam": "1-1/t"}, unified(lambda t: 1 - 1 / t), perturbed),
    **{
        f"asam {kind} {p}": (ASAM, {"norm": kind, "p": p}, asam(kind, p), perturbed)
        for kind in ("elementwise", "layerwise", "filterwise")
        for p in (2.0, INF)
    },
    "asam p=3": (ASAM, {"p": 3.0}, asam(p=3.0), perturbed),
    "asam eta": (ASAM, {"eta": 0.2}, asam(eta=0.2), perturbed),
    "asam eta=0": (ASAM, {"eta": 0.0}, asam(eta=0.0), perturbed),
    **{
        f"asam {kind} all": (ASAM, {"norm": kind, "scale_bias": True}, asam(kind, bias=True),
                             perturbed)
        for kind in ("elementwise", "layerwise", "filterwise")
    },
    "layerwise": (LayerwiseSAM, {}, layerwise(False), perturbed),
    "layerwise by weight": (LayerwiseSAM, {"scale_by_weight": True}, layerwise(True), perturbed),
    "awp": (AWP, {}, layerwise(True, 2), perturbed),
    "awp everything": (AWP, {"everything": True}, layerwise(True), perturbed),
    "last layer": (LastLayerSAM, {}, masked("7.weight", "7.bias"), perturbed),
    "last layer no bias": (LastLayerSAM, {"bias": False}, masked("7.weight"), perturbed),
    "first layer": (LastLayerSAM, {"head": "0"}, masked("0.weight", "0.bias"), perturbed),
    "monge": (MongeSAM, {}, monge, perturbed),
    "mup2 k=2": (MuP2, {"base_model": BASE}, mup(2.0), perturbed),
    "gcsam": (GCSAM, {}, gcsam(), perturbed),
    "gcsam after": (GCSAM, {"norm_after_gc": True}, gcsam(True), perturbed),
    "gcsam conv": (GCSAM, {"conv_only": True}, gcsam(False, 3), perturbed),
    "gcsam descent": (
        GCSAM, {"gc_descent": True}, gcsam(), lambda g, h: [centered(v) for v in h]
    ),
    "gcsam all flags": (
        GCSAM, {"norm_after_gc": True, "gc_descent": True, "conv_only": True}, gcsam(True, 3),
        lambda g, h: [centered(v, 3) for v in h],
    ),
    "gsam": (GSAM, {}, sam(), minus_orthogonal(0.4)),
    "gsam .7": (GSAM, {"alpha": 0.7}, sam(), minus_orthogonal(0.7)),
    "gsam fp": (GSAM, {"minimize_fp": False}, sam(), plus_orthogonal(0.4)),
    "gsam following": (GSAM, FOLLOW, following(**FOLLOW), minus_orthogonal(0.4)),
    "gsam over asam": (
        gsam_over(Perturbation(metric=Elementwise())), {}, asam(bias=True), minus_orthogonal(0.6)
    ),
    "wsam": (WSAM, {"decouple": False}, sam(), weighted(9.0)),
    "wsam .3": (WSAM, {"decouple": False, "gamma": 0.3}, sam(), weighted(0.3 / 0.7)),
    "wsam decoupled": (WSAM, {"gamma": 0.7}, sam(), weighted(0.7 / 0.3)),
}  # fmt: skip

BASES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], torch.dtype]] = {
    "sgd 64": (SGD, {"momentum": 0.9, "weight_decay": 1e-2}, torch.float64),
    "sgd 32": (SGD, {"momentum": 0.9}, torch.float32),
    "adamw 64": (torch.optim.AdamW, {"eps": 1e-4}, torch.float64),
}


def reference(
    name: str, model: nn.Module, kind: Any, own: Any, rho: float, lrs: list[float]
) -> Any:
    """The weights after the steps, by hand."""
    _, _, epsilon, combination = CASES[name]
    base = kind(model.parameters(), lr=lrs[0], **own)
    for t, lr in enumerate(lrs, 1):
        x, y = data(t, dtype=next(model.parameters()).dtype)
        base.param_groups[0]["lr"] = lr
        g = gradient(model, x, y)
        h = gradient(at(model, epsilon(model, g, rho, t, lr)), x, y)
        u = combination(g, h)
        decoupled = "decoupled" in name
        for p, v in zip(model.parameters(), g if decoupled else u, strict=True):
            p.grad = v.to(p.dtype)
        base.step()
        if decoupled:
            with torch.no_grad():
                for p, a, b in zip(model.parameters(), u, g, strict=True):
                    p -= lr * (a - b)
    return weights(model)


def lowland(name: str, model: nn.Module, kind: Any, own: Any, rho: float, lrs: list[float]) -> Any:
    build, options, _, _ = CASES[name]
    opt = build(model.parameters(), kind, model=model, rho=rho, lr=lrs[0], **own, **options)
    for t, lr in enumerate(lrs, 1):
        opt.param_groups[0]["lr"] = lr
        opt.step(loss_fn=losses(model), batch=data(t, dtype=next(model.parameters()).dtype))
    return weights(model)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=2)
@given(seed=st.integers(0, 10**6), rho=st.floats(0.05, 0.5))
def test_the_rule_is_its_formula(name: str, base: str, seed: int, rho: float) -> None:
    kind, own, dtype = BASES[base]
    lrs = [0.1, 0.07, 0.03] if kind is SGD else [0.02, 0.015, 0.01]
    k = 2 if "mup2" in name else 1
    ends = [f(name, small(seed, dtype, k), kind, own, rho, lrs) for f in (lowland, reference)]
    tolerance = 1e-10 if dtype == torch.float64 else 5e-4
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_no_rule_passes_for_another() -> None:
    """The comparison above can fail."""
    ends = {}
    for name in CASES:
        if "mup2" in name:
            continue
        end = lowland(name, small(3, torch.float64), SGD, {}, 0.3, [0.1, 0.08, 0.05])
        ends[name] = torch.cat([w.flatten() for w in end])
    same = {("layerwise by weight", "awp everything")}
    names = list(ends)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            distance = (ends[a] - ends[b]).abs().max()
            assert (distance < 1e-6) == ((a, b) in same), (a, b, distance)


EXACT: dict[str, tuple[Any, Any]] = {
    "unified 1": (lambda *a, **k: UnifiedSAM(*a, lam=1.0, **k), SAM),
    "unified 0": (lambda *a, **k: UnifiedSAM(*a, lam=0.0, **k), USAM),
    "gsam 0": (lambda *a, **k: GSAM(*a, alpha=0.0, **k), SAM),
    "gsam 0, one lr": (
        lambda *a, **k: GSAM(*a, alpha=0.0, rho_min=0.1, lr_max=0.1, lr_min=0.1, **k), SAM
    ),
    "mup2 k=1": (lambda *a, **k: MuP2(*a, base_model=BASE, **k), SAM),
    "everything by name": (
        lambda *a, **k: SharpnessAware(*a, perturbation=Perturbation(Named("*")), **k), SAM
    ),
    "asam with T = 1": (
        lambda p, *a, **k: SharpnessAware(
            q := list(p), *a, **k,
            perturbation=Perturbation(metric=Elementwise(eta=0.3, unscaled=tuple(q))),
        ),
        SAM,
    ),
    "sam p=2": (lambda *a, **k: SAM(*a, p=2, **k), SAM),
    "asam eta=0, all": (
        lambda *a, **k: ASAM(*a, eta=0.0, scale_bias=True, **k),
        lambda *a, **k: SAM(*a, adaptive=True, **k),
    ),
    "awp everything": (
        lambda *a, **k: AWP(*a, everything=True, **k),
        lambda *a, **k: LayerwiseSAM(*a, scale_by_weight=True, **k),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), rho=st.floats(0.01, 1.0))
def test_reductions_are_bit_for_bit(name: str, dtype: torch.dtype, seed: int, rho: float) -> None:
    ends = []
    for build in EXACT[name]:
        model = small(seed, dtype)
        opt = build(model.parameters(), SGD, model=model, rho=rho, lr=0.1, momentum=0.9)
        for t in range(3):
            opt.step(loss_fn=losses(model), batch=data(t, dtype=dtype))
        ends.append(weights(model))
    assert equal(*ends)


@pytest.mark.parametrize("name", CASES)
def test_without_a_radius_it_is_the_base(name: str) -> None:
    """Bit for bit; ρ_t is 0 too."""
    kind, own, dtype = BASES["sgd 32"]
    ends = [lowland(name, small(1, dtype), kind, own, 0.0, [0.1, 0.05])]
    model = small(1, dtype)
    plain = kind(model.parameters(), lr=0.1, **own)
    for t, lr in enumerate([0.1, 0.05], 1):
        plain.param_groups[0]["lr"] = lr
        plain.zero_grad()
        losses(model)(*data(t, dtype=dtype)).mean().backward()
        plain.step()
    assert equal(*ends, weights(model))
