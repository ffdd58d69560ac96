"""Federated rounds against their formula, client by client, and their exact reductions."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from family import DTYPES, SGD, close, grad, moved, unit, within
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Quadratic, data, equal, losses, network, norm, weights
from torch import Tensor, nn

from lowland.optim import (
    MSAM,
    SAM,
    Centralized,
    FedASAM,
    FedSAM,
    MinusRunningMean,
    MoFedSAM,
    Perturbation,
    SharpnessAware,
    Step,
    Unnormalized,
)

Client = tuple[Tensor, Tensor]
SERVER: dict[str, Any] = {"lr": 0.7, "momentum": 0.9}


@dataclass
class Rule:
    """One round, from the formula and nothing else."""

    rho: float = 0.2
    local_lr: float = 0.1
    local_steps: int | None = None
    local_epochs: int | None = None
    local_batch_size: int | None = None
    clip: float | None = None
    local_weight_decay: float = 0.0
    beta: float | None = None
    client_weights: str = "equal"
    eta: float | None = None
    metric_at_w: bool = False
    delta: list[Tensor] | None = None

    def pieces(self, n: int, seed: int) -> list[list[int]]:
        """The examples of each local step."""
        b = n if self.local_batch_size is None else min(self.local_batch_size, n)
        generator, out = torch.Generator().manual_seed(seed), []
        while True:
            order = list(range(n))
            if b < n:
                order = torch.randperm(n, generator=generator).tolist()
            out += [order[i : i + b] for i in range(0, n, b)]
            if self.local_epochs is not None and len(out) == self.local_epochs * math.ceil(n / b):
                return out
            if self.local_steps is not None and len(out) >= self.local_steps:
                return out[: self.local_steps]

    def epsilon(self, here: nn.Module, at_w: nn.Module, g: list[Tensor]) -> list[Tensor]:
        if self.eta is None:
            return [self.rho * t for t in unit(g)]
        source = at_w if self.metric_at_w else here
        named = list(source.named_parameters())
        scale = [p.abs() + self.eta if "weight" in n else torch.ones_like(p) for n, p in named]
        scale = [t.detach() for t in scale]
        length = norm([t * s for t, s in zip(g, scale, strict=True)])
        return [(self.rho * s * s * t / length).to(t.dtype) for t, s in zip(g, scale, strict=True)]

    def direction(self, here: nn.Module, at_w: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
        g = grad(here, x, y)
        if self.rho:
            g = grad(moved(here, self.epsilon(here, at_w, g)), x, y)
        if self.clip is not None and (length := float(norm(g))) > self.clip:
            g = [t * (self.clip / length) for t in g]
        if self.beta is not None:
            old = self.delta or [torch.zeros_like(t) for t in g]
            g = [self.beta * t + (1 - self.beta) * d for t, d in zip(g, old, strict=True)]
        params = [p.detach() for p in here.parameters()]
        return [t + self.local_weight_decay * p for t, p in zip(g, params, strict=True)]

    def __call__(self, model: nn.Module, clients: list[Client], seeds: list[int]) -> list[Tensor]:
        """u, the pseudo-gradient of the server."""
        total: list[Tensor] = [torch.zeros_like(p) for p in model.parameters()]
        weight_sum = steps = 0.0
        for (x, y), seed in zip(clients, seeds, strict=True):
            here, pieces = copy.deepcopy(model), self.pieces(len(x), seed)
            for piece in pieces:
                d = self.direction(here, model, x[piece], y[piece])
                here = moved(here, d, -self.local_lr)
            weight = float(len(x)) if self.client_weights == "examples" else 1.0
            ends = [q.detach() for q in here.parameters()]
            for t, p, q in zip(total, model.parameters(), ends, strict=True):
                t.add_(p.detach() - q, alpha=weight)
            weight_sum, steps = weight_sum + weight, steps + weight * len(pieces)
        u = [t / weight_sum for t in total]
        self.delta = [t / (steps / weight_sum * self.local_lr) for t in u]
        return u


def kind_of(rule: Rule) -> type[FedSAM]:
    if rule.eta is not None:
        return FedASAM
    return FedSAM if rule.beta is None else MoFedSAM


def options(rule: Rule) -> dict[str, Any]:
    leave = {"metric_at_w", "delta", *(["eta"] if rule.eta is None else [])}
    leave |= {"beta"} if rule.beta is None else set()
    return {k: v for k, v in vars(rule).items() if k not in leave}


def make_clients(sizes: list[int], dtype: torch.dtype, first: int = 0) -> list[Client]:
    return [data(first + i, n=n, dtype=dtype) for i, n in enumerate(sizes)]


def compare(rule: Rule, sizes: list[int], dtype: torch.dtype, rounds: int = 3) -> None:
    """Round by round beside the same server, which is given what the rule says."""
    model = network(3, dtype, norm=False)
    twin = copy.deepcopy(model)
    opt = kind_of(rule)(model.parameters(), SGD, model=model, **SERVER, **options(rule))
    server = SGD(twin.parameters(), **SERVER)
    with pytest.MonkeyPatch.context() as patch:
        seeds = watch_seeds(patch)
        for r in range(rounds):
            clients = make_clients(sizes, dtype, first=10 * r)
            seeds.clear()
            opt.step(loss_fn=losses(model), batches=clients)
            u = rule(twin, clients, seeds)
            for p, t in zip(twin.parameters(), u, strict=True):
                p.grad = t.to(p.dtype)
            server.step()
            close(weights(model), weights(twin), within(dtype))
    if rule.beta is not None:
        assert rule.delta is not None
        close([opt.state[p]["sam_delta"] for p in model.parameters()], rule.delta, within(dtype))


def watch_seeds(patch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the generators that rounds take, one for each client."""
    seeds, original = [], Step.generator

    def generating(step: Step, *counters: int) -> torch.Generator:
        out = original(step, *counters)
        seeds.append(out.initial_seed())
        return out

    patch.setattr(Step, "generator", generating)
    return seeds


RULES = st.builds(
    Rule,
    rho=st.sampled_from([0.0, 0.2]),
    local_lr=st.sampled_from([0.05, 0.3]),
    local_batch_size=st.sampled_from([None, 1, 2, 3]),
    clip=st.sampled_from([None, 0.3, 100.0]),
    local_weight_decay=st.sampled_from([0.0, 0.1]),
    beta=st.sampled_from([None, 0.0, 0.1, 1.0]),
    client_weights=st.sampled_from(["equal", "examples"]),
    eta=st.sampled_from([None, 0.01]),
)


@DTYPES
@settings(deadline=None, max_examples=15)
@given(
    rule=RULES,
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    local=st.sampled_from(["local_steps", "local_epochs"]),
    count=st.integers(1, 4),
)
def test_rounds_are_their_formula(
    dtype: torch.dtype, rule: Rule, sizes: list[int], local: str, count: int
) -> None:
    setattr(rule, local, count)
    compare(rule, sizes, dtype)


def test_the_reference_would_see_a_metric_at_the_wrong_weights() -> None:
    """ASAM's ball is that of w_i, not of w."""
    compare(Rule(eta=0.01, rho=0.5, local_steps=3), [5, 6], torch.float64)
    with pytest.raises(AssertionError):
        compare(Rule(eta=0.01, rho=0.5, local_steps=3, metric_at_w=True), [5, 6], torch.float64)


# Reductions


def after(
    kind: Any, rounds: list[list[Client]], *, batch: bool = False, **own: Any
) -> list[Tensor]:
    """Weights after some rounds over SGD."""
    model = network(7, rounds[0][0][0].dtype, norm=False)
    opt = kind(model.parameters(), SGD, model=model, **own)
    for clients in rounds:
        if batch:
            opt.step(loss_fn=losses(model), batch=clients[0])
        else:
            opt.step(loss_fn=losses(model), batches=clients)
    return weights(model)


def some_rounds(sizes: list[int], dtype: torch.dtype, count: int = 4) -> list[list[Client]]:
    return [make_clients(sizes, dtype, first=10 * r) for r in range(count)]


@DTYPES
@pytest.mark.parametrize("form", ["batch", "batches"])
def test_one_client_with_one_step_is_sam(dtype: torch.dtype, form: str) -> None:
    """Bit for bit with step sizes that are powers of two."""
    rounds = some_rounds([9], dtype)
    one: dict[str, Any] = {"rho": 0.3, "local_steps": 1, "batch": form == "batch"}
    sam = after(SAM, rounds, rho=0.3, lr=0.125, batch=True)
    assert equal(after(FedSAM, rounds, lr=1.0, local_lr=0.125, **one), sam)
    assert equal(after(MoFedSAM, rounds, lr=1.0, local_lr=0.125, beta=1.0, **one), sam)
    sam = after(SAM, rounds, rho=0.3, lr=0.07, batch=True)
    close(after(FedSAM, rounds, lr=1.0, local_lr=0.07, **one), sam, within(dtype))
    momentum = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    sam = after(SAM, rounds, rho=0.3, batch=True, **momentum)
    assert equal(after(FedSAM, rounds, local_lr=1.0, **momentum, **one), sam)


def fed_avg(clients: list[Client], model: nn.Module, delta: Any, beta: float, **local: Any) -> Any:
    """FedAvg (β = 1) and FedCM with torch's own optimizer at the clients."""
    start, ends = weights(model), []
    for x, y in clients:
        here = copy.deepcopy(model)
        opt = SGD(here.parameters(), lr=local["lr"], weight_decay=local["decay"])
        for _ in range(local["steps"]):
            opt.zero_grad()
            losses(here)(x, y).mean().backward()
            torch.nn.utils.clip_grad_norm_(here.parameters(), local["clip"])
            for p, d in zip(here.parameters(), delta, strict=True):
                p.grad = beta * p.grad + (1 - beta) * d  # type: ignore[operator]
            opt.step()
        ends.append(weights(here))
    mean = [torch.stack(ts).mean(0) for ts in zip(*ends, strict=True)]
    scale = local["steps"] * local["lr"]
    with torch.no_grad():
        for p, w in zip(model.parameters(), mean, strict=True):
            p.copy_(w)
    return [(a - b) / scale for a, b in zip(start, mean, strict=True)]


@DTYPES
@pytest.mark.parametrize("beta", [None, 1.0, 0.4])
def test_rho_zero_is_fedavg_and_fedcm(dtype: torch.dtype, beta: float | None) -> None:
    rounds = some_rounds([4, 7, 5], dtype)
    model = network(7, dtype, norm=False)
    delta: Any = [torch.zeros_like(p) for p in model.parameters()]
    for clients in rounds:
        local = {"lr": 0.2, "decay": 0.05, "clip": 0.5, "steps": 3}
        delta = fed_avg(clients, model, delta, 1.0 if beta is None else beta, **local)
    own: dict[str, Any] = {"local_lr": 0.2, "local_weight_decay": 0.05, "clip": 0.5}
    own |= {"local_steps": 3, "lr": 1.0, "beta": beta}
    expected, tolerance = weights(model), max(within(dtype), 1e-4)  # clip_grad_norm_ has a guard
    for quiet in ({"rho": 0.0}, {"rho": 0.3, "start": 100}, {"rho": 0.3, "end": 0}):
        close(after(FedSAM, rounds, **own, **quiet), expected, tolerance)
    with pytest.raises(AssertionError):
        close(after(FedSAM, rounds, **own, rho=0.3), expected, tolerance)


@DTYPES
@pytest.mark.parametrize("batch_size", [None, 2])
def test_beta_one_is_fedsam_bit_for_bit(dtype: torch.dtype, batch_size: int | None) -> None:
    rounds = some_rounds([4, 7, 5], dtype)
    own = {"lr": 0.9, "local_epochs": 2, "local_batch_size": batch_size, "rho": 0.2}
    assert equal(after(MoFedSAM, rounds, beta=1.0, **own), after(FedSAM, rounds, **own))
    assert equal(after(FedASAM, rounds, beta=1.0, **own), after(FedASAM, rounds, **own))


@DTYPES
@pytest.mark.parametrize("kind", [FedSAM, FedASAM, MoFedSAM])
@pytest.mark.parametrize("by", ["equal", "examples"])
def test_identical_clients_are_as_good_as_one(kind: Any, dtype: torch.dtype, by: str) -> None:
    own: dict[str, Any] = {"lr": 1.0, "local_steps": 3, "client_weights": by}
    one = some_rounds([6], dtype)
    expected = after(kind, one, **own)
    two = after(kind, [2 * clients for clients in one], **own)
    assert equal(two, expected) or by == "examples"  # 6·d + 6·d rounds
    close(two, expected, within(dtype))
    close(after(kind, [5 * clients for clients in one], **own), expected, within(dtype))


@DTYPES
def test_one_step_of_c_clients_is_m_sam(dtype: torch.dtype) -> None:
    """Weighted by examples; equal weights where the clients are of one size."""
    own: dict[str, Any] = {"local_steps": 1, "local_lr": 1.0, "rho": 0.3}
    for sizes, by in (([4, 7, 5], "examples"), ([6, 6, 6], "equal"), ([6, 6, 6], "examples")):
        rounds = some_rounds(sizes, dtype)
        expected = after(MSAM, rounds, rho=0.3, **SERVER)
        found = after(FedSAM, rounds, client_weights=by, **own, **SERVER)
        assert equal(found, expected) or by == "equal"
        close(found, expected, within(dtype))


def test_a_round_on_a_quadratic_in_closed_form() -> None:
    """USAM's linear map K times: w_i = (I − η_l(H + ρH²))^K w."""
    f = Quadratic(2)
    opt = FedSAM(
        f.parameters(), SGD, lr=1.0, rho=0.3, local_lr=0.1, local_steps=5,
        perturbation=Perturbation(radius=Unnormalized()),
    )  # fmt: skip
    map_once = torch.eye(6, dtype=torch.float64) - 0.1 * (f.H + 0.3 * f.H @ f.H)
    expected = torch.linalg.matrix_power(map_once, 5) @ f.w.detach()
    opt.step(loss_fn=lambda x: f().expand(len(x)), batches=[torch.ones(2), torch.ones(3)])
    torch.testing.assert_close(f.w.detach(), expected)


@pytest.mark.parametrize("transform", [Centralized(), MinusRunningMean(sigma=0.5)])
def test_any_perturbation_goes_to_the_clients(transform: Any) -> None:
    """With K = 1 and one client it is the perturbation of a plain sharpness-aware step."""
    rounds = some_rounds([9], torch.float64)
    rule: dict[str, Any] = {"perturbation": Perturbation(transform=transform), "rho": 0.3}
    one = after(FedSAM, rounds, lr=1.0, local_lr=0.125, local_steps=1, **rule)
    assert equal(one, after(SharpnessAware, rounds, batch=True, lr=0.125, **rule))
