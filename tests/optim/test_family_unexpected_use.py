"""Methods of the family in loops that they were not written for: indices of any type, runs whose
size changes, skips on the device, steps where the weights are not w, objectives to be maximized.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from family import SGD
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.errors import InputError
from lowland.optim import (
    MESA,
    MSAM,
    SAF,
    BalancedSAM,
    BayesianSAM,
    FedSAM,
    Gradient,
    GradientNorm,
    LastLayerSAM,
    LogitsSAM,
    MoFedSAM,
    SharpnessAware,
    Step,
    UnifiedSAM,
)

# SAF


def saf(model: nn.Module, **own: Any) -> SAF:
    options = {"examples": 12, "steps_per_epoch": 1, "back": 1, "start": 0, "lr": 0.1, **own}
    return SAF(model.parameters(), SGD, **options)


def with_logits(model: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    def fn(x: Tensor, y: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        z = model(x)
        return cross_entropy(z, y, reduction="none"), z

    return fn


def order(seed: int) -> Tensor:
    return torch.randperm(12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_numbers_of_examples_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    """uint8 would index as a mask."""
    ends = []
    for kind in (dtype, torch.int64):
        model = network(1, norm=False)
        opt = saf(model)
        for i in range(4):
            opt.step(loss_fn=with_logits(model), batch=(*data(i), order(i).to(kind)))
        ends.append(weights(model))
    assert equal(*ends)


def test_a_mask_is_no_number() -> None:
    model = network(1, norm=False)
    with pytest.raises(InputError, match="examples' numbers"):
        saf(model).step(loss_fn=with_logits(model), batch=(*data(0), torch.ones(12).bool()))


def test_a_record_of_another_shape_is_refused_and_nothing_moves() -> None:
    """A single class would even be broadcast."""
    model = network(1, norm=False)
    opt = saf(model)
    for i in range(2):
        opt.step(loss_fn=with_logits(model), batch=(*data(i), order(i)))
    before = weights(model)
    for classes in (1, 2):

        def fewer(x: Tensor, y: Tensor, _: Tensor, n: int = classes) -> Any:
            z = model(x)
            return cross_entropy(z, y, reduction="none"), z[:, :n]

        with pytest.raises(InputError, match=r"record has the shape \(2, 12, 3\)"):
            opt.step(loss_fn=fewer, batch=(*data(2), order(2)))
    for own in ({"examples": 24}, {"back": 3}):
        resumed = saf(model, **own)
        resumed.load_state_dict(opt.state_dict())
        with pytest.raises(InputError, match="stay what they were"):
            resumed.step(loss_fn=with_logits(model), batch=(*data(2), order(2)))
    assert equal(weights(model), before)
    assert opt.param_groups[0]["sam_step"] == 2


def test_logits_of_another_type_go_into_the_same_record() -> None:
    """Autocast that is switched on or off between steps."""
    model = network(1, norm=False)
    opt = saf(model)
    for i, on in enumerate([True, False, False, True]):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            opt.step(loss_fn=with_logits(model), batch=(*data(i), order(i)))
    record = opt.state[opt.param_groups[0]["params"][0]]["sam_past_logits"]
    assert record.dtype == torch.bfloat16
    assert opt.param_groups[0]["sam_step"] == 4


# MESA


def test_a_first_step_that_the_device_skips_leaves_the_average_at_the_weights() -> None:
    """At 0, the network of the term would be an empty one for thousands of steps."""
    ends = []
    for bad in (True, False):
        model = network(1, norm=False)
        opt = MESA(
            model.parameters(), SGD, lr=0.1, fused=True, nonfinite="device", decay=0.9, rho=2.0
        )
        if bad:

            def broken(x: Tensor, y: Tensor, model: nn.Module = model) -> tuple[Tensor, Tensor]:
                each, z = with_logits(model)(x, y)
                return each * float("nan"), z

            opt.step(loss_fn=broken, batch=data(9))
        for i in range(3):
            opt.step(loss_fn=with_logits(model), batch=data(i))
        ends.append(weights(model))
    assert equal(*ends)


# Bayesian SAM


def test_the_loss_of_a_step_is_that_at_the_sample() -> None:
    model = network(1, norm=False)
    opt = BayesianSAM(model.parameters(), SGD, lr=0.0, examples=50)
    with opt.posterior_sample(0):
        assert opt.at_perturbed_weights
    found = opt.step(loss_fn=losses(model), batch=data(0))
    again = opt.step(closure_for(opt, model, *data(0)))
    assert isinstance(found, Tensor)
    assert isinstance(again, Tensor)
    assert opt.last is not None
    assert opt.last.loss is not None
    assert torch.equal(opt.last.loss, again.detach())
    assert opt.last.perturbed_loss is not None
    assert not torch.equal(opt.last.loss, opt.last.perturbed_loss)


@pytest.mark.parametrize("rho", [0.01, 0.0])
@pytest.mark.parametrize("form", ["closure", "batch", "plain"])
def test_a_step_at_a_sample_of_the_posterior_is_refused(form: str, rho: float) -> None:
    """It would go on from the sample, or be lost on coming back."""
    model = network(1, norm=False)
    opt = BayesianSAM(model.parameters(), SGD, lr=0.1, examples=1, rho=rho)
    before = weights(model)

    def step() -> None:
        if form == "closure":
            opt.step(closure_for(opt, model, *data(0)))
        elif form == "batch":
            opt.step(loss_fn=losses(model), batch=data(0))
        else:
            losses(model)(*data(0)).mean().backward()
            opt.step()

    # with ρ, a step without a closure is refused for what it lacks
    said = "has to make them itself" if form == "plain" and rho else "leave that block first"
    with pytest.raises(RuntimeError, match=said), opt.posterior_sample(0):
        step()
    assert equal(weights(model), before)
    opt.step(loss_fn=losses(model), batch=data(0))
    assert not equal(weights(model), before)


# m-SAM


def test_a_combination_may_return_the_gradient_that_it_was_given() -> None:
    """Its memory is that of the step's mean, which grows from shard to shard."""

    def itself(g: Gradient, perturbed: Gradient, step: Step) -> Gradient:
        return g

    def copied(g: Gradient, perturbed: Gradient, step: Step) -> Gradient:
        return g.like([t.clone() for t in g.tensors])

    ends = []
    for combine in (itself, copied):
        model = network(1, norm=False)
        opt = MSAM(model.parameters(), SGD, m=4, combine=combine, lr=0.1)
        opt.step(loss_fn=losses(model), batch=data(0))
        ends.append(weights(model))
    assert equal(*ends)


# All of them

MAXIMIZED: dict[str, tuple[type[SharpnessAware], dict[str, Any]]] = {
    "gradient-norm": (GradientNorm, {}),
    "gradient-norm squared": (GradientNorm, {"squared": True}),
    "saf": (SAF, {"examples": 12, "steps_per_epoch": 1, "back": 1, "start": 0}),
    "mesa": (MESA, {"decay": 0.5}),
    "balanced": (BalancedSAM, {"weights": torch.tensor([0.3, 1.0, 0.7])}),
    "bayesian": (BayesianSAM, {"examples": 100}),
    "polyak": (UnifiedSAM, {"polyak": True}),
    "m-sam": (MSAM, {"m": 5}),
    "fedsam": (FedSAM, {"local_steps": 3, "local_weight_decay": 0.1}),
    "mofedsam": (MoFedSAM, {"local_steps": 3}),
}


@pytest.mark.parametrize("name", MAXIMIZED)
def test_maximizing_is_minimizing_the_negative(name: str) -> None:
    """Penalties are penalties either way."""
    kind, own = MAXIMIZED[name]
    ends = []
    for sign in (1, -1):
        model = network(1, torch.float64, norm=False)
        opt = kind(model.parameters(), SGD, lr=0.1, maximize=sign < 0, **own)

        def fn(x: Tensor, y: Tensor, *_: Tensor, sign: int = sign, model: nn.Module = model) -> Any:
            each, z = with_logits(model)(x, y)
            return sign * each, z

        for i in range(4):
            numbers = (torch.arange(12),) if kind is SAF else ()
            opt.step(loss_fn=fn, batch=(*data(i, dtype=torch.float64), *numbers))
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Watched(nn.Module):
    """Has weak references to the features of all its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
        self.features: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh()
        self.features.append(weakref.ref(h))
        return self.head(h)  # type: ignore[no-any-return]


KEPT: dict[str, Callable[[nn.Module], SharpnessAware]] = {
    "last layer": lambda m: LastLayerSAM(m.parameters(), SGD, model=m, lr=0.1),
    "two passes": lambda m: LastLayerSAM(m.parameters(), SGD, model=m, lr=0.1, one_forward=False),
    "logits": lambda m: LogitsSAM(m.parameters(), SGD, model=m, lr=0.1),
    "saf": saf,
    "mesa": lambda m: MESA(m.parameters(), SGD, lr=0.1),
    "bayesian": lambda m: BayesianSAM(m.parameters(), SGD, lr=0.1, examples=10),
    "polyak": lambda m: UnifiedSAM(m.parameters(), SGD, lr=0.1, polyak=True),
    "m-sam": lambda m: MSAM(m.parameters(), SGD, lr=0.1, m=4),
    "fedsam": lambda m: FedSAM(m.parameters(), SGD, lr=0.1, local_steps=2),
    "gradient-norm": lambda m: GradientNorm(m.parameters(), SGD, lr=0.1),
}


@pytest.mark.parametrize("name", KEPT)
def test_no_graph_outlives_its_step(name: str) -> None:
    """Without help of the garbage collector, which comes when it likes."""
    model = Watched()
    opt = KEPT[name](model)
    gc.disable()
    try:
        for i in range(3):
            opt.step(loss_fn=with_logits(model), batch=(*data(i), torch.arange(12)))
    finally:
        gc.enable()
    assert len(model.features) >= 3
    assert all(ref() is None for ref in model.features)
    kept: list[Any] = [model(data(0)[0])]
    assert model.features[-1]() is not None, kept
