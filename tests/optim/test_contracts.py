"""The eight contracts of the engine, each with a test that can fail."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import closure_for, data, equal, losses, network, weights
from torch import Tensor, nn

from lowland.optim import ASAM, FSAM, METHODS, MSAM, SAM, SAMON, LookSAM, SharpnessAware, create

OWN: dict[str, dict[str, Any]] = {"m-sam": {"m": 5}, "looksam": {"k": 3}}
BASES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "sgd foreach": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "foreach": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "adam fused": (torch.optim.Adam, {"lr": 0.01, "fused": True}),
}


def make(name: str, model: nn.Module, base: str = "sgd", **options: Any) -> SharpnessAware:
    kind, settings = BASES[base]
    return create(name, model, kind, **{**settings, **OWN.get(name, {}), **options})


def form_batch(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    opt.step(loss_fn=losses(model), batch=(x, y))


def form_closure(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    opt.step(closure_for(opt, model, x, y))


def form_context(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    opt.zero_grad()
    losses(model)(x, y).mean().backward()
    if opt.needs_perturbation:
        with opt.perturbed():
            losses(model)(x, y).mean().backward()
    opt.step()


def form_two_step(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    losses(model)(x, y).mean().backward()
    if opt.needs_perturbation:
        opt.first_step(zero_grad=True)
        losses(model)(x, y).mean().backward()
        opt.second_step(zero_grad=True)
    else:
        opt.step()
        opt.zero_grad()


FORMS: dict[str, Callable[..., None]] = {
    "closure": form_closure,
    "context": form_context,
    "two-step": form_two_step,
    "batch": form_batch,
}
TWO_PASS = [name for name in METHODS if name != "m-sam"]


def run(name: str, form: str, steps: int = 7, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    model = network(3)
    opt = make(name, model, **options)
    for i in range(steps):
        FORMS[form](opt, model, *data(i))
    return weights(model), [b.clone() for b in model.buffers()]


# The four ways in


@pytest.mark.parametrize("name", TWO_PASS)
@pytest.mark.parametrize("form", ["context", "two-step", "batch"])
def test_all_ways_in_give_the_same_bits(name: str, form: str) -> None:
    w, buffers = run(name, form, rho=0.3)
    expected, expected_buffers = run(name, "closure", rho=0.3)
    assert equal(w, expected)
    assert equal(buffers, expected_buffers)


# 1. ρ = 0 is the base optimizer, lr = 0 changes nothing


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_rho_zero_is_the_base_bit_for_bit(name: str, base: str) -> None:
    model, twin = network(3), network(3)
    opt = make(name, model, base, rho=0.0)
    kind, settings = BASES[base]
    plain = kind(twin.parameters(), **settings)
    calls = []

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return losses(model)(x, y)

    for i in range(5):
        x, y = data(i)
        opt.step(loss_fn=loss_fn, batch=(x, y))
        plain.zero_grad()
        losses(twin)(x, y).mean().backward()
        plain.step()
    assert equal(weights(model), weights(twin))
    assert equal(list(model.buffers()), list(twin.buffers()))
    assert len(calls) == 5, "with ρ = 0 everywhere the second pass is skipped"


def test_replayed_randomness_makes_both_passes_use_the_same_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    x, y = data()
    for replay in (True, False):
        masks = []

        def closure(masks: list[Tensor] = masks) -> Tensor:
            model.zero_grad()
            hidden = model[1](torch.ones(50))
            masks.append(hidden.clone())
            loss = losses(model)(x, y).mean()
            loss.backward()
            return loss

        opt = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, replay_rng=replay)
        torch.manual_seed(1)
        opt.step(closure)
        after = torch.rand(1)
        torch.manual_seed(1)
        closure()
        assert torch.equal(masks[0], masks[1]) == replay
        assert torch.equal(after, torch.rand(1)) == replay, "goes on as after one pass"


def test_replaying_needs_to_see_both_passes() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, replay_rng=True)
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="replay_rng"), opt.perturbed():
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_learning_rate_zero_leaves_every_bit(name: str, dtype: torch.dtype) -> None:
    model, (x, y) = network(1, dtype), data(1, dtype=dtype)
    before = weights(model)
    opt = create(name, model, torch.optim.SGD, lr=0.0, rho=0.5, **OWN.get(name, {}))
    for _ in range(20):
        opt.step(loss_fn=losses(model), batch=(x, y))
        assert equal(weights(model), before)


# 2. Exceptions


class Stop(BaseException):
    """Like KeyboardInterrupt, not an Exception."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_an_exception_in_any_pass_leaves_w(name: str, form: str, error: type) -> None:
    if name == "m-sam" and form != "batch":
        pytest.skip("m-SAM is stepped with a batch")
    reference = network(3)
    clean = make(name, reference, rho=0.3)
    model = network(3)
    opt = make(name, model, rho=0.3)
    for i in range(4):
        FORMS[form](clean, reference, *data(i))
        FORMS[form](opt, model, *data(i))
        perturbs = opt.needs_perturbation
        fail_at = i % 2 + 1 if perturbs else 1
        calls = 0

        def broken(x: Tensor, y: Tensor, fail_at: int = fail_at) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise error
            return losses(model)(x, y)

        before, statistics = weights(model), [b.clone() for b in model.buffers()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error):
                _failing(form, opt, broken, data(i + 100), perturbs)
            if form == "two-step" and fail_at == 2:
                assert not equal(weights(model), before), "w+ε until the next optimizer call"
                opt._passes.abandon()
        assert equal(weights(model), before)
        for b, old in zip(model.buffers(), statistics, strict=True):
            b.copy_(old)  # the first pass may have updated them, as plain training would
        opt.zero_grad()
    assert equal(weights(model), weights(reference)), "the failed steps left no trace"


def _failing(form: str, opt: Any, fn: Any, batch: Any, perturbs: bool) -> None:
    x, y = batch
    if form == "batch":
        opt.step(loss_fn=fn, batch=(x, y))
    elif form == "closure":

        def closure() -> Tensor:
            opt.zero_grad()
            loss = fn(x, y).mean()
            loss.backward()
            return loss

        opt.step(closure)
    else:
        fn(x, y).mean().backward()
        if not perturbs:
            return
        if form == "context":
            with opt.perturbed():
                fn(x, y).mean().backward()
        else:
            opt.first_step(zero_grad=True)
            fn(x, y).mean().backward()


def test_two_step_form_restores_at_the_next_call() -> None:
    model, (x, y) = network(3, norm=False), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
    before = weights(model)
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    losses(model)(x, y).mean().backward()  # something fails here; the loop goes on with new data
    with pytest.warns(RuntimeWarning, match="never followed by step"):
        opt.first_step(zero_grad=True)
    assert equal(weights(model), before)
    losses(model)(x, y).mean().backward()
    plain = [p - 0.1 * p.grad for p in model.parameters() if p.grad is not None]
    opt.second_step(zero_grad=True)
    assert equal(weights(model), [p.detach() for p in plain]), "that step is a plain one, at w"


@pytest.mark.parametrize("call", ["closure", "load_state_dict"])
def test_other_calls_restore_too(call: str) -> None:
    model, (x, y) = network(3, norm=False), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.0, rho=0.3)
    before, state = weights(model), opt.state_dict()
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    with pytest.warns(RuntimeWarning, match="never followed by step"):
        opt.step(closure_for(opt, model, x, y)) if call == "closure" else opt.load_state_dict(state)
    assert equal(weights(model), before)


def test_zero_grad_between_the_two_steps_is_not_such_a_call() -> None:
    ends = []
    for extra in (False, True):
        model, (x, y) = network(3, norm=False), data()
        opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
        losses(model)(x, y).mean().backward()
        opt.first_step()
        if extra:
            opt.zero_grad()
        losses(model)(x, y).mean().backward()
        opt.second_step()
        ends.append(weights(model))
    assert equal(*ends)


def test_state_dict_refuses_while_weights_are_displaced() -> None:
    model, (x, y) = network(), data()
    opt = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.3)
    losses(model)(x, y).mean().backward()
    opt.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match=r"state_dict\(\) while the weights are at w\+ε"):
        opt.state_dict()
    with pytest.raises(RuntimeError, match="under way"):
        copy.deepcopy(opt)
    losses(model)(x, y).mean().backward()
    opt.second_step(zero_grad=True)
    opt.state_dict()


# 3. Gradients that are not finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("base", ["sgd", "adam fused"])
def test_not_finite_means_skipped(name: str, form: str, which: int, bad: float, base: str) -> None:
    if name == "m-sam" and form != "batch":
        pytest.skip("m-SAM is stepped with a batch")
    model, reference = network(3), network(3)
    opt, clean = make(name, model, base, rho=0.3), make(name, reference, base, rho=0.3)
    for i in range(3):
        FORMS[form](opt, model, *data(i))
        FORMS[form](clean, reference, *data(i))
    opt.param_groups[0]["start"] = clean.param_groups[0]["start"] = 3  # a full step comes next
    before, state = weights(model), copy.deepcopy(opt.state_dict()["state"])
    statistics = [b.clone() for b in model.buffers()]
    calls = 0

    def poisoned(x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        out = losses(model)(x, y)
        return out * bad if calls == which else out

    with pytest.warns(RuntimeWarning, match="not finite"):
        _failing_step(form, opt, poisoned, data(50))
    assert equal(weights(model), before)
    assert _same(opt.state_dict()["state"], state)
    assert opt.last is not None
    assert bool(opt.last.skipped)
    assert int(opt.last.skipped_total) == 1
    for b, old in zip(model.buffers(), statistics, strict=True):
        b.copy_(old)
    opt.zero_grad()
    for group in opt.param_groups:
        group["sam_step"] -= 1
    for i in range(3, 6):
        FORMS[form](opt, model, *data(i))
        FORMS[form](clean, reference, *data(i))
    assert equal(weights(model), weights(reference))


def _failing_step(form: str, opt: Any, fn: Any, batch: Any) -> None:
    _failing(form, opt, fn, batch, True)
    if form == "context":
        opt.step()
    elif form == "two-step":
        opt.second_step()


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    return bool(left == right)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_skipping_on_the_device_agrees_with_skipping_on_the_host(name: str, which: int) -> None:
    ends = []
    for nonfinite in ("skip", "device"):
        model = network(3)
        opt = make(name, model, "adam fused", rho=0.3, nonfinite=nonfinite)
        for i in range(6):
            calls = 0

            def fn(x: Tensor, y: Tensor, i: int = i, model: nn.Module = model) -> Tensor:
                nonlocal calls
                calls += 1
                out = losses(model)(x, y)
                return out * float("nan") if i == 3 and calls == which else out

            statistics = [b.clone() for b in model.buffers()]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opt.step(loss_fn=fn, batch=data(i))
            if i == 3:
                for b, old in zip(model.buffers(), statistics, strict=True):
                    b.copy_(old)
        assert opt.last is not None
        ends.append((weights(model), int(opt.last.skipped_total)))
    assert equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize("form", FORMS)
def test_a_radius_that_leaves_the_number_range_is_skipped(form: str) -> None:
    model = network(3)
    opt = make("sam", model, rho=1e39)
    before = weights(model)
    with pytest.warns(RuntimeWarning, match="not finite"):
        FORMS[form](opt, model, *data(0))
    assert equal(weights(model), before)


def test_device_skipping_is_refused_where_the_base_cannot() -> None:
    with pytest.raises(ValueError, match="fused=True"):
        SAM(network().parameters(), torch.optim.SGD, lr=0.1, nonfinite="device")
    with pytest.raises(ValueError, match="did you mean 'skip'"):
        SAM(network().parameters(), torch.optim.SGD, lr=0.1, nonfinite="skp")


def test_non_finite_gradients_outside_the_selection_are_seen() -> None:
    model, (x, y) = network(3), data()
    opt = SAMON(model.parameters(), torch.optim.SGD, model=model, rho=0.3, lr=0.1)
    before = weights(model)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = losses(model)(x, y).mean()
        loss.backward()
        if not opt.displaced_once:  # type: ignore[attr-defined]
            model[0].weight.grad.fill_(float("inf"))
            opt.displaced_once = True  # type: ignore[attr-defined]
        return loss

    opt.displaced_once = False  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="not finite"):
        opt.step(closure)
    assert equal(weights(model), before)


# 4. The base sees w; hyperparameters live in the groups; hooks fire once


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


# 8. Nothing is silent


def test_what_is_missing_is_said() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    with pytest.raises(RuntimeError, match="without a perturbed pass"):
        opt.step()
    with pytest.raises(RuntimeError, match="call backward"), opt.perturbed():
        pass
    with pytest.raises(RuntimeError, match="without first_step"):
        opt.second_step()
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        pass
    with pytest.raises(RuntimeError, match="made no gradients"):
        opt.step()
    with (
        pytest.raises(RuntimeError, match="return loss"),
        pytest.warns(RuntimeWarning, match="never followed"),
    ):
        opt.step(lambda: None)
    with pytest.raises(RuntimeError, match="made no gradients"):
        opt.step(lambda: torch.zeros(()))
    off = make("sam", model, rho=0.0)
    off.zero_grad()
    with pytest.raises(RuntimeError, match="no backward"):
        off.step()
    with pytest.raises(ValueError, match="together"):
        opt.step(loss_fn=losses(model))


def test_passes_inside_passes_are_refused() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    before = weights(model)
    losses(model)(x, y).mean().backward()

    def nested() -> None:
        with opt.perturbed(), opt.perturbed():
            pass

    with pytest.raises(RuntimeError, match="inside a perturbed pass"):
        nested()
    assert equal(weights(model), before)
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="leave the block"), opt.perturbed():
        opt.step()
    assert equal(weights(model), before)


def test_a_pass_that_is_not_needed_is_harmless_and_said_once() -> None:
    model, twin, (x, y) = network(3), network(3), data()
    opt = make("sam", model, rho=0.0)
    plain = torch.optim.SGD(twin.parameters(), **BASES["sgd"][1])
    losses(model)(x, y).mean().backward()
    with pytest.warns(RuntimeWarning, match="needs no second pass"), opt.perturbed():
        losses(model)(x, y).sum().backward()
    opt.step()
    FORMS["closure"](plain, twin, x, y)
    assert equal(weights(model), weights(twin))


def test_a_closure_that_does_not_start_from_zero() -> None:
    """The widely copied closure form, which expects the gradient to be there already."""
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    before = weights(model)

    def closure() -> Tensor:
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    closure()
    with pytest.raises(RuntimeError, match=r"two lines change: put optimizer.zero_grad\(\) first"):
        opt.step(closure)
    assert equal(weights(model), before)
    opt.zero_grad()
    opt.step(closure)  # nothing was there: fine, and the engine clears between the passes
    expected, _ = run("sam", "closure", steps=1, rho=0.3)
    assert equal(weights(model), list(expected))
    opt.step(closure)  # what the engine itself left behind is not held against it


@pytest.mark.parametrize("to_none", [True, False])
def test_a_closure_that_clears_foreign_gradients_is_fine(to_none: bool) -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    losses(model)(2 * x, y).mean().backward()

    def closure() -> Tensor:
        model.zero_grad(set_to_none=to_none)
        loss = losses(model)(x, y).mean()
        loss.backward()
        return loss

    opt.step(closure)
    expected, _ = run("sam", "closure", steps=1, rho=0.3)
    assert equal(weights(model), expected)


def test_methods_that_split_the_batch_say_how_to_call_them() -> None:
    model, (x, y) = network(3), data()
    opt = make("m-sam", model, rho=0.3)
    assert opt.needs_batch
    with pytest.raises(RuntimeError, match=r"step\(loss_fn=..., batch=...\)"):
        opt.step(closure_for(opt, model, x, y))
    losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match=r"step\(loss_fn=..., batch=...\)"), opt.perturbed():
        pass


def test_loss_functions_of_the_wrong_shape_and_ragged_batches() -> None:
    model, (x, y) = network(3), data()
    opt = make("m-sam", model, rho=0.3)
    with pytest.raises(RuntimeError, match="one loss per example"):
        opt.step(loss_fn=lambda x, y: model(x), batch=(x, y))
    with pytest.raises(ValueError, match="common, positive number"):
        opt.step(loss_fn=losses(model), batch=(x, y[:3]))
    named = {"x": x, "y": y}
    opt.step(loss_fn=lambda x, y: losses(model)(x, y), batch=named)


# Accumulation over micro-batches: an ε for each, the example-weighted mean of the g̃


@pytest.mark.parametrize("name", ["sam", "f-sam", "looksam"])
def test_micro_batches_are_m_sam(name: str) -> None:
    x, y = data(n=12)
    sizes = [5, 5, 2]
    model = network(3, torch.float64, norm=False)
    x = x.double()
    opt = make(name, model, rho=0.3, lr=0.1)
    for _ in range(1 if name == "looksam" else 3):
        for i, (xs, ys) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
            losses(model)(xs, ys).mean().backward()
            with opt.perturbed(last=i == 2, examples=len(xs)):
                losses(model)(xs, ys).mean().backward()
        opt.step()
        opt.zero_grad()
    if name != "sam":
        assert int(opt.param_groups[0]["sam_step"]) == (1 if name == "looksam" else 3)
        return
    twin = network(3, torch.float64, norm=False)
    split = MSAM(twin.parameters(), torch.optim.SGD, m=5, rho=0.3, **BASES["sgd"][1])
    for _ in range(3):
        split.step(loss_fn=losses(twin), batch=(x, y))
    for a, b in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_f_sam_over_micro_batches_remembers_the_mean_gradient() -> None:
    model, (x, y) = network(3, torch.float64, norm=False), data(dtype=torch.float64)
    opt = make("f-sam", model, rho=0.3)
    whole = torch.autograd.grad(losses(model)(x, y).mean(), list(model.parameters()))
    for i, (xs, ys) in enumerate(zip(x.split(7), y.split(7), strict=True)):
        losses(model)(xs, ys).mean().backward()
        with opt.perturbed(last=i == 1, examples=len(xs)):
            losses(model)(xs, ys).mean().backward()
    opt.step()
    for p, g in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(opt.state[p]["sam_ema"], g)


def test_a_step_in_the_middle_of_micro_batches_is_refused() -> None:
    model, (x, y) = network(3), data()
    opt = make("sam", model, rho=0.3)
    losses(model)(x, y).mean().backward()
    with opt.perturbed(last=False):
        losses(model)(x, y).mean().backward()
    with pytest.raises(RuntimeError, match="last=False"):
        opt.step()
    with pytest.raises(ValueError, match="examples is 0"):
        opt.perturbed(examples=0)


# Gradients that are there in one pass only


def test_parameters_without_a_gradient_in_one_of_the_passes() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    opt = SAM([a, b, frozen], torch.optim.SGD, rho=0.5, lr=0.1)
    before = [p.detach().clone() for p in (a, b, frozen)]
    (a**2).sum().backward()
    with opt.perturbed():
        assert not torch.equal(a, before[0])
        assert torch.equal(b, before[1])
        (b**2).sum().backward()
        assert torch.equal(frozen, before[2])
    assert torch.equal(a, before[0])
    opt.step()
    assert torch.equal(a, before[0])
    assert not torch.equal(b, before[1])


def test_memory_is_one_copy_and_g_is_gone_before_the_second_pass() -> None:
    """SAM lets go of g; methods that need it keep it."""
    import weakref

    for kind, alive in ((SAM, False), (FSAM, True), (LookSAM, True)):
        model, (x, y) = network(3), data()
        opt = kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1, model=model)
        losses(model)(x, y).mean().backward()
        g = weakref.ref(model[0].weight.grad)
        with opt.perturbed():
            assert (g() is not None) == alive, kind
            losses(model)(x, y).mean().backward()
        opt.step()
        held = sum(flat.numel() for flat in opt._engine.displacement._store.flat)
        assert held == sum(p.numel() for p in model.parameters())


def test_asam_without_names_says_what_it_does() -> None:
    with pytest.warns(RuntimeWarning, match="scale_bias=True"):
        ASAM(network().parameters(), torch.optim.SGD, lr=0.1)
    named = network()
    ASAM(named.named_parameters(), torch.optim.SGD, lr=0.1)
