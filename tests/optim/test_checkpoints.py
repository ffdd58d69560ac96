"""Checkpoints: exact resume, plain ones in and out, copies, types that survive."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import forms
import pytest
import torch
from forms import FORMS, PLAIN, THREE, TWO_PASS, alone, on_batch
from problems import closure_for, data, equal, losses, network, weights
from torch import nn

from lowland.optim import FSAM, METHODS, SAM, SharpnessAware

BASES = ["sgd", "adamw"]


def make(name: str, model: nn.Module, base: int, **options: Any) -> SharpnessAware:
    return forms.make(name, model, BASES[base], rho=0.3, **options)


def go(opt: Any, model: nn.Module, steps: range) -> None:
    for i in steps:
        on_batch(opt, model, losses(model), data(i))


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("name", METHODS)
def test_resume_is_never_having_stopped(name: str, stop: int, base: int) -> None:
    model = network(3)
    opt = make(name, model, base, start=1)
    go(opt, model, range(stop))
    checkpoint = through_a_file({"model": model.state_dict(), "opt": opt.state_dict()})
    go(opt, model, range(stop, 8))

    other = network(9)
    resumed = make(name, other, base)
    other.load_state_dict(checkpoint["model"])
    resumed.load_state_dict(checkpoint["opt"])
    go(resumed, other, range(stop, 8))
    assert equal(weights(model), weights(other))
    assert resumed.state is resumed.base_optimizer.state
    assert resumed.param_groups is resumed.base_optimizer.param_groups


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("form", THREE)
@pytest.mark.parametrize("name", TWO_PASS)
def test_resume_is_never_having_stopped_in_every_form(name: str, form: str, base: int) -> None:
    """Weights, buffers and a schedule; stopped between two full steps of LookSAM too."""
    model = network(3)
    opt = make(name, model, base)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 8)
    for i in range(8):
        if i == 4:
            parts: dict[str, Any] = {"model": model, "opt": opt, "schedule": schedule}
            saved = through_a_file({key: part.state_dict() for key, part in parts.items()})
        FORMS[form](opt, model, *data(i))
        schedule.step()

    other = network(9)
    resumed = make(name, other, base)
    again = torch.optim.lr_scheduler.CosineAnnealingLR(resumed, 8)
    parts = {"model": other, "opt": resumed, "schedule": again}
    for key, part in parts.items():
        part.load_state_dict(saved[key])
    for i in range(4, 8):
        FORMS[form](resumed, other, *data(i))
        again.step()
    assert equal(weights(model), weights(other))
    assert equal(list(model.buffers()), list(other.buffers()))


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("balanced-sam", "gradient-norm")])
def test_a_plain_checkpoint_loads_into_it_and_back(name: str, base: int) -> None:
    model = network(3)
    plain = alone(name, model, BASES[base])
    for i in range(3):
        plain.step(closure_for(plain, model, *data(i)))
    saved, plain_state = copy.deepcopy(model.state_dict()), copy.deepcopy(plain.state_dict())

    opt = make(name, model, base, **PLAIN.get(name, {}))
    opt.load_state_dict(plain_state)
    assert opt.param_groups[0]["rho"] == 0.3, "what the plain one does not say stays"
    go(opt, model, range(3, 5))

    # From here on with ρ = 0, which is the base: in both, from the sharpness-aware checkpoint.
    state = through_a_file(opt.state_dict())
    after = copy.deepcopy(model.state_dict())
    twin = network(9)
    twin.load_state_dict(after)
    back = alone(name, twin, BASES[base])
    back.load_state_dict(state)
    opt.param_groups[0]["rho"] = 0.0
    for i in range(5, 8):
        on_batch(opt, model, losses(model), data(i))
        back.step(closure_for(back, twin, *data(i)))
    assert equal(weights(model), weights(twin))
    assert saved.keys() == after.keys()


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_copies_go_their_own_way(name: str, base: int, how: str) -> None:
    model = network(3)
    opt = make(name, model, base)
    go(opt, model, range(4))
    pair = (model, opt)
    twin, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    frozen = weights(twin)
    go(opt, model, range(4, 8))
    assert equal(weights(twin), frozen)
    go(other, twin, range(4, 8))
    assert equal(weights(model), weights(twin))
    assert other.base_optimizer.param_groups is other.param_groups


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["f-sam", "looksam"])
def test_wide_state_of_half_precision_parameters_survives(name: str, dtype: torch.dtype) -> None:
    key = {"f-sam": "sam_ema", "looksam": "sam_gv"}[name]
    model = network(3, dtype)
    opt = make(name, model, 0)
    x, y = data(0, dtype=dtype)
    opt.step(loss_fn=losses(model), batch=(x, y))
    opt.step(loss_fn=losses(model), batch=(x, y))
    resumed = make(name, network(3, dtype), 0)
    resumed.load_state_dict(through_a_file(opt.state_dict()))
    for p, q in zip(opt.param_groups[0]["params"], resumed.param_groups[0]["params"], strict=True):
        assert opt.state[p][key].dtype == torch.float32
        assert resumed.state[q][key].dtype == torch.float32
        assert torch.equal(opt.state[p][key], resumed.state[q][key])


def test_state_of_ours_does_not_hide_that_the_base_has_none_yet() -> None:
    """Adam fills its state when it finds none: a parameter whose first g̃ comes late."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = FSAM([a, b], torch.optim.AdamW, lr=0.1, rho=0.1)
    for late in (False, False, True):
        opt.zero_grad()
        ((a**2).sum() + (b**2).sum()).backward()
        with opt.perturbed():
            ((a**2).sum() + ((b**2).sum() if late else 0)).backward()
        opt.step()
    assert "sam_ema" in opt.state[b]
    assert opt.state[b]["step"] == 1
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt.zero_grad()
    ((a**2).sum() + (b**2).sum()).backward()
    with opt.perturbed():
        ((a**2).sum() + (b**2).sum()).backward()
    opt.step()
    assert opt.state[b]["step"] == 2


def test_a_checkpoint_that_does_not_fit_changes_nothing() -> None:
    model = network(3)
    opt = make("sam", model, 0)
    go(opt, model, range(2))
    before = copy.deepcopy(opt.state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(ValueError, match="doesn't match the size"):
        opt.load_state_dict(wrong)
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["rho"] = float("inf")
    with pytest.raises(ValueError, match="rho is inf"):
        opt.load_state_dict(wrong)
    after = opt.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, slot in before["state"].items():
        assert torch.equal(slot["momentum_buffer"], after["state"][i]["momentum_buffer"])


def test_hooks_on_loading_and_saving_run() -> None:
    model = network(3)
    opt = make("sam", model, 0)
    seen: list[str] = []
    opt.register_state_dict_pre_hook(lambda o: seen.append("save"))
    opt.register_load_state_dict_pre_hook(lambda o, s: seen.append("load"))
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    opt.load_state_dict(opt.state_dict())
    assert seen == ["save", "load", "loaded"]


def test_over_an_instance_with_state_it_goes_on_from_there() -> None:
    model, twin = network(3), network(3)
    plain, other = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin))
    for o, m in ((plain, model), (other, twin)):
        o.step(closure_for(o, m, *data(0)))
    opt = SAM(model.parameters(), plain, rho=0.0)
    assert opt.base_optimizer is plain
    opt.step(closure_for(opt, model, *data(1)))
    other.step(closure_for(other, twin, *data(1)))
    assert equal(weights(model), weights(twin))


def test_what_was_frozen_on_the_way_does_not_change_the_rounding() -> None:
    """A copy or a resumed run has not seen the layers that moved before."""
    model, ends = network(3), []
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, momentum=0.9)
    go(opt, model, range(2))
    model[0].requires_grad_(False)  # type: ignore[index]
    opt.zero_grad()
    twin, copied = copy.deepcopy((model, opt))
    for which, optimizer in ((model, opt), (twin, copied)):
        go(optimizer, which, range(2, 12))
        ends.append(weights(which))
    assert equal(*ends)
