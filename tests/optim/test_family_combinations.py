"""GSAM and WSAM in closed form; groups, half precision, bad gradients and bad input of all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Quadratic, data, equal, losses, norm, weights
from test_family_closed_forms import moved, tensors
from test_family_perturbations import BASE, small
from torch import Tensor, nn

from lowland import InputError
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
    Perturbation,
    SharpnessAware,
    TwoPass,
    UnifiedSAM,
)
from lowland.optim.gsam import MinusOrthogonal

SGD, INF = torch.optim.SGD, math.inf
Tensors = list[Tensor]
SHAPES = ((4, 5), (5,), (3, 2, 4))


def one_step(kind: Any, g: Tensors, h: Tensors, **own: Any) -> Tensors:
    """u, for these gradients at w and at w+ε."""
    params = [nn.Parameter(torch.zeros_like(t)) for t in g]
    moved(kind(params, SGD, lr=1.0, rho=0.1, **own), g, h)
    return [-p.detach() for p in params]


def dot(a: Tensors, b: Tensors) -> float:
    return float(sum((s * t).sum() for s, t in zip(a, b, strict=True)))


@given(seed=st.integers(0, 9999), alpha=st.floats(-1, 2))
def test_what_gsam_adds_is_orthogonal(seed: int, alpha: float) -> None:
    """⟨u − g̃, g̃⟩ = 0 and ‖u‖² = ‖g̃‖² + α²‖g_⊥‖²; with minimize_fp=False the same around g."""
    g, h = tensors(seed, *SHAPES), tensors(seed + 1, *SHAPES)
    for kept, other, fp in ((h, g, True), (g, h, False)):
        u = one_step(GSAM, g, h, alpha=alpha, minimize_fp=fp)
        added = [a - b for a, b in zip(u, kept, strict=True)]
        share = dot(other, kept) / dot(kept, kept)
        across = [a - share * b for a, b in zip(other, kept, strict=True)]
        assert dot(added, kept) == pytest.approx(0, abs=1e-10)
        square = dot(kept, kept) + alpha**2 * dot(across, across)
        assert dot(u, u) == pytest.approx(square, rel=1e-10)
        assert dot(added, across) == pytest.approx(
            (-alpha if fp else alpha) * dot(across, across), abs=1e-9
        )


def test_gsam_with_parallel_gradients_is_sam() -> None:
    g = tensors(1, *SHAPES)
    h = [1.7 * t for t in g]
    for a, b in zip(one_step(GSAM, g, h, alpha=0.9), h, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_the_radius_of_gsam_follows_a_schedule_of_torch() -> None:
    """ρ_min where η = η_min, ρ where η = η_max, in warm-up too, each group by its own ρ and lr."""
    w = [nn.Parameter(t) for t in tensors(0, (3,), (4,))]
    groups = [{"params": [w[0]], "rho": 0.4}, {"params": [w[1]], "lr": 0.04}]
    opt = GSAM(groups, SGD, lr=0.1, rho=0.6, rho_min=0.1, lr_max=0.1, lr_min=0.02)
    shape = [0.5, 1.0, 0.6]
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: shape[min(t, 2)])
    for factor in shape:
        g = tensors(3, (3,), (4,))
        rho = [0.1 + (r - 0.1) * (lr * factor - 0.02) / 0.08 for r, lr in ((0.4, 0.1), (0.6, 0.04))]
        for e, r, t in zip(moved(opt, g, g), rho, g, strict=True):
            torch.testing.assert_close(e, r * t / norm(g), rtol=1e-9, atol=1e-12)
        scheduler.step()


@pytest.mark.parametrize("decouple", [True, False])
def test_wsam_between_the_base_and_sam(decouple: bool) -> None:
    """γ = 0 is the base bit for bit; coupled, γ = ½ is SAM to round-off."""
    for dtype in (torch.float32, torch.float64):
        ends = []
        for kind, own in ((WSAM, {"gamma": 0.0, "decouple": decouple}), (None, {})):
            model = small(2, dtype)
            settings = {"lr": 0.1, "momentum": 0.9}
            opt = kind(model.parameters(), SGD, **settings, **own) if kind else None
            base = opt or SGD(model.parameters(), **settings)
            for t in range(3):
                x, y = data(t, dtype=dtype)
                if opt:
                    opt.step(loss_fn=losses(model), batch=(x, y))
                else:
                    base.zero_grad()
                    losses(model)(x, y).mean().backward()
                    base.step()
            ends.append(weights(model))
        assert equal(*ends)
    g, h = tensors(1, *SHAPES), tensors(2, *SHAPES)
    for a, b in zip(one_step(WSAM, g, h, gamma=0.5, decouple=decouple), h, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_wsam_keeps_the_sharpness_out_of_the_momentum() -> None:
    g, h = tensors(1, *SHAPES), tensors(2, *SHAPES)
    for decouple in (True, False):
        params = [nn.Parameter(torch.zeros_like(t)) for t in g]
        opt = WSAM(params, SGD, lr=1.0, momentum=0.9, gamma=0.8, decouple=decouple)
        moved(opt, g, h)
        for p, a, b in zip(params, g, h, strict=True):
            held = a if decouple else a + 4 * (b - a)
            torch.testing.assert_close(opt.state[p]["momentum_buffer"], held)
            torch.testing.assert_close(-p.detach(), a + 4 * (b - a))


METHODS: dict[str, Any] = {
    "sam": (SAM, {}),
    "sam p=3": (SAM, {"p": 3.0}),
    "sam p=inf": (SAM, {"p": INF}),
    "usam": (USAM, {}),
    "unified": (UnifiedSAM, {}),
    "asam": (ASAM, {}),
    "asam layerwise": (ASAM, {"norm": "layerwise"}),
    "asam filterwise": (ASAM, {"norm": "filterwise", "p": INF}),
    "layerwise": (LayerwiseSAM, {}),
    "layerwise by weight": (LayerwiseSAM, {"scale_by_weight": True}),
    "awp": (AWP, {}),
    "last layer": (LastLayerSAM, {}),
    "monge": (MongeSAM, {}),
    "mup2": (MuP2, {"base_model": BASE}),
    "gcsam": (GCSAM, {}),
    "gcsam paper": (GCSAM, {"norm_after_gc": True, "gc_descent": True}),
    "gsam": (GSAM, {"rho_min": 0.05, "lr_max": 0.2}),
    "wsam": (WSAM, {}),
    "wsam coupled": (WSAM, {"decouple": False}),
}


@pytest.mark.parametrize("name", METHODS)
def test_maximizing_is_minimizing_the_negative(name: str) -> None:
    kind, own = METHODS[name]
    ends = []
    for sign in (1.0, -1.0):
        model = small(3, torch.float64)
        opt = kind(model.parameters(), SGD, model=model, lr=0.1, rho=0.2,
                   maximize=sign < 0, momentum=0.9, **own)  # fmt: skip
        for t in range(3):
            x, y = data(t, dtype=torch.float64)
            opt.step(loss_fn=lambda x, y: sign * losses(model)(x, y), batch=(x, y))  # noqa: B023
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=3)
@given(left=st.floats(0.01, 2), right=st.floats(0.01, 2))
def test_a_group_has_its_own_radius_and_shares_the_norm(
    name: str, left: float, right: float
) -> None:
    """Each group moves as it would if its ρ were everybody's."""
    kind, own = METHODS[name]
    model = small(1, torch.float64)
    g = tensors(1, *[tuple(p.shape) for p in model.parameters()])
    params = list(model.parameters())

    def epsilon(groups: Any, rho: float) -> Tensors:
        return moved(kind(groups, SGD, model=model, lr=0.1, rho=rho, **own), g)

    both = epsilon([{"params": params[:3], "rho": left}, {"params": params[3:]}], right)
    for a, b in zip(both, epsilon(params, left)[:3] + epsilon(params, right)[3:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_groups_have_their_own_lambda_and_eta() -> None:
    a, b = tensors(1, (3,), (4,))
    w = [nn.Parameter(t) for t in tensors(9, (3,), (4,))]
    groups = [{"params": [w[0]], "lam": 0.0}, {"params": [w[1]], "lam": 1.0}]
    n = norm([a, b])
    e = moved(UnifiedSAM(groups, SGD, lr=0.1, rho=0.2), [a, b])
    torch.testing.assert_close(e[0], 0.2 * a)
    torch.testing.assert_close(e[1], 0.2 * b / n)
    groups = [{"params": [w[0]], "eta": 0.5}, {"params": [w[1]]}]
    e = moved(ASAM(groups, SGD, lr=0.1, rho=0.2, scale_bias=True, eta=0.0), [a, b])
    T = [w[0].detach().abs() + 0.5, w[1].detach().abs()]
    n = norm([T[0] * a, T[1] * b])
    torch.testing.assert_close(e[0], 0.2 * T[0] ** 2 * a / n)
    torch.testing.assert_close(e[1], 0.2 * T[1] ** 2 * b / n)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_half_precision_rounds_once(name: str, dtype: torch.dtype) -> None:
    """w+ε and the step are those of float32, rounded; w comes back bit for bit."""
    kind, own = METHODS[name]
    ends = []
    for type_ in (dtype, torch.float32):
        model = small(5, dtype).to(type_)
        opt = kind(model.parameters(), SGD, model=model, lr=0.1, rho=0.5, **own)
        shapes = [tuple(p.shape) for p in model.parameters()]
        g, h = (
            [0.5 * t.to(dtype).to(type_) for t in tensors(s, *shapes, dtype=dtype)] for s in (1, 2)
        )
        before = weights(model)
        e = moved(opt, g, h)  # asserts that w comes back
        ends.append((before, e, weights(model)))
    one = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    (w, e, after), (_, exact, wanted) = ends
    for v, a, b, c, d in zip(w, e, exact, after, wanted, strict=True):
        assert (v.float() + a.float() - (v.float() + b)).abs().max() <= one * (
            (v.float() + b).abs().max()
        )
        assert (c.float() - d).abs().max() <= 3 * one * max(1.0, float(d.abs().max()))


@pytest.mark.parametrize("bad", [math.nan, INF])
@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_that_is_not_finite_skips_the_step(name: str, bad: float) -> None:
    """Even where the gradient at w+ε is: what it was taken at means nothing."""
    kind, own = METHODS[name]
    model = small(5, torch.float32)
    opt = kind(model.parameters(), SGD, model=model, lr=0.1, rho=0.5, **own)
    g = tensors(1, *[tuple(p.shape) for p in model.parameters()], dtype=torch.float32)
    h, before = [t.clone() for t in g], weights(model)
    g[-2][0, 0] = bad
    with pytest.warns(RuntimeWarning, match="not finite"):
        moved(opt, g, h)
    assert opt.last.skipped
    assert equal(weights(model), before)


def test_gsam_goes_with_every_perturbation() -> None:
    """ε is ASAM's, with T² and not T, and what is descended is GSAM's."""
    (g,), (h,), (w,) = tensors(1, (5,)), tensors(2, (5,)), tensors(3, (5,))
    p = nn.Parameter(w.clone())
    rule, plan = Perturbation(metric=Elementwise(eta=0.0)), TwoPass(MinusOrthogonal(0.7))
    opt = SharpnessAware([p], SGD, lr=1.0, rho=0.3, perturbation=rule, plan=plan)
    (e,) = moved(opt, [g], [h])
    torch.testing.assert_close(e, 0.3 * w**2 * g / (w * g).norm())
    torch.testing.assert_close(w - p.detach(), h - 0.7 * (g - (g @ h) / (h @ h) * h))


def build(kind: Any, **own: Any) -> Any:
    model = small(0, torch.float32)
    return lambda: kind(model.parameters(), SGD, lr=0.1, **{"model": model, **own})


REFUSED: dict[str, tuple[Any, str]] = {
    "p=1": (build(SAM, p=1.0), "p is 1.0: give a number above 1, or math.inf"),
    "p=nan": (build(SAM, p=math.nan), "give a number above 1"),
    "p of asam": (build(ASAM, p="2"), "give a number above 1"),
    "lam above 1": (build(UnifiedSAM, lam=1.5), r"in \[0, 1\], '1/t' or '1-1/t'"),
    "lam below 0": (build(UnifiedSAM, lam=-0.1), "at least 0"),
    "lam by name": (build(UnifiedSAM, lam="1-t"), "did you mean '1-1/t'"),
    "eta": (build(ASAM, eta=-1.0), "eta is -1.0: give a finite number, at least 0"),
    "norm": (build(ASAM, norm="layer"), "did you mean 'layerwise'"),
    "head": (build(LastLayerSAM, head="8"), "unknown linear layer '8'.*7"),
    "head without a model": (build(LastLayerSAM, model=None), "pass model="),
    "no head": (build(LastLayerSAM, model=nn.BatchNorm1d(3)), "select parameters by name"),
    "no base model": (build(MuP2), "pass model= and base_model="),
    "no model": (build(MuP2, model=None, base_model=BASE), "pass model= and base_model="),
    "another base model": (build(MuP2, base_model=nn.Linear(5, 6)), "build it by the same code"),
    "no lr_max": (build(GSAM, rho_min=0.1), "needs lr_max="),
    "lr_max below": (build(GSAM, rho_min=0.1, lr_max=0.1, lr_min=0.2), "swap them"),
    "rho_min": (build(GSAM, rho_min=-0.1, lr_max=0.1), "rho_min is -0.1"),
    "alpha": (build(GSAM, alpha=math.nan), "alpha is nan: give a finite number"),
    "gamma": (build(WSAM, gamma=1.0), r"gamma is 1.0: give a number in \[0, 1\)"),
    "gamma below 0": (build(WSAM, gamma=-0.1), "at least 0"),
    "across": (build(MongeSAM, perturbation="locally"), "did you mean 'local'"),
    "local gsam": (build(GSAM, perturbation="local"), "use perturbation='global'"),
    "local wsam": (build(WSAM, perturbation="local"), "use perturbation='global'"),
    "rho": (build(GCSAM, rho=-1.0), "rho is -1.0: give a finite number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_said_in_a_line(name: str) -> None:
    call, match = REFUSED[name]
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "own"),
    [(UnifiedSAM, {"lam": "1-t"}), (UnifiedSAM, {"lam": 2.0}), (ASAM, {"eta": -5.0})],
)
def test_settings_of_a_group_are_looked_at_too(kind: Any, own: Any) -> None:
    """No later than in the step; a misspelt schedule must not run as another one."""
    f = Quadratic(0)
    scale = {"scale_bias": True} if kind is ASAM else {}

    def use() -> None:
        opt = kind([{"params": [f.a], **own}, {"params": [f.b]}], SGD, lr=0.1, **scale)
        opt.step(loss_fn=lambda x: f() * x, batch=torch.ones(2, dtype=torch.float64))

    with pytest.raises(InputError, match=next(iter(own))):
        use()


def test_a_step_size_outside_its_range_is_said() -> None:
    w = nn.Parameter(torch.ones(3))
    opt = GSAM([w], SGD, lr=0.01, rho=0.5, rho_min=0.0, lr_max=0.1, lr_min=0.05)
    with pytest.raises(InputError, match=r"set lr_min to the schedule's end"):
        opt.step(loss_fn=lambda x: (w**2).sum() * x, batch=torch.ones(2))
    assert torch.equal(w.detach(), torch.ones(3))


def test_asam_without_names_says_so() -> None:
    with pytest.warns(RuntimeWarning, match=r"pass model=, or model.named_parameters\(\)"):
        ASAM(small(0, torch.float32).parameters(), SGD, lr=0.1)
