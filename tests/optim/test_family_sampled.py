"""ESAM and SL-SAM: a share of the tensors, a share of the examples."""

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
    close,
    descend,
    drawn,
    each,
    end_of,
    epsilon_in,
    grad,
    moved,
    within,
)
from hypothesis import example, given
from hypothesis import strategies as st
from problems import closure_for, data, equal, losses, network, norm, weights
from torch import Tensor, nn

from lowland.optim import ESAM, SAM, SLSAM
from lowland.optim.slsam import reweighted

__all__ = ["drawn"]

RHO, ALPHA = 0.3, 0.05
Memory = dict[str, Any]


def masked(g: list[Tensor], kept: list[bool], radius: float, guard: float) -> list[Tensor]:
    chosen = [t * keep for t, keep in zip(g, kept, strict=True)]
    return [radius * t / (norm(chosen) + guard) for t in chosen]


# ESAM


@DTYPES
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize(("beta", "gamma"), [(0.5, 0.5), (1.0, 0.3), (0.4, 1.0), (0.02, 0.05)])
def test_esam_is_its_formula(
    dtype: torch.dtype, freeze: bool, beta: float, gamma: float, drawn: Drawn
) -> None:
    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Any]:
        memory["count"] = memory.get("count", -1) + 1
        kept = [True] * 6
        if memory["count"] and beta < 1:
            kept = [u < beta for u in drawn.uniform(6)]
            if not any(kept):
                kept[-1] = True
        at = moved(model, masked(grad(model, x, y), kept, RHO / beta, 1e-7))
        if gamma == 1:
            return list(grad(at, x, y))
        rise = each(at, x, y) - each(model, x, y)
        top = sorted(range(len(y)), key=lambda i: -float(rise[i]))[: max(1, int(gamma * len(y)))]
        index = torch.tensor(sorted(top))
        return list(grad(at, x[index], y[index]))

    if int(gamma * 12) < 2:  # BatchNorm needs two examples
        model = network(1, dtype, norm=False)
        model.insert(1, nn.PReLU(7, dtype=dtype))
        model[1].weight.data.normal_()
        kept_names = [n for n, _ in model.named_parameters()]
        assert len(kept_names) == 5
        model.append(nn.PReLU(1, dtype=dtype))
    else:
        model = network(1, dtype)
    opt = ESAM(
        model.parameters(), SGD, beta=beta, gamma=gamma, freeze=freeze, rho=RHO, model=model, **BASE
    )
    descend(opt, model, rule, batches(dtype, 6), within(dtype), drawn)


def test_esam_does_not_depend_on_freezing() -> None:
    ends = [end_of(ESAM, torch.float64, freeze=f, rho=RHO) for f in (False, True)]
    assert equal(*ends)


@DTYPES
def test_esam_without_sampling_is_sam(dtype: torch.dtype) -> None:
    """To ρ·1e-7/‖g‖, which is the other guard."""
    ends = end_of(ESAM, dtype, rho=RHO, beta=1.0, gamma=1.0)
    close(ends, end_of(SAM, dtype, rho=RHO), 3e-6 if dtype == torch.float64 else 3e-4)


@pytest.mark.parametrize("beta", [0.3, 0.6, 1.0])
def test_esam_perturbs_whole_tensors_by_rho_over_beta(beta: float) -> None:
    model, x_y = network(2, torch.float64, norm=False), data(2, dtype=torch.float64)
    opt = ESAM(model.parameters(), SGD, rho=RHO, beta=beta, gamma=0.5, lr=0.01)
    kept = []
    for _ in range(30):
        at_w, choosing, away = epsilon_in(opt, model, *x_y)
        assert not any(e.any() for e in at_w)
        assert equal(choosing, away)
        torch.testing.assert_close(float(norm(away)), RHO / beta, rtol=1e-4, atol=0)
        assert all(bool(e.all()) or not bool(e.any()) for e in away)
        kept.append([bool(e.any()) for e in away])
    assert all(kept[0])
    assert beta == 1 or any(not all(row) for row in kept)


def test_esam_keeps_every_tensor_with_probability_beta(drawn: Drawn) -> None:
    """So that the mean of mask·g/β over the masks is g, but for the steps that keep none."""
    p = [nn.Parameter(torch.ones(())) for _ in range(8)]
    opt = ESAM(p, SGD, lr=0.0, rho=RHO, beta=0.6, gamma=1.0)
    count = torch.zeros(8)
    for _ in range(400):
        before = [t.detach().clone() for t in p]
        seen: list[list[bool]] = []

        def fn(x: Tensor, before: Any = before, seen: Any = seen) -> Tensor:
            seen.append([not torch.equal(a, b) for a, b in zip(p, before, strict=True)])
            return x * sum(t**2 for t in p)

        opt.step(loss_fn=fn, batch=torch.ones(2))
        count += torch.tensor(seen[-1])
    share = (count - 1) / 399
    assert bool(((share - 0.6).abs() < 4 * (0.24 / 399) ** 0.5).all())


def test_esam_selects_the_examples_whose_loss_rises_most() -> None:
    model, (x, y) = network(3, torch.float64, norm=False), data(3, n=15, dtype=torch.float64)
    opt = ESAM(model.parameters(), SGD, rho=2.0, gamma=0.4, lr=0.1)
    at_w, _, _ = seen = [], [], []
    calls = iter(seen)

    def fn(x: Tensor, y: Tensor) -> Tensor:
        out = losses(model)(x, y)
        next(calls).append((out.detach(), x))
        return out

    opt.step(loss_fn=fn, batch=(x, y))
    rise = seen[1][0][0] - at_w[0][0]
    assert seen[2][0][1].shape[0] == 6
    inside = torch.tensor([bool((seen[2][0][1] == row).all(1).any()) for row in x])
    assert rise[inside].min() >= rise[~inside].max()


def test_esam_reports_one_sharpness() -> None:
    """L(w+ε) − L(w) over the same examples, as `StepRecord.sharpness` says."""
    model, (x, y) = network(3, torch.float64, norm=False), data(3, n=15, dtype=torch.float64)
    twin = moved(model, weights(model), 0.0)
    opt = ESAM(model.parameters(), SGD, rho=RHO, beta=1.0, gamma=0.4, lr=0.1)
    e = epsilon_in(opt, model, x, y)[-1]
    assert opt.last is not None
    expected = each(moved(twin, e), x, y).mean() - each(twin, x, y).mean()
    torch.testing.assert_close(opt.last.sharpness, expected, rtol=1e-8, atol=1e-10)


class Half(nn.Module):
    """A network with tensors that its loss does not use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unused, self.used = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("kind", "own"),
    [(ESAM, {"beta": 0.3}), (ESAM, {"beta": 0.3, "freeze": True}), (SLSAM, {"s": 0.3})],
    ids=["esam", "esam freeze", "sl-sam"],
)
def test_drawing_unused_tensors_alone_is_no_end(kind: Any, own: Any) -> None:
    model = Half()
    opt = kind(model.parameters(), SGD, lr=0.1, **own)
    for i in range(25):
        opt.step(loss_fn=losses(model), batch=data(i))


# SL-SAM


def water_filled(w: list[float], total: float) -> list[float]:
    """min(1, τ·w) with Σ = total, by bisection."""
    low, high = 0.0, 1.0
    while sum(min(1.0, high * v) for v in w) < total * (1 - 1e-15):
        high *= 2
    for _ in range(2000):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (
            (middle, high) if sum(min(1.0, middle * v) for v in w) < total else (low, middle)
        )
    return [min(1.0, high * v) for v in w]


@DTYPES
@pytest.mark.parametrize("s", [0.2, 0.5, 0.8])
def test_slsam_is_its_formula(dtype: torch.dtype, s: float, drawn: Drawn) -> None:
    state: list[Memory] = []

    def rule(model: nn.Module, x: Tensor, y: Tensor, memory: Memory) -> list[Any]:
        p = memory.setdefault("p", [s] * 6)
        tries = [drawn.uniform(6, i) for i in range(len(drawn.seeds))]
        sets = [[u < q for u, q in zip(row, p, strict=True)] for row in tries]
        assert [any(row) for row in sets] == [False] * (len(sets) - 1) + [True]
        active = sets[-1]
        g = grad(model, x, y)
        u = grad(moved(model, masked(g, active, RHO, 1e-12)), x, y)
        r = [float(norm([t])) / q for t, q in zip(g, p, strict=True)]
        most = max(v * v for v, on in zip(r, active, strict=True) if on)
        w = [
            q * float(torch.tensor(-ALPHA * (most - v * v) / q, dtype=torch.float64).exp())
            if on
            else q
            for q, v, on in zip(p, r, active, strict=True)
        ]
        memory["p"] = water_filled(w, s * 6)
        state[:] = [memory]
        return [t if on else None for t, on in zip(u, active, strict=True)]

    model = network(4, dtype)
    opt = SLSAM(model.parameters(), SGD, s=s, alpha=ALPHA, rho=RHO, model=model, **BASE)
    for i in range(8):
        descend_one(opt, model, rule, data(i, dtype=dtype), within(dtype), drawn, state)
        held = [float(opt.state[p]["sam_probability"]) for p in model.parameters()]
        assert held == pytest.approx(state[0]["p"], rel=within(dtype), abs=1e-7)


def descend_one(
    opt: Any, model: nn.Module, rule: Any, batch: Any, tolerance: float, drawn: Drawn, state: Any
) -> None:
    """One step beside SGD without momentum, whose memory is handed on."""
    held = state[0] if state else {}
    opt.param_groups[0]["momentum"] = 0.0
    twin = moved(model, weights(model), 0.0)
    drawn.clear()
    opt.step(loss_fn=losses(model), batch=batch)
    u = rule(twin, *batch, held)
    for p, t in zip(twin.parameters(), u, strict=True):
        if t is not None:
            p.data.sub_(0.1 * t)
    close(weights(model), weights(twin), tolerance)


@DTYPES
@pytest.mark.parametrize("alpha", [1e-3, 1e3])
@pytest.mark.parametrize("base", [SGD, torch.optim.AdamW])
def test_slsam_with_every_tensor_is_sam_bit_for_bit(
    dtype: torch.dtype, alpha: float, base: Any
) -> None:
    ends = []
    for kind, own in ((SLSAM, {"s": 1.0, "alpha": alpha}), (SAM, {})):
        model = network(5, dtype)
        opt = kind(model.parameters(), base, rho=RHO, lr=0.01, model=model, **own)
        for x, y in batches(dtype, 6):
            opt.step(closure_for(opt, model, x, y))
        ends.append(weights(model))
    assert equal(*ends)


def test_slsam_leaves_inactive_tensors_and_their_state_alone() -> None:
    model = network(6, norm=False)
    opt = SLSAM(model.parameters(), torch.optim.AdamW, s=0.5, rho=RHO, lr=0.01, weight_decay=0.1)
    activity = []
    for i in range(60):
        before = weights(model)
        steps = [float(opt.state[p].get("step", 0)) for p in model.parameters()]
        away = epsilon_in(opt, model, *data(i))[-1]
        active = [p.grad is not None for p in model.parameters()]
        for j, p in enumerate(model.parameters()):
            assert p.requires_grad
            same = torch.equal(p.detach(), before[j])
            assert same != active[j]
            assert bool(away[j].any()) == active[j]
            assert float(opt.state[p].get("step", 0)) == steps[j] + active[j]
        assert sum(float(opt.state[p]["sam_probability"]) for p in model.parameters()) == (
            pytest.approx(2.0, abs=1e-6)
        )
        activity.append(sum(active))
    assert abs(sum(activity) / 60 / 4 - 0.5) < 0.1


def test_slsam_has_a_copy_of_what_moves_alone() -> None:
    """Or little more: not of everything that ever moved, which in the end would be all of w."""
    model = network(6, norm=False)
    opt = SLSAM(model.parameters(), SGD, s=0.5, rho=RHO, lr=0.01)
    sizes = set()
    for i in range(30):
        opt.step(closure_for(opt, model, *data(i)))
        moved = sum(p.numel() for p in model.parameters() if p.grad is not None)
        held = opt._engine.displacement.elements
        assert moved <= held <= 2 * moved
        sizes.add(held)
    assert len(sizes) > 3


@given(
    old=st.lists(st.floats(1e-8, 1.0), min_size=1, max_size=8),
    ratios=st.lists(st.floats(0.0, 1e5), min_size=8, max_size=8),
    active=st.lists(st.booleans(), min_size=8, max_size=8),
    s=st.floats(0.05, 1.0),
)
@example([0.5] * 4, [2000.0, 1.0, 1.0, 1.0] * 2, [True] * 8, 0.5)
@example([1.0] * 3, [200.0, 197.0, 3.0] * 2 + [0.0] * 2, [True] * 8, 1.0)
def test_slsam_probabilities_sum_to_the_budget(
    old: list[float], ratios: list[float], active: list[bool], s: float
) -> None:
    of = {i: ratios[i] for i in range(len(old)) if active[i]}
    new = reweighted(old, of, 1e-3, s)
    assert all(0 < p <= 1 for p in new)
    assert sum(new) == pytest.approx(s * len(old), abs=1e-6)


def test_slsam_lets_the_largest_ratio_keep_its_weight() -> None:
    old, alpha = [0.5, 0.4, 0.7, 0.4], 0.02
    new = reweighted(old, {0: 3.0, 1: 5.0, 2: 1.0}, alpha, 0.5)
    expected = [
        0.5 * torch.tensor(-alpha * 16 / 0.5).exp(),
        torch.tensor(0.4),
        0.7 * torch.tensor(-alpha * 24 / 0.7).exp(),
        torch.tensor(0.4),
    ]
    total = sum(expected)
    assert new == pytest.approx([float(2 * w / total) for w in expected], rel=1e-6)
