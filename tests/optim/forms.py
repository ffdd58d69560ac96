"""Every method and every way of calling it, for the contract tests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from problems import closure_for, data, losses, network, weights
from torch import Tensor, nn

from lowland.optim import MESA, METHODS, SAF, SharpnessAware, create, label_weights

NARROW = {
    "0.weight": (4, 5), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "3.weight": (3, 4),
    "3.bias": (3,),
}  # fmt: skip
"""Shapes of the usual small network at another width."""

OWN: dict[str, dict[str, Any]] = {
    "m-sam": {"m": 5},
    "looksam": {"k": 3},
    "mup2": {"base_model": NARROW},
    "balanced-sam": {"weights": label_weights(torch.tensor([0, 0, 0, 1, 1, 2]))},
    "gsam": {"rho_min": 0.01, "lr_max": 0.1},
    "amp": {"inner_steps": 2},
    "bayesian-sam": {"examples": 100},
    "saf": {"examples": 64, "steps_per_epoch": 2, "back": 1, "start": 0},
    "mesa": {"decay": 0.7},
    "logits-sam": {"rho": 0.05},
    "fedsam": {"local_steps": 2},
    "fedasam": {"local_steps": 2},
    "mofedsam": {"local_steps": 2},
}
ONE_LOCAL_STEP: dict[str, Any] = {"local_steps": 1, "local_lr": 1.0}
PLAIN: dict[str, dict[str, Any]] = {
    "balanced-sam": {"weights": torch.ones(3)},
    "fedsam": ONE_LOCAL_STEP,
    "fedasam": ONE_LOCAL_STEP,
    "mofedsam": {**ONE_LOCAL_STEP, "beta": 1.0},
}
"""What makes a method the base optimizer on one batch, beside ρ = 0: FedAvg of one client with one
step of size 1 is."""
BASES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "sgd foreach": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "foreach": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "adam fused": (torch.optim.Adam, {"lr": 0.01, "fused": True}),
}


def make(name: str, model: nn.Module, base: str = "sgd", **options: Any) -> SharpnessAware:
    kind: Any
    kind, settings = BASES[base]
    if METHODS[name].kind == "base optimizer":  # brings its own
        kind, settings = None, {"lr": settings["lr"]}
        options = {k: v for k, v in options.items() if k not in ("momentum", "weight_decay")}
    return create(name, model, kind, **{**settings, **OWN.get(name, {}), **options})


def alone(name: str, model: nn.Module, base: str = "sgd") -> torch.optim.Optimizer:
    """The base optimizer alone."""
    if METHODS[name].kind == "base optimizer":
        own = type(make(name, model, base).base_optimizer)
        return own(model.parameters(), **_own_settings(name, model, base))
    kind, settings = BASES[base]
    return kind(model.parameters(), **settings)


def _own_settings(name: str, model: nn.Module, base: str) -> dict[str, Any]:
    made = make(name, model, base).base_optimizer
    names = inspect.signature(type(made)).parameters
    held = made.param_groups[0]
    return {key: held[key] for key in names if key in held and key != "params"}


def ways_in(name: str) -> list[str]:
    """The forms that a method has."""
    opt = make(name, network())
    if opt.needs_batch:
        return ["batch"]
    return ["closure", "batch"] if opt.needs_closure else list(FORMS)


def on_batch(
    opt: Any, model: nn.Module | None, fn: Any, batch: Any, numbers: Any = None, **more: Any
) -> Any:
    """``step(loss_fn=, batch=)`` with what the method wants beside losses, inputs and labels."""
    model = model or opt._engine.model
    if isinstance(opt, SAF | MESA):
        fn = with_logits(model, fn)
    if isinstance(opt, SAF):
        n = len(batch[0])
        rank = dist.get_rank() if dist.is_initialized() else 0
        batch = (*batch, torch.arange(n) + n * rank if numbers is None else numbers)
    return opt.step(loss_fn=fn, batch=batch, **more)


def with_logits(model: nn.Module, fn: Any) -> Any:
    """A loss function that returns the last outputs of the model too."""

    def both(x: Tensor, y: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        said: list[Tensor] = []
        hook = model.register_forward_hook(lambda module, args, out: said.append(out))
        try:
            found = fn(x, y)
        finally:
            hook.remove()
        return found, said[-1]

    return both


def form_batch(opt: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    on_batch(opt, model, losses(model), (x, y))


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
WAYS = {name: ways_in(name) for name in METHODS}
TWO_PASS = [name for name, ways in WAYS.items() if len(ways) == len(FORMS)]


def run(name: str, form: str, steps: int = 7, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    model = network(3)
    opt = make(name, model, **options)
    for i in range(steps):
        FORMS[form](opt, model, *data(i))
    return weights(model), [b.clone() for b in model.buffers()]


NAMES_AND_FORMS = [(name, form) for name, ways in WAYS.items() for form in ways]
"""Methods with the ways in that they have."""


def failing(form: str, opt: Any, model: nn.Module, fn: Any, batch: Any, perturbs: bool) -> None:
    """The passes of one step in this form with `fn` as the loss, which fails on the way."""
    x, y = batch
    if form == "batch":
        on_batch(opt, model, fn, (x, y))
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


THREE = ["closure", "context", "two-step"]
"""The forms in which the passes are the caller's own."""


def step_by(
    form: str,
    opt: Any,
    closure: Callable[[], Tensor],
    *,
    scaler: Any = None,
    at_end: Callable[[], object] | None = None,
) -> None:
    """One step whose every pass is `closure`.

    Args:
        form: one of `THREE`.
        scaler: the gradient scaler that `closure` scales with; update() is left to the caller.
        at_end: called between the last backward and the step, with unscaled gradients.
    """
    if form == "closure":
        hook = opt.register_step_pre_hook(lambda *_: at_end()) if at_end else None
        opt.step(closure, scaler=scaler)
        if hook:
            hook.remove()
        return
    closure()
    two_step = form == "two-step" and opt.needs_perturbation
    if two_step:
        opt.first_step(scaler=scaler)
        closure()
    elif opt.needs_perturbation:
        with opt.perturbed(scaler=scaler):
            closure()
    if at_end:
        if scaler is not None:
            scaler.unscale_(opt)
        at_end()
    if two_step:
        opt.second_step(scaler=scaler)
    elif scaler is not None:
        scaler.step(opt)
    else:
        opt.step()
