"""The base sees w; hyperparameters live in the groups; hooks fire once (contract 4)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from forms import BASES, FORMS, OWN, TWO_PASS, make
from problems import data, equal, network, weights
from torch import Tensor, nn

from lowland.optim import METHODS


def test_the_base_steps_at_w_and_hooks_fire_once() -> None:
    model, (x, y) = network(3), data()
    for form in FORMS:
        opt = make("sam", model, rho=0.3)
        seen: list[str] = []
        before = weights(model)

        def pre(
            o: Any,
            args: Any,
            kwargs: Any,
            before: list[Tensor] = before,
            opt: Any = opt,
            seen: list[str] = seen,
        ) -> None:
            assert o is opt
            assert equal(weights(model), before)
            seen.append("pre")

        opt.register_step_pre_hook(pre)
        opt.register_step_post_hook(lambda o, a, k, seen=seen: seen.append("post"))
        opt.base_optimizer.register_step_post_hook(lambda o, a, k, seen=seen: seen.append("base"))
        FORMS[form](opt, model, x, y)
        assert seen == ["pre", "post", "base"]


def test_global_step_hooks_fire_once() -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    seen: list[int] = []
    handle = register_optimizer_step_post_hook(lambda o, a, k: seen.append(1))
    try:
        FORMS["closure"](opt, model, x, y)
    finally:
        handle.remove()
    assert seen == [1]


@pytest.mark.parametrize("form", FORMS)
def test_schedulers_act_on_both_without_a_warning(form: str) -> None:
    model = network(3)
    opt = make("sam", model, rho=0.3)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2, gamma=0.5)
    for i in range(4):
        FORMS[form](opt, model, *data(i))
        scheduler.step()
    assert opt.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.25)
    assert opt.param_groups is opt.base_optimizer.param_groups


def test_rho_in_the_groups_is_what_counts() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    opt.param_groups[0]["rho"] = 0.0
    assert not opt.needs_perturbation
    opt.param_groups[0]["rho"] = 0.7
    FORMS["closure"](opt, model, x, y)
    assert opt.last is not None
    assert float(opt.last.perturbation_norm or 0) == pytest.approx(0.7, rel=1e-5)
    opt.param_groups[0]["rho"] = -1.0
    with pytest.raises(ValueError, match=r"rho is -1\.0"):
        FORMS["closure"](opt, model, x, y)


def test_groups_added_later_have_the_defaults() -> None:
    model, extra = network(3), nn.Parameter(torch.ones(3))
    opt = make("sam", model, rho=0.3)
    opt.add_param_group({"params": [extra], "lr": 0.5})
    assert opt.param_groups[1]["rho"] == 0.3
    assert len(opt.base_optimizer.param_groups) == 2
    with pytest.raises(ValueError, match="rho is nan"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": float("nan")})


# Start, end, interval, schedule


def test_start_end_and_every() -> None:
    model = network(3)
    opt = make("sam", model, rho=0.3, start=2, end=7, every=2)
    passes = []
    for i in range(9):
        needed = opt.needs_perturbation
        FORMS["closure"](opt, model, *data(i))
        assert opt.last is not None
        assert (opt.last.perturbed_loss is not None) == needed
        passes.append(needed)
    assert passes == [i in (2, 4, 6) for i in range(9)]


def test_before_start_it_is_the_base_bit_for_bit() -> None:
    model, twin = network(3), network(3)
    opt = make("sam", model, rho=0.3, start=3)
    plain = torch.optim.SGD(twin.parameters(), **BASES["sgd"][1])
    for i in range(3):
        FORMS["closure"](opt, model, *data(i))
        FORMS["closure"](plain, twin, *data(i))
    assert equal(weights(model), weights(twin))


def test_a_schedule_scales_the_radius_and_resumes() -> None:
    from lowland.optim import Cosine, Linear

    model = network(3)
    opt = make("sam", model, rho=0.4, schedule=Linear(4))
    radii = []
    for i in range(6):
        FORMS["closure"](opt, model, *data(i))
        assert opt.last is not None
        size = opt.last.perturbation_norm
        radii.append(0.0 if size is None else float(size))
        if i == 2:
            state, saved = copy.deepcopy(opt.state_dict()), copy.deepcopy(model.state_dict())
    assert radii == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4], rel=1e-5)
    other = network(9)
    other.load_state_dict(saved)
    resumed = make("sam", other, rho=0.1, schedule=Linear(4))
    resumed.load_state_dict(state)
    for i in range(3, 6):
        FORMS["closure"](resumed, other, *data(i))
    assert equal(weights(other), weights(model))
    assert [Cosine(4)(i) for i in (0, 2, 4, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-12)
    broken = make("sam", model, schedule=lambda step: float("nan"))
    with pytest.raises(ValueError, match="schedule gave nan"):
        FORMS["closure"](broken, model, *data(0))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in TWO_PASS if name != "sam-on"])
def test_several_groups_of_the_same_settings_are_one(name: str, form: str, base: str) -> None:
    """Norms and inner products are over all groups together, in LookSAM's reuse too."""
    model, twin = network(3), network(3)
    one = make(name, twin, base, rho=0.3)
    kind, settings = BASES[base]
    if METHODS[name].kind == "base optimizer":
        kind, settings = None, {"lr": settings["lr"]}  # type: ignore[assignment]
    groups = [list(model[i].parameters()) for i in (0, 1, 3)]  # type: ignore[index]
    several = METHODS[name](
        [{"params": group} for group in groups], kind, rho=0.3, model=model,
        **{**settings, **OWN.get(name, {})},
    )  # fmt: skip
    for i in range(7):
        FORMS[form](several, model, *data(i))
        FORMS[form](one, twin, *data(i))
        assert equal(weights(model), weights(twin)), i
    assert len(several.param_groups) == 3
