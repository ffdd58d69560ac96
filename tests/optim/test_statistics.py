"""Running statistics and the second pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from forms import FORMS, THREE, step_by
from problems import closure_for, data, equal, losses, network, sam_by_hand, weights
from torch import Tensor, nn

from lowland.optim import SAM


class Centred(nn.Module):
    """A normalization layer of the user's own, which torch's classes do not cover."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(x.mean(0), 0.1)
        return x - self.centre


def sam(model: nn.Module, known: bool, **options: Any) -> SAM:
    return SAM(
        model.parameters(),
        torch.optim.SGD,
        lr=0.1,
        rho=0.3,
        model=model if known else None,
        **options,
    )


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
@pytest.mark.parametrize("form", ["closure", "context"])
def test_frozen_statistics_are_those_of_the_first_pass(known: bool, form: str) -> None:
    model, twin = network(3), network(3)
    opt = sam(model, known)
    for i in range(3):
        x, y = data(i)
        twin.load_state_dict(model.state_dict())
        twin(x)
        if form == "closure":
            opt.step(closure_for(opt, model, x, y))
        else:
            opt.zero_grad()
            losses(model)(x, y).mean().backward()
            with opt.perturbed():
                losses(model)(x, y).mean().backward()
            opt.step()
        assert equal(list(model.buffers()), list(twin.buffers()))
        assert int(model[1].num_batches_tracked) == i + 1
        assert model[1].training


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
def test_update_moves_them_twice(known: bool) -> None:
    model, (x, y) = network(3), data()
    opt = sam(model, known, bn_second="update")
    opt.step(closure_for(opt, model, x, y))
    assert int(model[1].num_batches_tracked) == 2


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
def test_eval_runs_on_the_running_ones(known: bool) -> None:
    model, (x, y) = network(3), data()
    opt = sam(model, known, bn_second="eval")
    modes = []
    model[1].register_forward_hook(lambda m, a, o: modes.append(m.training))
    opt.step(closure_for(opt, model, x, y))
    assert modes == [True, False]
    assert model[1].training
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
def test_layers_in_eval_mode_stay_as_they_are(known: bool) -> None:
    model, (x, y) = network(3), data()
    model[1].eval()
    before = [b.clone() for b in model.buffers()]
    opt = sam(model, known)
    opt.step(closure_for(opt, model, x, y))
    assert equal(list(model.buffers()), before)
    assert not model[1].training


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
@pytest.mark.parametrize("named", [True, False])
def test_classes_of_the_users_own(known: bool, named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), Centred(), nn.Linear(7, 3))
    x, y = data()
    opt = sam(model, known, norm_classes=(Centred,) if named else ())
    once = 0.1 * model[0](x).mean(0)
    opt.step(closure_for(opt, model, x, y))
    assert torch.allclose(model[1].centre, once) == named


def test_hooks_are_gone_after_the_pass() -> None:
    from torch.nn.modules import module

    model, (x, y) = network(3), data()
    opt = sam(model, False)
    opt.step(closure_for(opt, model, x, y))
    losses(model)(x, y).mean().backward()

    def fails() -> None:
        with opt.perturbed():
            losses(model)(x, y)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not module._global_forward_pre_hooks


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="did you mean 'frozen'"):
        sam(network(), True, bn_second="frzen")


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_needs_model(in_place: bool) -> None:
    """Without it the layers cannot be found, which is said; with it there is one graph."""
    torch._dynamo.reset()
    model, (x, y) = network(3), data()
    if in_place:
        model.compile(backend="eager")
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="eager")
    before = weights(model)
    opt = sam(model, False)
    with pytest.raises(Exception, match="pass model="):
        opt.step(closure_for(opt, compiled, x, y))
    assert equal(weights(model), before)


def test_a_compiled_model_keeps_one_graph_and_gives_the_eager_bits() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model, twin = network(3), network(3)
    compiled: Any = torch.compile(model, backend=backend)
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, model=compiled)
    eager = sam(twin, True)
    for i in range(4):
        x, y = data(i)
        opt.step(closure_for(opt, compiled, x, y))
        eager.step(closure_for(eager, twin, x, y))
    assert len(graphs) == 1
    assert equal(weights(model), weights(twin))
    assert equal(list(model.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("form", FORMS)
def test_layers_outside_the_model_are_protected_with_one_warning(form: str) -> None:
    """Two networks in one closure, as in adversarial training, and model= names only one."""
    torch._dynamo.utils.counters.clear()  # where graphs have been compiled nobody looks
    inner, twin = network(3), network(3)
    other, other_twin = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    opt = SAM(inner.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, model=inner)
    both = nn.ModuleList([twin, other_twin])
    known = SAM(twin.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, model=both)
    whole, whole_twin = nn.Sequential(other, inner), nn.Sequential(other_twin, twin)
    with pytest.warns(RuntimeWarning, match="outside model="):
        FORMS[form](opt, whole, *data(0))
    for i in (1, 2):  # said once: warnings are errors here
        FORMS[form](opt, whole, *data(i))
    for i in range(3):
        FORMS[form](known, whole_twin, *data(i))
    for a, b in zip(other.buffers(), other_twin.buffers(), strict=True):
        assert torch.equal(a, b)
    assert int(other.num_batches_tracked or 0) == 3


class OwnNorm(nn.Module):
    """A class that torch does not know, with the usual buffer names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.running_mean += 0.1 * x.mean(0)
        return x - x.mean(0)


@pytest.mark.parametrize("given", [False, True])
def test_a_class_with_a_running_mean_is_a_normalization_layer(given: bool) -> None:
    model = nn.Sequential(OwnNorm(), nn.Linear(5, 3))
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, model=model if given else None)
    expected = torch.zeros(5)
    for i in range(3):
        x, y = data(i)
        opt.step(closure_for(opt, model, x, y))
        expected += 0.1 * x.mean(0)
    torch.testing.assert_close(model[0].running_mean, expected)


@pytest.mark.parametrize("known", [True, False], ids=["model=", "hooks"])
@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("policy", ["frozen", "update", "eval"])
def test_every_policy_in_every_form_is_that_by_hand(policy: str, form: str, known: bool) -> None:
    """Weights and running statistics, against BatchNorm treated by hand in the second pass."""
    model, twin = network(3, torch.float64), network(3, torch.float64)
    norm: Any = twin[1]  # type: ignore[index]
    opt = sam(model, known, bn_second=policy)
    base = torch.optim.SGD(twin.parameters(), lr=0.1)
    for i in range(4):
        step_by(form, opt, closure_for(opt, model, *data(i, dtype=torch.float64)))
        first = closure_for(base, twin, *data(i, dtype=torch.float64))

        def second(first: Any = first) -> None:
            before = [b.clone() for b in twin.buffers()]
            norm.train(policy != "eval")
            first()
            norm.train()
            if policy == "frozen":
                for b, old in zip(twin.buffers(), before, strict=True):
                    b.copy_(old)

        sam_by_hand(base, first, second=second)
        assert model[1].training  # type: ignore[index]
    for pair in (
        zip(weights(model), weights(twin), strict=True),
        zip(model.buffers(), twin.buffers(), strict=True),
    ):
        for a, b in pair:
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    assert int(norm.num_batches_tracked) == (8 if policy == "update" else 4)
