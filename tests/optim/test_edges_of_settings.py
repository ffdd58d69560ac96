"""Edges of arguments, parameter groups and state, each once found to go wrong."""

from __future__ import annotations

import collections
import copy
import warnings
from typing import Any

import pytest
import torch
from problems import Quadratic, closure_for, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland import InputError
from lowland.optim import (
    ASAM,
    FSAM,
    MSAM,
    SAM,
    Elementwise,
    Evaluate,
    LookSAM,
    MinusRunningMean,
    NormLayers,
    Perturbation,
    Program,
    SharpnessAware,
    Step,
    TwoPass,
)

SGD = torch.optim.SGD


def test_hyperparameters_of_the_base_under_our_names_are_refused() -> None:
    p = list(network().parameters())
    with pytest.raises(InputError, match="Adadelta has a hyperparameter 'rho'"):
        SAM(p, torch.optim.Adadelta, rho=0.05)
    with pytest.raises(InputError, match="RMSprop has a hyperparameter 'alpha'"):
        LookSAM(p, torch.optim.RMSprop)
    SAM(p, torch.optim.RMSprop)
    base = SGD(p, lr=0.1)
    SAM(p, base, rho=0.5)
    with pytest.raises(InputError, match="already"):
        SAM(p, base, rho=0.05)


def test_an_empty_first_group() -> None:
    model, (x, y) = network(), data()
    groups = [{"params": []}, {"params": list(model.parameters())}]
    opt = SAM(groups, SGD, lr=0.1, rho=0.5, model=model)
    opt.step(closure_for(opt, model, x, y))
    assert float(opt.last.perturbation_norm) == pytest.approx(0.5, rel=1e-5)


def test_distributed_checkpoints_fill_the_state_of_a_fresh_optimizer() -> None:
    from torch.distributed.checkpoint import state_dict as dcp

    model, twin = network(3), network(9)
    opt = FSAM(model.parameters(), torch.optim.AdamW, lr=0.01, rho=0.3, model=model)
    for i in range(3):
        opt.step(closure_for(opt, model, *data(i)))
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(model, opt))
    saved_model = model.state_dict()
    fresh = FSAM(twin.parameters(), torch.optim.AdamW, lr=0.01, rho=0.3, model=twin)
    twin.load_state_dict(saved_model)
    dcp.set_optimizer_state_dict(twin, fresh, saved)
    for i in range(3, 6):
        opt.step(closure_for(opt, model, *data(i)))
        fresh.step(closure_for(fresh, twin, *data(i)))
    assert equal(weights(model), weights(twin))


def test_complex_parameters_under_looksam() -> None:
    p = nn.Parameter(torch.randn(6, dtype=torch.complex64))
    opt = LookSAM([p], SGD, lr=0.1, rho=0.1, k=2)
    for _ in range(4):
        opt.step(loss_fn=lambda x: (p.abs() ** 2).sum() * x, batch=torch.ones(1))
    assert bool(torch.isfinite(p.abs()).all())


def test_what_belongs_to_the_step_must_not_differ_between_groups() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    with pytest.raises(InputError, match="differ in start"):
        SAM([{"params": [a]}, {"params": [b], "start": 100}], SGD, lr=0.1)
    opt = SAM([a, b], SGD, lr=0.1, rho=0.1)
    opt.step(loss_fn=lambda x: ((a + b) ** 2).sum() * x, batch=torch.ones(1))
    with pytest.raises(InputError, match="differ in every"):
        opt.add_param_group({"params": [c], "every": 3})
    opt.add_param_group({"params": [c]})
    assert [group["sam_step"] for group in opt.param_groups] == [1, 1]


def test_asam_takes_names_from_groups() -> None:
    model = network()
    opt = ASAM([{"params": model.named_parameters()}], SGD, lr=0.1)
    metric = opt._engine.perturbation.metric
    assert isinstance(metric, Elementwise)
    assert len(metric.unscaled) == 3


NONSENSE: list[tuple[Any, dict[str, Any]]] = [
    (SAM, {"every": 2.5}),
    (SAM, {"end": 2.5}),
    (SAM, {"start": "3"}),
    (SAM, {"start": None}),
    (LookSAM, {"k": 2.5}),
    (LookSAM, {"alpha": float("nan")}),
    (MSAM, {"m": 2.5}),
    (FSAM, {"sigma": float("nan")}),
    (ASAM, {"eta": float("inf"), "scale_bias": True}),
]


@pytest.mark.parametrize(("kind", "options"), NONSENSE)
def test_hyperparameters_that_make_no_sense(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="give a"):
        kind(network().parameters(), SGD, lr=0.1, **options)


def test_subclasses_of_lbfgs_are_refused_too() -> None:
    class Mine(torch.optim.LBFGS):
        pass

    with pytest.raises(InputError, match="LBFGS"):
        SAM(network().parameters(), Mine, lr=0.1)


class Unfinished(TwoPass):
    def __call__(self, step: Step) -> Program:
        yield Evaluate()


def test_a_plan_without_an_update() -> None:
    f = Quadratic()
    opt = SharpnessAware(f.parameters(), SGD, lr=0.1, rho=0.1, plan=Unfinished())
    with pytest.raises(RuntimeError, match="without an Update"):
        opt.step(loss_fn=lambda x: f() * x, batch=torch.ones(1, dtype=torch.float64))


Pair = collections.namedtuple("Pair", ["x", "y"])


def test_named_tuples_and_mappings_keep_their_type() -> None:
    model, (x, y) = network(), data()
    opt = MSAM(model.parameters(), SGD, m=5, lr=0.1, model=model)
    opt.step(loss_fn=lambda pair: losses(model)(pair.x, pair.y), batch=[Pair(x, y)])
    opt.step(loss_fn=losses(model), batch=collections.UserDict({"x": x, "y": y}))


@pytest.mark.parametrize("nonfinite", ["skip", "device"])
def test_state_begins_with_the_first_finite_gradient(nonfinite: str) -> None:
    model = network(3)
    settings: dict[str, Any] = {"lr": 0.1, "rho": 0.3, "fused": True, "model": model}
    opt = FSAM(model.parameters(), SGD, nonfinite=nonfinite, **settings)
    calls = 0

    def fn(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return losses(model)(x, y) * (float("nan") if calls == 2 else 1.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opt.step(loss_fn=fn, batch=data(0))
    held = [slot["sam_ema"] for slot in opt.state.values() if "sam_ema" in slot]
    if nonfinite == "skip":
        assert not held
    else:  # the host does not know that the step was skipped, and makes room
        assert held
        assert not any(m.any() for m in held)


def test_only_what_is_selected_has_a_running_mean() -> None:
    model, (x, y) = network(3), data()
    parts = Perturbation(NormLayers(), MinusRunningMean(), Elementwise())
    opt = SharpnessAware(model.parameters(), SGD, lr=0.1, rho=0.5, model=model, perturbation=parts)
    for _ in range(2):
        opt.step(closure_for(opt, model, x, y))
    held = {id(p) for p, slot in opt.state.items() if "sam_ema" in slot}
    assert held == {id(p) for p in model[1].parameters()}
