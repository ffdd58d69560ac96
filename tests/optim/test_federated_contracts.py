"""Federated rounds in real loops: exceptions, skips, resume, statistics, groups, wrong use."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from family import SGD, snapshot
from problems import data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.optim import FedASAM, FedSAM, MoFedSAM

SIZES = (6, 7, 4)
CLIENTS = [data(i, n=n) for i, n in enumerate(SIZES)]
LOCAL: dict[str, Any] = {"local_epochs": 2, "local_batch_size": 4, "rho": 0.2}
KINDS = [FedSAM, FedASAM, MoFedSAM]
CALLS = 2 * 2 * (2 + 2 + 1)
"""Passes of one round over `CLIENTS`: two per local step, two epochs, ⌈n/4⌉ steps each."""


def make(kind: Any, model: nn.Module, base: Any = SGD, **own: Any) -> Any:
    server = {"lr": 0.8, **({"momentum": 0.9} if base is SGD else {})}
    return kind(model.parameters(), base, model=model, **{**server, **LOCAL, **own})


def go(opt: Any, model: nn.Module, rounds: range) -> None:
    for r in rounds:
        for group in opt.param_groups:
            group["local_lr"] = 0.1 * 0.9**r
        clients = [data(10 * r + i, n=n) for i, n in enumerate(SIZES)]
        opt.step(loss_fn=losses(model), batches=clients)


class Counting:
    """The losses; in call number `at` something happens first."""

    def __init__(
        self, model: nn.Module, at: int = 0, does: Callable[[], Any] | None = None
    ) -> None:
        self.model, self.at, self.does, self.calls = model, at, does, 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        out = losses(self.model)(x, y)
        if self.calls == self.at:
            factor = self.does()
            out = out if factor is None else out * factor
        return out


def interrupted() -> None:
    raise KeyboardInterrupt


# Away from w, and back


@pytest.mark.parametrize(
    ("kind", "call"),
    [*((MoFedSAM, i) for i in range(1, CALLS + 1)), (FedASAM, 3), (FedASAM, 12), (FedSAM, 11)],
)
def test_an_exception_in_any_pass_of_any_client_leaves_w(kind: Any, call: int) -> None:
    model, reference = network(3), network(3)
    opt, clean = make(kind, model), make(kind, reference)
    go(opt, model, range(1))
    go(clean, reference, range(1))
    before, buffers = snapshot(opt, model), [b.clone() for b in model.buffers()]
    failing = Counting(model, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        opt.step(loss_fn=failing, batches=CLIENTS)
    assert failing.calls == call
    assert equal(snapshot(opt, model), before)
    assert not opt.at_perturbed_weights
    opt.state_dict()
    for b, old in zip(model.buffers(), buffers, strict=True):
        b.copy_(old)  # the first passes may have updated them
    go(opt, model, range(1, 3))
    go(clean, reference, range(1, 3))
    assert equal(weights(model), weights(reference)), "the failed round left no trace"


def test_the_passes_are_where_they_should_be() -> None:
    """At w, w+ε, w_i, w_i+ε, ...: every client starts at w."""
    model = network(3, torch.float64)
    opt, start, seen = make(FedSAM, model, clip=1.0), weights(model), []

    def fn(x: Tensor, y: Tensor) -> Tensor:
        away = [p.detach() - w for p, w in zip(model.parameters(), start, strict=True)]
        seen.append(float(torch.cat([t.flatten() for t in away]).norm()))
        assert opt.at_perturbed_weights == (seen[-1] > 0)
        if opt.at_perturbed_weights:
            with pytest.raises(RuntimeError, match="state_dict"):
                opt.state_dict()
            with pytest.raises(RuntimeError, match="finish the step before copying"):
                copy.deepcopy(opt._engine)
        return losses(model)(x, y)

    opt.step(loss_fn=fn, batches=[(x.double(), y) for x, y in CLIENTS])
    assert len(seen) == CALLS
    zeros = [i for i, s in enumerate(seen) if s == 0]
    assert zeros == [0, 8, 16], "the first pass of each client"
    for first in zeros:
        assert seen[first + 1] == pytest.approx(0.2), "ε"
        assert 0 < seen[first + 2] <= 0.1 + 1e-12, "one clipped local step of 0.1"


def test_an_interrupt_while_going_home_does_not_stop_that() -> None:
    model = network(3)
    opt = make(FedSAM, model)
    before, origin, attempts = weights(model), opt._engine.origin, []
    original = origin.come_back

    def cut_off() -> None:
        attempts.append(origin.displaced)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        original()

    def fn(x: Tensor, y: Tensor) -> Tensor:
        if origin.displaced:
            origin.come_back = cut_off
            raise ValueError
        return losses(model)(x, y)

    with pytest.raises(KeyboardInterrupt):
        opt.step(loss_fn=fn, batches=CLIENTS)
    assert attempts == [True, True]
    assert equal(weights(model), before)
    origin.come_back = original
    go(opt, model, range(1))
    assert not equal(weights(model), before)


def test_an_interrupt_on_the_point_of_leaving_w_leaves_nothing_behind() -> None:
    """Away was said already: without taking that back no checkpoint could be saved any more."""
    model = network(3)
    opt, before = make(FedSAM, model), weights(model)
    origin = opt._engine.origin
    origin.go = lambda moves: interrupted()
    with pytest.raises(KeyboardInterrupt):
        opt.step(loss_fn=losses(model), batches=CLIENTS)
    assert not opt.at_perturbed_weights
    assert equal(weights(model), before)
    opt.state_dict()


def test_without_going_home_w_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard's guard."""
    model = network(3)
    opt, before = make(FedSAM, model), weights(model)
    monkeypatch.setattr("lowland.optim.engine.go_home", lambda engine: None)
    with pytest.raises(KeyboardInterrupt):
        opt.step(loss_fn=Counting(model, 4, interrupted), batches=CLIENTS)
    assert not equal(weights(model), before)


# Not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [FedASAM, MoFedSAM])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 10, 12, CALLS])
def test_one_client_that_is_not_finite_skips_the_round(kind: Any, call: int, bad: float) -> None:
    model = network(3)
    opt = make(kind, model)
    go(opt, model, range(2))
    before = snapshot(opt, model)
    failing = Counting(model, call, lambda: bad)
    with pytest.warns(RuntimeWarning, match="skipped"):
        opt.step(loss_fn=failing, batches=CLIENTS)
    assert failing.calls == call, "no pass at weights that are not finite"
    assert equal(snapshot(opt, model), before)
    assert opt.last.skipped
    assert opt.param_groups[0]["sam_skipped"] == 1
    go(opt, model, range(2, 4))
    assert not opt.last.skipped


@pytest.mark.parametrize("call", [0, 1, 3, 12, CALLS])
@pytest.mark.parametrize("first", [0, 2])
def test_skipping_on_the_device_agrees(call: int, first: int) -> None:
    ends = []
    for nonfinite in ("skip", "device"):
        model = network(3, norm=False)
        opt = make(
            MoFedSAM, model, torch.optim.Adam, lr=0.01, fused=True, nonfinite=nonfinite, clip=0.5
        )
        go(opt, model, range(first))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # only the host knows
            opt.step(loss_fn=Counting(model, call, lambda: float("nan")), batches=CLIENTS)
        go(opt, model, range(3, 5))
        ends.append(weights(model))
        assert int(opt.param_groups[0]["sam_skipped"]) == (call > 0)
    assert equal(*ends)


def test_a_scale_that_is_a_power_of_two_changes_nothing_and_overflow_skips() -> None:
    model, twin = network(3), network(3)
    opt, plain = make(MoFedSAM, model, clip=1.0), make(MoFedSAM, twin, clip=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for r in range(3):
        clients = [data(10 * r + i, n=6) for i in range(2)]
        opt.step(loss_fn=losses(model), batches=clients, scaler=scaler)
        scaler.update()
        plain.step(loss_fn=losses(twin), batches=clients)
        assert equal(weights(model), weights(twin))
    before, scale = snapshot(opt, model), scaler.get_scale()
    with pytest.warns(RuntimeWarning, match="skipped"):
        opt.step(loss_fn=Counting(model, 11, lambda: float("inf")), batches=CLIENTS, scaler=scaler)
    scaler.update()
    assert equal(snapshot(opt, model), before)
    assert scaler.get_scale() == scale / 2


# State


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("base", [SGD, torch.optim.AdamW])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(kind: Any, base: Any) -> None:
    """Mini-batches are drawn as a function of the round, Δ and the radius are in the state."""
    model = network(1)
    opt = make(kind, model, base)
    go(opt, model, range(3))
    saved = through_a_file({"opt": opt.state_dict(), "model": model.state_dict()})
    go(opt, model, range(3, 6))
    other = network(2)
    other.load_state_dict(saved["model"])
    again = make(kind, other, base, local_epochs=1, local_batch_size=None)
    again.load_state_dict(saved["opt"])
    go(again, other, range(3, 6))
    assert equal(snapshot(opt, model), snapshot(again, other))
    assert equal(list(model.buffers()), list(other.buffers()))


def test_mini_batches_cover_every_epoch_and_change_with_round_client_and_seed() -> None:
    x = torch.arange(10.0)[:, None]
    model = nn.Linear(1, 1)

    def drawn(seed: int) -> list[list[float]]:
        opt = FedSAM(
            model.parameters(), SGD, lr=0.0, rho=0.0, local_epochs=2, local_batch_size=4, seed=seed
        )
        seen: list[list[float]] = []

        def fn(batch: Tensor) -> Tensor:
            seen.append(batch[:, 0].tolist())
            return model(batch)[:, 0]

        for _ in range(2):
            opt.step(loss_fn=fn, batches=[x, x])
        return seen

    seen = drawn(0)
    assert [len(part) for part in seen] == 8 * [4, 4, 2]
    epochs = [[v for part in seen[i : i + 3] for v in part] for i in range(0, 24, 3)]
    assert all(sorted(epoch) == x[:, 0].tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert seen == drawn(0)
    assert seen != drawn(1)


def test_unequal_clients_take_steps_by_epochs_or_as_many_as_is_said() -> None:
    for own, expected in (
        ({"local_epochs": 3, "local_batch_size": 4}, [6, 6, 3]),
        ({"local_steps": 4, "local_batch_size": 4}, [4, 4, 4]),
        ({"local_epochs": 3, "local_batch_size": 100}, [3, 3, 3]),
        ({"local_epochs": 3, "local_batch_size": None}, [3, 3, 3]),
        ({}, [5, 5, 5]),
    ):
        model, seen = network(3, norm=False), []

        def fn(x: Tensor, y: Tensor, model: nn.Module = model, seen: Any = seen) -> Tensor:
            seen.append(any(torch.equal(x[:1], row[None]) for row in CLIENTS[2][0]))
            return losses(model)(x, y)

        opt = FedSAM(model.parameters(), SGD, lr=1.0, rho=0.0, **own)
        opt.step(loss_fn=fn, batches=CLIENTS)
        assert (len(seen), sum(seen)) == (sum(expected), expected[2])


def test_small_local_steps_do_not_vanish_in_half_precision() -> None:
    """w − w_i is kept in float32: 64 steps of 2⁻¹⁰ from 1, each below half a unit of bfloat16."""
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    opt = MoFedSAM([p], SGD, lr=1.0, rho=0.0, beta=1.0, local_lr=2.0**-10, local_steps=64)
    opt.step(loss_fn=lambda x: (x * p).sum(1), batches=[torch.ones(3, 4, dtype=torch.bfloat16)])
    assert p.detach().tolist() == 4 * [1 - 64 * 2.0**-10]
    assert opt.state[p]["sam_delta"].dtype == torch.float32
    assert opt.state[p]["sam_delta"].tolist() == 4 * [1.0]


def test_a_parameter_that_no_client_uses_any_more_has_no_momentum() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = MoFedSAM([a, b], SGD, lr=1.0, local_steps=2)
    opt.step(loss_fn=lambda x: x @ (a**2 + b), batches=[torch.ones(3, 2)])
    assert opt.state[b]["sam_delta"].all()
    opt.step(loss_fn=lambda x: x @ a**2, batches=[torch.ones(3, 2)])
    assert opt.state[a]["sam_delta"].all()
    assert not opt.state[b]["sam_delta"].any()
