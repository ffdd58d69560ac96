"""What cannot be is refused in one line that names the remedy, and nothing has moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import data, equal, losses, network, weights
from torch import nn

from lowland.core.errors import InputError
from lowland.optim import (
    ASAM,
    FSAM,
    GSAM,
    MESA,
    MSAM,
    SAF,
    SAMON,
    BayesianSAM,
    Elementwise,
    FedASAM,
    FedSAM,
    FrobSAM,
    GradientNorm,
    LastLayerSAM,
    Linear,
    LogitsSAM,
    LookSAM,
    Matrices,
    MuP2,
    NormLayers,
    OutputLayer,
    PerTensor,
    Perturbation,
    SharpnessAware,
    TwoPass,
    UnifiedSAM,
    create,
)
from lowland.optim.polyak import PolyakStep

SGD: dict[str, Any] = {"base": torch.optim.SGD, "lr": 0.1}
Make = Callable[[nn.Module], Any]


def refused(make: Make, said: str, model: nn.Module | None = None) -> None:
    model = network(1, norm=False) if model is None else model
    before = weights(model)
    with pytest.raises(InputError, match=said) as caught:
        make(model)
    assert "\n" not in str(caught.value)
    assert equal(weights(model), before)


NEEDS: dict[str, tuple[Make, str]] = {
    "norm layers": (lambda m: create("sam-on", m, **SGD), "name its classes, or select other"),
    "a model for them": (lambda m: SAMON(m.parameters(), **SGD), "pass model="),
    "a linear layer of that name": (
        lambda m: LastLayerSAM(m.parameters(), model=m, head="33", **SGD),
        "unknown linear layer '33'.*known: 0, 3",
    ),
    "a model for the output layer": (lambda m: LogitsSAM(m.parameters(), **SGD), "pass model="),
    "base shapes": (lambda m: create("mup2", m, **SGD), "pass model= and base_model="),
    "base shapes, without a model": (lambda m: MuP2(m.parameters(), **SGD), "base_model="),
    "two directions": (lambda m: FrobSAM(m.parameters(), n=1, **SGD), "at least 2 directions"),
    "numbers of examples and steps": (
        lambda m: SAF(m.parameters(), **SGD),
        "give examples= and steps_per_epoch=",
    ),
    "the number of examples": (lambda m: BayesianSAM(m.parameters(), **SGD), "give examples="),
    "weights of labels": (lambda m: create("balanced-sam", m, **SGD), "give label_weights"),
    "a clip that clips": (
        lambda m: FedSAM(m.parameters(), clip=math.inf, **SGD),
        "or None for no clipping",
    ),
}


@pytest.mark.parametrize("what", NEEDS)
def test_what_a_method_needs_is_said(what: str) -> None:
    refused(*NEEDS[what])


@pytest.mark.parametrize("name", ["last-layer-sam", "logits-sam"])
def test_no_linear_layer(name: str) -> None:
    refused(lambda m: create(name, m, **SGD), "select parameters by name", nn.Conv1d(1, 1, 1))


def stepping(name: str, fn: Any = None, extra: tuple[Any, ...] = (), **own: Any) -> Make:
    def make(model: nn.Module) -> None:
        opt = create(name, model, **SGD, **own)
        opt.step(loss_fn=fn(model) if fn else losses(model), batch=(*data(0), *extra))

    return make


def mean(model: nn.Module) -> Any:
    return lambda x, y: losses(model)(x, y).mean()


def logits(model: nn.Module) -> Any:
    return lambda x, y, *_: (losses(model)(x, y), model(x))


SAF_OWN = {"examples": 12, "steps_per_epoch": 1}
STEPS: dict[str, tuple[Make, str]] = {
    "ESAM with a mean": (stepping("esam", mean, beta=0.6, gamma=0.5), "reduction='none'"),
    "RW-SAM with a mean": (stepping("rw-sam", mean), "reduction='none'"),
    "SAF without numbers": (stepping("saf", logits, **SAF_OWN), "return its index too"),
    "SAF with numbers too large": (
        stepping("saf", logits, (torch.arange(12) + 1,), **SAF_OWN),
        "numbers, 0 to 11, at 2",
    ),
    "SAF without logits": (
        stepping("saf", lambda m: lambda x, y, i: losses(m)(x, y), (torch.arange(12),), **SAF_OWN),
        r"return \(losses, logits\)",
    ),
    "MESA without logits": (stepping("mesa"), r"return \(losses, logits\)"),
    "a schedule below 0": (
        stepping("sam", schedule=lambda step: -1.0),
        "gave -1.0: it must be finite and not negative",
    ),
    "a schedule that is no number": (stepping("sam", schedule=lambda step: math.nan), "finite"),
    "m-SAM without m": (stepping("m-sam"), "or build it with m="),
}


@pytest.mark.parametrize("what", STEPS)
def test_what_a_step_needs_is_said(what: str) -> None:
    refused(*STEPS[what])


def test_a_schedule_that_turns_negative_is_said_when_it_does() -> None:
    model = network(1, norm=False)
    opt = create("sam", model, **SGD, schedule=Linear(4, 1.0, -1.0))
    for i in range(3):
        opt.step(loss_fn=losses(model), batch=data(i))
    before = weights(model)
    with pytest.raises(InputError, match=r"the ρ schedule gave -0\.5"):
        opt.step(loss_fn=losses(model), batch=data(3))
    assert equal(weights(model), before)
    opt = create("sam", model, **SGD)
    opt.param_groups[0]["rho"] = -0.1
    with pytest.raises(InputError, match=r"rho is -0\.1"):
        opt.step(loss_fn=losses(model), batch=data(3))


WITH_A_PLAN: list[tuple[Any, dict[str, Any]]] = [
    (MSAM, {"m": 3}),
    (GSAM, {}),
    (LookSAM, {}),
    (SAF, SAF_OWN),
    (MESA, {}),
    (BayesianSAM, {"examples": 10}),
    (GradientNorm, {}),
    (FedSAM, {}),
    (FedASAM, {}),
    (LastLayerSAM, {"model": network(1, norm=False)}),
]
WITHOUT_EPSILON = [*WITH_A_PLAN[3:7]]


@pytest.mark.parametrize(("kind", "own"), WITH_A_PLAN)
def test_a_second_plan(kind: Any, own: dict[str, Any]) -> None:
    refused(
        lambda m: kind(m.named_parameters(), plan=TwoPass(), **SGD, **own),
        r"fills in plan itself.*SharpnessAware\(..., plan=...\)",
    )


@pytest.mark.parametrize("kind", [ASAM, FSAM, SAMON, LastLayerSAM, UnifiedSAM])
def test_a_second_epsilon(kind: Any) -> None:
    model = network(1)
    rule = Perturbation(metric=Elementwise())
    refused(
        lambda m: kind(m.parameters(), model=m, perturbation=rule, **SGD),
        "makes its own ε.*compose the parts",
        model,
    )
    refused(
        lambda m: FedASAM(m.parameters(), model=m, perturbation=rule, **SGD),
        "fills in perturbation itself",
        model,
    )


@pytest.mark.parametrize(("kind", "own"), WITHOUT_EPSILON)
@pytest.mark.parametrize(
    "rule", [Perturbation(metric=Elementwise()), Perturbation(Matrices()), "local"], ids=repr
)
def test_an_epsilon_for_what_has_none(kind: Any, own: dict[str, Any], rule: Any) -> None:
    """It would be silently left out."""
    refused(
        lambda m: kind(m.parameters(), perturbation=rule, **SGD, **own),
        "would do nothing: leave it out",
    )


@pytest.mark.parametrize(
    "rule",
    [
        Perturbation(metric=Elementwise()),
        Perturbation(metric=PerTensor()),
        Perturbation(Matrices()),
        Perturbation(OutputLayer()),
    ],
    ids=repr,
)
def test_a_polyak_step_along_anything_but_the_gradient(rule: Perturbation) -> None:
    """⟨g̃, ε⟩ would be another number."""
    refused(
        lambda m: SharpnessAware(
            m.parameters(), model=m, plan=PolyakStep(), perturbation=rule, **SGD
        ),
        "takes ε to be along g",
    )


def test_two_ways_to_say_one_thing() -> None:
    refused(
        lambda m: UnifiedSAM(m.parameters(), polyak=True, plan=TwoPass(), **SGD),
        "leave one of them out",
    )
    refused(lambda m: FedSAM(m.parameters(), local_steps=2, local_epochs=3, **SGD), "either")
    refused(
        lambda m: MSAM(m.parameters(), m=2, **SGD).step(loss_fn=losses(m), batches=[data(0)]),
        "build MSAM without m, or pass one batch=",
    )
    refused(lambda m: create("gsam", m, perturbation="local", **SGD), "use perturbation='global'")
    rule = Perturbation(NormLayers())
    refused(lambda m: SharpnessAware(m.parameters(), perturbation=rule, **SGD), "pass model=")


def test_other_mistakes_in_arguments_stay_what_they_are() -> None:
    model = network(1, norm=False)
    with pytest.raises(TypeError, match="unexpected keyword argument 'moment'"):
        MSAM(model.parameters(), m=3, moment=0.9, **SGD)
    with pytest.raises(TypeError, match="multiple values for argument 'base'"):
        MSAM(model.parameters(), torch.optim.SGD, m=3, **SGD)
