"""What one forward could get wrong in silence: it is two passes there, or says what is in the way.

The reference is always the same step by two passes, with the same random numbers in both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from family import SGD, close
from problems import data, equal, weights
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy, linear, normalize
from torch.utils.checkpoint import checkpoint

from lowland.core.errors import InputError
from lowland.optim import LastLayerSAM, LogitsSAM, Perturbation, SharpnessAware
from lowland.optim.gradient_norm import NormPenalty
from lowland.optim.head import HeadPlan

SCALES = torch.tensor([1.0, 5.0, 0.1])
LossFn = Callable[[Tensor, Tensor], Any]


class Net(nn.Module):
    def __init__(
        self, head: type[nn.Linear] = nn.Linear, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.norm = nn.Linear(5, 7), nn.BatchNorm1d(7)
        self.drop, self.head = nn.Dropout(dropout), head(7, 3, bias=bias)
        self.forwards = 0

    def features(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.body(x)).tanh())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Any:
        self.forwards += 1
        return self.head(self.features(x))


class Cosine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(input, normalize(self.weight, dim=1), self.bias)


class WritesLogits(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).mul_(SCALES)


class HalfPrecisionInside(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(7, 3)
        self.other.weight = self.head.weight

    def forward(self, x: Tensor) -> Any:
        h = self.features(x)
        return self.head(h), self.other(h.sin())


class TiedBelow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.low, self.head = nn.Linear(5, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.head.weight = self.low.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.low(self.body(x)).tanh())  # type: ignore[no-any-return]


def plain(m: nn.Module) -> LossFn:
    return lambda x, y: cross_entropy(m(x), y, reduction="none")


def decayed(m: nn.Module) -> LossFn:
    return lambda x, y: plain(m)(x, y) + 0.5 * sum(p.square().sum() for p in m.parameters())


def layer_alone(m: Any) -> LossFn:
    return lambda x, y: plain(m)(x, y) + cross_entropy(m.head(m.body(x + 1)), y)


def writes(m: nn.Module) -> LossFn:
    return lambda x, y: cross_entropy(m(x).mul_(SCALES), y)


def mixes(m: nn.Module) -> LossFn:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        other, share = torch.randperm(len(x)), torch.rand(())
        z = m(share * x + (1 - share) * x[other])
        return share * cross_entropy(z, y) + (1 - share) * cross_entropy(z, y[other])

    return fn


def draws_afterwards(m: nn.Module) -> LossFn:
    return lambda x, y: plain(m)(x, y) * torch.rand(len(x))


def attacked(m: nn.Module) -> LossFn:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        moved = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(m(moved), y), moved)
        return cross_entropy(m(x + 0.1 * g.sign()), y)

    return fn


def checkpointed(m: nn.Module) -> LossFn:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(checkpoint(m, x.clone().requires_grad_(), use_reentrant=True), y)

    return fn


def both(m: nn.Module) -> LossFn:
    return lambda x, y: sum(cross_entropy(z, y) for z in m(x))


def teaches_itself(m: nn.Module) -> LossFn:
    def fn(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            soft = m(x + 0.1).softmax(-1)
        return cross_entropy(m(x), soft) + plain(m)(x, y)

    return fn


def hook_on_output(m: Any) -> None:
    m.head.register_forward_hook(lambda _, args, z: z * SCALES)


def hook_on_gradient(m: Any) -> None:
    m.head.weight.register_hook(lambda g: g * (torch.arange(7) > 3))


def hook_after_gradient(m: Any) -> None:
    def mask(p: Tensor) -> None:
        assert p.grad is not None
        p.grad *= torch.arange(7) > 3

    m.head.weight.register_post_accumulate_grad_hook(mask)


def nothing(m: Any) -> None:
    pass


def ends(
    make: Callable[[], nn.Module], fn: Any, prepare: Any, one: bool | None, **own: Any
) -> tuple[list[Tensor], list[Tensor], Any]:
    model = make()
    prepare(model)
    opt = LastLayerSAM(
        model.parameters(), SGD, model=model, rho=0.5, lr=0.1, one_forward=one, **own
    )
    for i in range(3):
        torch.manual_seed(i)
        opt.step(loss_fn=fn(model), batch=data(i))
    return weights(model), [b.clone() for b in model.buffers()], model


TWO_PASSES: dict[str, Any] = {
    "another layer": (lambda: Net(Cosine), plain, nothing, {}),
    "a hook that changes the output": (Net, plain, hook_on_output, {}),
    "a hook on the gradient": (Net, plain, hook_on_gradient, {}),
    "a hook after the gradient": (Net, plain, hook_after_gradient, {}),
    "a penalty on the weights": (Net, decayed, nothing, {}),
    "the layer alone": (Net, layer_alone, nothing, {}),
    "the network writes to the logits": (WritesLogits, plain, nothing, {}),
    "two layers share the weight": (TwoHeads, both, nothing, {}),
    "the weight is used below": (TiedBelow, plain, nothing, {}),
    "a gradient penalty": (Net, plain, nothing, {"loss_terms": [NormPenalty()]}),
    "a second pass in eval mode": (Net, plain, nothing, {"bn_second": "eval"}),
    "statistics that move twice": (Net, plain, nothing, {"bn_second": "update"}),
    "adversarial examples": (Net, attacked, nothing, {}),
    "the whole network checkpointed": (Net, checkpointed, nothing, {}),
}


@pytest.mark.parametrize("case", TWO_PASSES)
def test_where_one_forward_would_be_another_method_there_are_two_passes(case: str) -> None:
    make, fn, prepare, own = TWO_PASSES[case]
    own = {"replay_rng": True, **own}
    found, expected = (ends(make, fn, prepare, one, **own) for one in (None, False))
    assert equal(found[0], expected[0])
    assert equal(found[1], expected[1])
    with pytest.raises(InputError, match="one forward is not possible here") as caught:
        ends(make, fn, prepare, True, **own)
    assert "one_forward=False" in str(caught.value)
    assert "\n" not in str(caught.value)


ONE_FORWARD: dict[str, Any] = {
    "the loss writes to the logits": (Net, writes),
    "mixed examples": (Net, mixes),
    "random numbers after a network that draws some": (lambda: Net(dropout=0.5), draws_afterwards),
    "a teacher without gradient": (Net, teaches_itself),
    "autocast inside the network": (HalfPrecisionInside, plain),
}


@pytest.mark.parametrize("case", ONE_FORWARD)
def test_what_one_forward_can_do_is_two_passes(case: str) -> None:
    make, fn = ONE_FORWARD[case]
    found, expected = (ends(make, fn, nothing, one, replay_rng=True) for one in (True, False))
    assert found[2].forwards * 2 == expected[2].forwards
    close(found[0], expected[0], 2e-3 if make is HalfPrecisionInside else 1e-6)
    # a teacher's statistics move in its second pass too, which is another matter
    assert equal(found[1], expected[1]) or make is Net


def test_without_replay_both_losses_have_the_same_random_numbers() -> None:
    """Labels mixed one way and features another would be a wrong gradient; dropout is one mask."""
    assert equal(
        ends(Net, mixes, nothing, True)[0],
        ends(Net, mixes, nothing, True, replay_rng=True)[0],
    )


def test_a_network_that_is_asked_something_else_says_so() -> None:
    model, (x, y) = Net(), data(0)
    before = weights(model)
    opt = LastLayerSAM(model.parameters(), SGD, model=model, lr=0.1)
    shifts = iter([0.0, 1.0])
    with pytest.raises(RuntimeError, match=r"another input at w\+ε") as caught:
        opt.step(loss_fn=lambda x, y: plain(model)(x + next(shifts), y), batch=(x, y))
    assert "one_forward=False" in str(caught.value)
    kept: list[Tensor] = []

    def remembers(x: Tensor, y: Tensor) -> Tensor:
        if not kept:
            with torch.no_grad():
                kept.append(model(x).softmax(-1))
        return cross_entropy(model(x), kept[0])

    with pytest.raises(RuntimeError, match="2 times at w and 1 at"):
        opt.step(loss_fn=remembers, batch=(x, y))
    aside: dict[str, Tensor] = {}
    handle = model.head.register_forward_hook(lambda _, args, z: aside.update(z=z))

    def elsewhere(x: Tensor, y: Tensor) -> Tensor:
        model(x)
        return cross_entropy(aside["z"], y)

    with pytest.raises(RuntimeError, match="kept aside"):
        opt.step(loss_fn=elsewhere, batch=(x, y))
    handle.remove()
    assert equal(weights(model), before)
    assert "forward" not in vars(model)
    assert "forward" not in vars(model.head)
    opt.step(loss_fn=plain(model), batch=(x, y))
    assert not equal(weights(model), before)


def test_inputs_that_are_not_numbers_are_the_same_as_themselves() -> None:
    model, (x, y) = Net(), data(0)
    x[0, 0] = float("nan")
    opt = LastLayerSAM(model.parameters(), SGD, model=model, lr=0.1, one_forward=True)
    with pytest.warns(RuntimeWarning, match="not finite"):
        opt.step(loss_fn=lambda x, y: plain(model)(x * 2, y), batch=(x, y))
    assert opt.last is not None
    assert opt.last.skipped


@pytest.mark.parametrize("one", [True, False])
def test_a_scaler_hears_of_what_overflows_at_w_alone(one: bool) -> None:
    model, calls = Net(), iter([float("inf"), 1.0])
    before = weights(model)
    scaler = GradScaler("cpu", init_scale=4.0)
    opt = LastLayerSAM(model.parameters(), SGD, model=model, lr=0.1, one_forward=one)
    with pytest.warns(RuntimeWarning, match="not finite"):
        opt.step(
            loss_fn=lambda x, y: plain(model)(x, y) * next(calls), batch=data(0), scaler=scaler
        )
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert equal(weights(model), before)


def test_loops_that_count_can_tell_the_two_losses_apart() -> None:
    model = Net()
    seen: list[tuple[bool, bool]] = []

    def term(losses: Tensor, at: Any) -> Tensor:
        seen.append((at.away, opt.at_perturbed_weights))
        return losses

    opt = LastLayerSAM(
        model.parameters(), SGD, model=model, lr=0.1, one_forward=True, loss_terms=[term]
    )
    opt.step(loss_fn=plain(model), batch=data(0))
    assert seen == [(False, False), (True, True)]
    assert not opt.at_perturbed_weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "reparametrize",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
)
def test_a_weight_made_of_others_is_refused(reparametrize: Any, bias: bool) -> None:
    """It would leave the bias alone to move."""
    model = Net(bias=bias)
    reparametrize(model.head)
    for kind in (LastLayerSAM, LogitsSAM):
        with pytest.raises(InputError, match=r"Named\('head\.\*'\)"):
            kind(model.parameters(), SGD, model=model, lr=0.1)


def test_tied_weights_do_not_fall_back_to_two_passes_in_silence() -> None:
    """Logits-SAM moves the output layer's use of them alone; two passes are another method."""
    model, batch = TiedBelow(), data(0)
    opt = LogitsSAM(model.parameters(), SGD, model=model, lr=0.1, one_forward=None)
    opt.step(loss_fn=plain(model), batch=batch)
    with pytest.raises(InputError, match=r"tied embeddings.*batches="):
        opt.step(loss_fn=plain(model), batches=[batch])


def test_the_plan_and_the_selection_have_to_mean_the_same_layer() -> None:
    model = Net()
    opt = SharpnessAware(
        model.parameters(), SGD, model=model, lr=0.1,
        plan=HeadPlan(model), perturbation=Perturbation(),
    )  # fmt: skip
    with pytest.raises(InputError, match="moves more than the output layer"):
        opt.step(loss_fn=plain(model), batch=data(0))


def test_a_copy_goes_its_own_way() -> None:
    model = Net()
    opt = LastLayerSAM(model.parameters(), SGD, model=model, lr=0.1, momentum=0.9)
    opt.step(loss_fn=plain(model), batch=data(0))
    before = weights(model)
    other, twin = copy.deepcopy((opt, model))
    other.step(loss_fn=plain(twin), batch=data(1))
    assert twin.forwards == 2
    assert equal(weights(model), before)
    opt.step(loss_fn=plain(model), batch=data(1))
    assert equal(weights(model), weights(twin))


class Listed(nn.Module):
    """Its layers are in one module that holds everything and never runs."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers, self.forwards = kind([nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)]), 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [nn.ModuleList, lambda layers: nn.Sequential(*layers)])
def test_the_network_is_what_runs(kind: Any) -> None:
    found, expected = (ends(lambda: Listed(kind), plain, nothing, one) for one in (True, False))
    assert found[2].forwards * 2 == expected[2].forwards
    assert equal(found[0], expected[0])
