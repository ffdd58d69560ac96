"""ε on the output layer: one forward against two passes, and against the formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from family import BASE, DTYPES, SGD, Counted, close, trained, within
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import data, equal, losses, weights
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy, linear, logsigmoid

from lowland.optim import (
    LastLayerSAM,
    LogitsSAM,
)


@DTYPES
@pytest.mark.parametrize(("kind", "own"), [(LastLayerSAM, {}), (LogitsSAM, {"adaptive": True})])
def test_one_forward_is_two_passes(kind: Any, own: dict[str, Any], dtype: torch.dtype) -> None:
    """Weights, running statistics and what `last` shows, bit for bit."""
    ends = []
    for one in (True, False):
        model = Counted().to(dtype)
        batches = [data(i, dtype=dtype) for i in range(5)]
        opt = trained(kind, model, losses(model), batches, rho=0.3, one_forward=one, **own)
        assert model.forwards == (5 if one else 10)
        ends.append((weights(model), list(model.buffers()), opt.last.metrics()))
    assert equal(ends[0][0], ends[1][0])
    assert equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


@DTYPES
def test_logits_sam_is_its_formula(dtype: torch.dtype) -> None:
    """g_W = (∂L/∂z)ᵀh by hand, the features' gradient at W+ε, bias and embeddings at w."""
    model = Counted().to(dtype)
    twin = copy.deepcopy(model)
    opt = LogitsSAM(model.parameters(), SGD, model=model, rho=0.2, lr=0.1)
    for i in range(4):
        x, y = data(i, dtype=dtype)
        opt.step(loss_fn=losses(model), batch=(x, y))
        h = twin.body(x).tanh()
        w, b = twin.head.weight, twin.head.bias
        z = linear(h, w, b).detach().requires_grad_(True)
        (dz,) = torch.autograd.grad(cross_entropy(z, y), z)
        g = dz.T @ h.detach()
        there = w + 0.2 * g / g.norm().clamp_min(1e-12)
        u = torch.autograd.grad(cross_entropy(linear(h, there, b), y), list(twin.parameters()))
        with torch.no_grad():
            for p, t in zip(twin.parameters(), u, strict=True):
                p.sub_(0.1 * t)
        close(weights(model), weights(twin), within(dtype))


@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.0, 0.5), st.floats(0.01, 0.3))
@settings(max_examples=20, deadline=None)
def test_the_closed_form_of_one_example(seed: int, n: int, rho: float, lr: float) -> None:
    """L = ½·zᵀΛz with z = Wh: e⁺ = (1 − ημ(λ + ρ̃λ²))·e, μ = ‖h‖², ρ̃ = ρ·√μ/‖Λz‖."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(1, n, generator=generator, dtype=torch.float64)
    lam = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(n, n, bias=False, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)  # type: ignore[no-any-return]

    torch.manual_seed(seed)
    model = Frozen()
    z = model(h).detach()
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=lr, rho=rho)
    opt.step(loss_fn=lambda x, t: 0.5 * (lam * model(x) ** 2).sum(1), batch=(h, h))
    mu = h.square().sum()
    radius = rho * mu.sqrt() / (lam * z).norm()
    expected = (1 - lr * mu * (lam + radius * lam**2)) * z
    torch.testing.assert_close(model(h).detach(), expected, rtol=1e-10, atol=1e-12)


def test_rho_zero_is_the_base_in_one_forward() -> None:
    model, twin = Counted(), Counted()
    trained(LogitsSAM, model, losses(model), [data(i) for i in range(3)], rho=0.0)
    base = SGD(twin.parameters(), **BASE)
    for i in range(3):
        base.zero_grad()
        losses(twin)(*data(i)).mean().backward()
        base.step()
    assert model.forwards == 3
    assert equal(weights(model), weights(twin))


def test_dropout_has_one_mask() -> None:
    """The second loss sees the features of the first."""
    model = Counted(dropout=0.5)
    opt = LastLayerSAM(model.parameters(), SGD, model=model, lr=0.1, rho=0.0)
    opt.param_groups[0]["rho"] = 1e-12
    opt.step(loss_fn=losses(model), batch=data(0))
    assert opt.last is not None
    assert opt.last.sharpness is not None
    assert abs(float(opt.last.sharpness)) < 1e-6


# Networks that return more than a tensor, are called twice, tie their embeddings, wear a wrapper


class Tied(nn.Module):
    """A causal language model in small: the output layer's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.embedding(tokens))[0])  # type: ignore[no-any-return]


def tokens(seed: int = 0, n: int = 3) -> Tensor:
    return torch.randint(0, 11, (n, 8), generator=torch.Generator().manual_seed(seed))


def test_tied_embeddings_stay_where_they_are() -> None:
    """W+ε is in the output layer's use alone: the reference perturbs an untied copy."""
    model = Tied().double()
    twin = copy.deepcopy(model)
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=0.1, rho=0.5)
    t = tokens()

    def fn(t: Tensor) -> Tensor:
        z = model(t)
        return cross_entropy(z[:, :-1].flatten(0, 1), t[:, 1:].flatten())

    opt.step(loss_fn=fn, batch=(t,))
    h = twin.mix(twin.embedding(t))[0]
    w = twin.head.weight
    z = linear(h, w).detach().requires_grad_(True)
    (dz,) = torch.autograd.grad(cross_entropy(z[:, :-1].flatten(0, 1), t[:, 1:].flatten()), z)
    g = dz.flatten(0, 1).T @ h.detach().flatten(0, 1)
    there = w + 0.5 * g / g.norm()
    loss = cross_entropy(linear(h, there)[:, :-1].flatten(0, 1), t[:, 1:].flatten())
    u = torch.autograd.grad(loss, list(twin.parameters()))
    with torch.no_grad():
        for p, d in zip(twin.parameters(), u, strict=True):
            p.sub_(0.1 * d)
    close(weights(model), weights(twin), 1e-12)
    masked = Tied().double()
    trained(LogitsSAM, masked, lambda t: cross_entropy(
        masked(t)[:, :-1].flatten(0, 1), t[:, 1:].flatten()
    ), [(t,)], rho=0.5, one_forward=False, momentum=0.0)  # fmt: skip
    assert not equal(weights(masked), weights(model)), "two passes move the embeddings too"


@dataclass
class Pair:
    logits: Tensor


def preference(model: Callable[[Tensor], Any], beta: float = 0.5) -> Any:
    """DPO's loss per pair, with the reference's log-probabilities in the batch."""

    def log_probability(t: Tensor) -> Tensor:
        out = model(t)
        z = out["logits"] if isinstance(out, dict) else out
        found = z[:, :-1].log_softmax(-1).gather(2, t[:, 1:, None])
        return found.squeeze(2).sum(1)

    def fn(chosen: Tensor, rejected: Tensor, at_reference: Tensor) -> Tensor:
        gap = log_probability(chosen) - log_probability(rejected)
        return -logsigmoid(beta * (gap - at_reference))

    return fn


class Named(Tied):
    """Returns a dictionary with something beside the logits."""

    def forward(self, tokens: Tensor) -> Any:
        h = self.mix(self.embedding(tokens))[0]
        return {"hidden": h, "logits": self.head(h)}


@pytest.mark.parametrize("kind", [Tied, Named])
def test_preference_optimization_calls_the_network_twice(kind: Any) -> None:
    """Both answers in one loss: ε from their common gradient, against two passes (untied)."""
    ends = []
    for one in (True, False):
        model = kind().double()
        model.head.weight = nn.Parameter(model.head.weight.detach().clone())
        batches = [(tokens(i), tokens(50 + i), torch.zeros(3).double()) for i in range(4)]
        opt = trained(LogitsSAM, model, preference(model), batches, rho=0.1, one_forward=one)
        ends.append((weights(model), opt.last.metrics()))
    close(ends[0][0], ends[1][0], 1e-12)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-10)


class Wrapper(nn.Module):
    """What trainers do around a network: same weights, something of its own afterwards."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) * 2.0  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", ["inside", "outside"])
def test_a_wrapper_around_the_network(given: str) -> None:
    ends = []
    for one in (True, False):
        model = Counted()
        outer = Wrapper(model)
        opt = LastLayerSAM(
            outer.parameters(), SGD, model=outer if given == "outside" else model,
            one_forward=one, rho=0.3, **BASE,
        )  # fmt: skip
        for i in range(3):
            opt.step(loss_fn=losses(outer), batch=data(i))
        assert model.forwards == (3 if one else 6)
        ends.append(weights(outer))
    assert equal(*ends)


def test_hooks_of_the_user_run_and_nothing_stays_behind() -> None:
    model = Counted()
    seen: list[int] = []
    model.register_forward_hook(lambda *_: seen.append(1))
    trained(LastLayerSAM, model, losses(model), [data(0)], rho=0.3)
    assert len(seen) == 2
    assert "forward" not in vars(model)
    assert not model.head._forward_hooks


def test_a_gradient_scaler() -> None:
    ends = []
    for scale in (1.0, 2.0**10):
        model = Counted()
        scaler = GradScaler("cpu", init_scale=scale, growth_interval=1000)
        opt = LastLayerSAM(model.parameters(), SGD, model=model, rho=0.3, **BASE)
        for i in range(3):
            opt.step(loss_fn=losses(model), batch=data(i), scaler=scaler)
            scaler.update()
        ends.append((weights(model), opt.last.metrics() if opt.last else {}))
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_autocast_runs_the_layer_as_the_network_does() -> None:
    ends = []
    for one in (True, False):
        model = Counted()

        def fn(x: Tensor, y: Tensor, model: nn.Module = model) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return cross_entropy(model(x), y, reduction="none")

        opt = trained(LastLayerSAM, model, fn, [data(i) for i in range(3)], one_forward=one)
        ends.append((weights(model), opt.last.metrics()))
    close(ends[0][0], ends[1][0], 2e-3)
