"""Resuming, skipping and wrong use, for the methods with programs, losses or bases of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from family import SGD, snapshot
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.optim import (
    AMP,
    ESAM,
    NSAM,
    RWSAM,
    SLSAM,
    AdaSAM,
    AgnosticSAM,
    BalancedSAM,
    DetSAM,
    FrobSAM,
    GradientNorm,
    LightSAM,
    Measure,
    TraceSAM,
    UniversalSAM,
)

HELD = [data(90), data(91)]
OWN = Measure(lambda x: x**3, torch.sin, "sign")
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "n-sam": (NSAM, {"ascent_data": HELD}),
    "rw-sam": (RWSAM, {"lam": 3.0}),
    "agnostic mean": (AgnosticSAM, {}),
    "agnostic validation": (AgnosticSAM, {"validation": lambda: HELD}),
    "balanced": (BalancedSAM, {"weights": torch.tensor([0.3, 1.0, 0.7])}),
    "esam": (ESAM, {"beta": 0.5, "gamma": 0.5}),
    "esam freeze": (ESAM, {"beta": 0.5, "gamma": 0.5, "freeze": True}),
    "sl-sam": (SLSAM, {"alpha": 0.05}),
    "trace": (TraceSAM, {}),
    "det": (DetSAM, {}),
    "frob": (FrobSAM, {}),
    "universal": (UniversalSAM, {"measure": OWN, "n": 2, "rho": 0.3}),
    "gradient norm": (GradientNorm, {}),
    "gradient norm squared": (GradientNorm, {"squared": True}),
    "amp": (AMP, {"inner_steps": 3}),
    "adasam": (AdaSAM, {}),
    "lightsam I": (LightSAM, {"variant": "I"}),
    "lightsam II": (LightSAM, {"variant": "II"}),
    "lightsam III": (LightSAM, {"variant": "III"}),
}
LITTLE_DATA = ["adasam", "lightsam I", "lightsam II", "lightsam III", "agnostic mean"]


def make(name: str, model: nn.Module, base: Any = torch.optim.AdamW, **more: Any) -> Any:
    kind, own = METHODS[name]
    base = None if kind in (AdaSAM, LightSAM) else base
    return kind(model.parameters(), base, lr=0.02, model=model, **own, **more)


def steps(opt: Any, model: nn.Module, numbers: range) -> None:
    dtype = next(model.parameters()).dtype
    for i in numbers:
        opt.step(loss_fn=losses(model), batch=data(i, dtype=dtype))


@pytest.mark.parametrize("base", [torch.optim.AdamW, SGD])
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, base: Any) -> None:
    model = network(1)
    opt = make(name, model, base)
    steps(opt, model, range(3))
    saved, other = copy.deepcopy(opt.state_dict()), copy.deepcopy(model)
    steps(opt, model, range(3, 7))
    again = make(name, other, base)
    again.load_state_dict(saved)
    steps(again, other, range(3, 7))
    assert equal(snapshot(opt, model), snapshot(again, other))
    assert equal(list(model.buffers()), list(other.buffers()))


@pytest.mark.parametrize("name", LITTLE_DATA)
def test_a_resumed_run_in_bfloat16_is_the_uninterrupted_one(name: str) -> None:
    """The state is of float32, and comes back so."""
    model = network(1, torch.bfloat16, norm=False)
    opt = make(name, model, SGD)
    steps(opt, model, range(3))
    saved, other = copy.deepcopy(opt.state_dict()), copy.deepcopy(model)
    steps(opt, model, range(3, 7))
    again = make(name, other, SGD)
    again.load_state_dict(saved)
    steps(again, other, range(3, 7))
    assert equal(snapshot(opt, model), snapshot(again, other))


@pytest.mark.parametrize("which", ["every", "last"])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_not_finite_leaves_everything_as_it_was(
    name: str, which: str, after: int
) -> None:
    model = network(2, norm=False)
    opt = make(name, model)
    steps(opt, model, range(after))
    before, calls = snapshot(opt, model), [0, 0]
    spare = copy.deepcopy(model)
    other = make(name, spare)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))

    def counted(x: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return losses(spare)(x, y)

    def failing(x: Tensor, y: Tensor) -> Tensor:
        calls[1] += 1
        bad = which == "every" or calls[1] == calls[0]
        return losses(model)(x, y) * (float("nan") if bad else 1.0)

    other.step(loss_fn=counted, batch=data(5))
    with pytest.warns(RuntimeWarning, match="skipped"):
        opt.step(loss_fn=failing, batch=data(5))
    assert opt.last.skipped
    assert equal(snapshot(opt, model), before)
    assert all(p.requires_grad for p in model.parameters())
    steps(opt, model, range(3))
    assert not opt.last.skipped
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_slsam_that_never_waits_survives_a_bad_first_step() -> None:
    model, calls = network(3, norm=False), [0]
    opt = SLSAM(
        model.parameters(), torch.optim.Adam, lr=0.01, s=0.5, fused=True, nonfinite="device"
    )

    def fn(x: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return losses(model)(x, y) * (float("nan") if calls[0] == 2 else 1.0)

    for i in range(4):
        opt.step(loss_fn=fn, batch=data(i))
    assert sum(float(opt.state[p]["sam_probability"]) for p in model.parameters()) == (
        pytest.approx(2.0, abs=1e-6)
    )


def test_a_group_may_come_to_lightsam_later() -> None:
    for variant in ("I", "II", "III"):
        model, head = network(3, norm=False), nn.Parameter(torch.zeros(3))
        opt = LightSAM(model.parameters(), variant=variant, lr=0.01)
        steps(opt, model, range(2))
        opt.add_param_group({"params": [head]})
        opt.step(
            loss_fn=lambda x, y, m=model, h=head: losses(m)(x, y) + (h**2 + h).sum(), batch=data(2)
        )
        assert bool(head.any())


@pytest.mark.parametrize("variant", ["I", "II", "III"])
def test_lightsam_without_an_initial_value_bears_a_zero_gradient(variant: str) -> None:
    p = nn.Parameter(torch.zeros(3))
    opt = LightSAM([p], variant=variant, initial=0.0)
    opt.step(loss_fn=lambda x: x * (p**2).sum(), batch=torch.ones(2))
    assert not p.any()


# Wrong use


@pytest.mark.parametrize("kind", [ESAM, RWSAM])
def test_a_mean_where_the_losses_are_needed(kind: Any) -> None:
    model = network(4)
    opt, before = kind(model.parameters(), SGD, lr=0.1), weights(model)
    with pytest.raises(InputError, match="reduction='none'"):
        opt.step(loss_fn=lambda x, y: losses(model)(x, y).mean(), batch=data())
    assert equal(weights(model), before)
    assert not opt.at_perturbed_weights
    steps(opt, model, range(1))


@pytest.mark.parametrize("kind", [ESAM, RWSAM])
def test_micro_batches_where_the_batch_is_needed(kind: Any) -> None:
    """The remedy is batch=: the losses are there already."""
    model = network(4)
    opt, before = kind(model.parameters(), SGD, lr=0.1), weights(model)
    with pytest.raises(InputError, match="one batch=, not"):
        opt.step(loss_fn=losses(model), batches=[data(0), data(1)])
    assert equal(weights(model), before)


NEEDS = {
    "amp": r"step\(closure\)",
    "sl-sam": r"step\(closure\)",
    "trace": r"step\(closure\)",
    "frob": r"step\(closure\)",
    "esam": "batch=",
    "n-sam": "batch=",
    "rw-sam": "batch=",
    "agnostic validation": "batch=",
    "balanced": "batch=",
    "gradient norm": "batch=",
}


@pytest.mark.parametrize("two_step", [False, True])
@pytest.mark.parametrize("name", NEEDS)
def test_passes_in_the_callers_hands(name: str, two_step: bool) -> None:
    model = network(5)
    opt, before = make(name, model), weights(model)
    assert opt.needs_closure
    losses(model)(*data()).mean().backward()
    with pytest.raises(RuntimeError, match=NEEDS[name]):
        opt.first_step() if two_step else opt.perturbed().__enter__()
    assert equal(weights(model), before)
    if opt.needs_batch:
        with pytest.raises(RuntimeError, match=NEEDS[name]):
            opt.step(closure_for(opt, model, *data()))
    else:
        opt.step(closure_for(opt, model, *data()))
        assert not equal(weights(model), before)


def p() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("make_it", "says"),
    [
        (lambda: FrobSAM(p(), SGD, lr=0.1, n=1), "at least 2"),
        (lambda: TraceSAM(p(), SGD, lr=0.1, n=0), "at least 1"),
        (lambda: TraceSAM(p(), SGD, lr=0.1, lam=float("nan")), "finite"),
        (lambda: Measure(torch.sin, torch.sin, "nromal"), "normal"),
        (lambda: AdaSAM(p(), SGD), "leave .* out"),
        (lambda: LightSAM(p(), torch.optim.AdamW), "leave .* out"),
        (lambda: LightSAM(p(), variant="IV"), "III"),
        (lambda: LightSAM(p(), perturbation="local"), "local"),
        (lambda: AdaSAM(p(), betas=(0.9, 1.0)), r"\[0, 1\)"),
        (lambda: ESAM(p(), SGD, lr=0.1, beta=0.0), r"\(0, 1\]"),
        (lambda: ESAM(p(), SGD, lr=0.1, gamma=1.5), r"\(0, 1\]"),
        (lambda: SLSAM(p(), SGD, lr=0.1, s=0.0), r"\(0, 1\]"),
        (lambda: SLSAM(p(), SGD, lr=0.1, alpha=-1.0), "at least 0"),
        (lambda: AMP(p(), SGD, lr=0.1, inner_steps=0), "at least 1"),
        (lambda: AMP(p(), SGD, lr=0.1, inner_lr=float("inf")), "finite"),
        (lambda: GradientNorm(p(), SGD, lr=0.1, rho=-0.1), "not negative"),
        (lambda: RWSAM(p(), SGD, lr=0.1, delta=0.0), "at least 1e-12"),
        (lambda: AgnosticSAM(p(), SGD, lr=0.1, validation=HELD), "function"),
        (lambda: AgnosticSAM(p(), SGD, lr=0.1, ema_decay=1.0), r"\[0, 1\)"),
    ],
)
def test_arguments_that_make_no_sense(make_it: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_it()


def test_a_radius_for_each_group_is_refused_where_there_is_one_for_all() -> None:
    """The universal class reads the first group's ρ: another's would be lost silently."""
    with pytest.raises(InputError, match="rho"):
        TraceSAM([{"params": p(), "rho": 0.1}, {"params": p(), "rho": 0.7}], SGD, lr=0.1)
