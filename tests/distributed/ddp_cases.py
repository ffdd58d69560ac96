"""What every process of data-parallel training does in the tests; compared with one process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from forms import FORMS, TWO_PASS, WAYS, form_batch, make, on_batch
from problems import data, losses, network, weights
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from lowland.optim import MSAM, SAF, SAM, SharpnessAware

DOUBLE = torch.float64
STEPS = 4
SGD: dict[str, Any] = {"rho": 0.3, "lr": 0.1, "momentum": 0.9}

TRAJECTORY: dict[str, Any] = {"examples": 8, "steps_per_epoch": 1, "back": 1, "start": 0}


def shares(i: int, rank: int, world: int, n: int = 24) -> tuple[Tensor, Tensor]:
    """This rank's examples of batch number i."""
    x, y = data(i, n, DOUBLE)
    return x.tensor_split(world)[rank], y.tensor_split(world)[rank]


def wrapped(**options: Any) -> tuple[nn.Module, DistributedDataParallel]:
    model = network(3, DOUBLE, norm=False)
    return model, DistributedDataParallel(model, **options)


class Wire:
    """Counts the reductions that a wrapper makes."""

    def __init__(self, parallel: DistributedDataParallel) -> None:
        self.count = self.bytes = 0
        parallel.register_comm_hook(None, self._hook)

    def _hook(self, state, bucket):  # type: ignore[no-untyped-def]  # torch checks annotations
        buffer = bucket.buffer()
        self.count += 1
        self.bytes += buffer.numel() * buffer.element_size()
        buffer.div_(dist.get_world_size())
        future = dist.all_reduce(buffer, async_op=True).get_future()
        return future.then(lambda done: done.value()[0])


def whole_batch(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Every method and form, ε from the gradient over all devices."""
    out: dict[str, Any] = {}
    for view in (False, True):
        for name in TWO_PASS:
            for form, step in FORMS.items():
                model, parallel = wrapped(gradient_as_bucket_view=view)
                if name == "sam-on":
                    continue  # has nothing to perturb here: no normalization layers
                opt = make(name, parallel if view else model)  # the wrapper is given, or found
                for i in range(STEPS):
                    step(opt, parallel, *shares(i, rank, world))
                out[f"{name} {form} {view}"] = weights(model)
        model, parallel = wrapped(gradient_as_bucket_view=view)
        opt = MSAM(model.parameters(), torch.optim.SGD, m=3, model=parallel, **SGD)
        for i in range(STEPS):
            form_batch(opt, parallel, *shares(i, rank, world))
        out[f"m-sam {view}"] = weights(model)
    model, parallel = wrapped()
    opt = make("sam", parallel)
    for i in range(STEPS):  # 24 does not divide 13: weighted by examples
        form_batch(opt, parallel, *shares(i, rank, world, n=13))
    out["ragged"] = weights(model)
    model, parallel = wrapped()
    opt, wire = make("sam", model), Wire(parallel)
    for i in range(STEPS):
        x, y = shares(i, rank, world, n=26)
        parts = list(zip(x.tensor_split(3), y.tensor_split(3), strict=True))
        opt.step(loss_fn=losses(parallel), batches=parts)
    out["micro-batches"] = weights(model)
    out["micro-batches, reductions"] = wire.count
    return out


def own_batch(rank: int, world: int, folder: str) -> dict[str, Any]:
    """``perturbation="local"`` in every form, with the wrapper given or found."""
    out: dict[str, Any] = {}
    for given in (False, True):
        for form in ("closure", "batch", "context", "two-step"):
            model, parallel = wrapped()
            wire = Wire(parallel)
            opt = SAM(
                model.parameters(),
                torch.optim.SGD,
                model=parallel if given else None,
                perturbation="local",
                **SGD,
            )
            for i in range(STEPS):
                x, y = shares(i, rank, world, n=25 if form == "batch" else 24)
                _local_step(form, opt, parallel, x, y)
            out[f"{form} {given}"] = weights(model)
            out[f"{form} {given} wire"] = wire.count
    model, parallel = wrapped()
    opt = make("asam", parallel, perturbation="local")
    for i in range(STEPS):
        FORMS["closure"](opt, parallel, *shares(i, rank, world))
    out["asam"] = weights(model)
    model, parallel = wrapped()
    opt = SAM(
        model.parameters(), torch.optim.SGD, model=parallel, perturbation="local", every=2, **SGD
    )
    wire = Wire(parallel)
    for i in range(STEPS):  # plain steps in between exchange their gradient
        FORMS["closure"](opt, parallel, *shares(i, rank, world))
    out["every"], out["every wire"] = weights(model), wire.count
    return out


def _local_step(form: str, opt: SharpnessAware, parallel: Any, x: Tensor, y: Tensor) -> None:
    if form in ("closure", "batch"):
        FORMS[form](opt, parallel, x, y)
        return
    opt.zero_grad()
    with parallel.no_sync():
        losses(parallel)(x, y).mean().backward()
    if form == "context":
        with opt.perturbed():
            losses(parallel)(x, y).mean().backward()
        opt.step()
    else:
        opt.first_step()
        losses(parallel)(x, y).mean().backward()
        opt.second_step()


def overflow(rank: int, world: int, folder: str) -> dict[str, Any]:
    """The last rank alone finds something not finite: all skip, and all scalers agree."""
    warnings.simplefilter("ignore", RuntimeWarning)
    out: dict[str, Any] = {}
    for across in ("local", "global"):
        for form in ("closure", "context"):
            for scaled in (False, True):
                for bad in (0, 1):
                    key = f"{across} {form} {scaled} {bad}"
                    out[key] = _overflow(rank, world, across, form, scaled, bad)
    return out


def _overflow(rank: int, world: int, across: str, form: str, scaled: bool, bad: int) -> Any:
    torch.manual_seed(0)
    model = network(3, torch.float32, norm=False)
    parallel = DistributedDataParallel(model)
    opt = SAM(
        model.parameters(), torch.optim.SGD, model=parallel, perturbation=across, rho=0.3, lr=0.1
    )
    scaler = GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    count = 0

    def backward(i: int) -> Tensor:
        nonlocal count
        x, y = (t.tensor_split(world)[rank] for t in data(i, 24))
        loss = losses(parallel)(x, y).mean()
        if i == 1 and rank == world - 1 and count == bad:
            loss = loss + (loss - loss.detach()) * (3e37 if scaled else torch.inf)
        count += 1
        scaler.scale(loss).backward()
        return loss

    trail = []
    for i in range(3):
        count = 0
        _one(form, opt, parallel, scaler, lambda i=i: backward(i), across)
        trail.append(weights(model))
    assert opt.last is not None
    return trail, scaler.get_scale(), int(opt.last.skipped_total)


def _one(
    form: str, opt: Any, parallel: Any, scaler: GradScaler, backward: Callable[[], Tensor],
    across: str,
) -> None:  # fmt: skip
    if form == "closure":

        def closure() -> Tensor:
            opt.zero_grad()
            return backward()

        opt.step(closure, scaler=scaler)
    else:
        opt.zero_grad()
        if across == "local":
            with parallel.no_sync():
                backward()
        else:
            backward()
        with opt.perturbed(scaler=scaler):
            backward()
        scaler.step(opt)
    if scaler.is_enabled():
        scaler.update()


def mistakes(rank: int, world: int, folder: str) -> dict[str, str]:
    """What is said when the caller is inside no_sync, or batches do not fit."""
    said: dict[str, str] = {}

    def hear(key: str, work: Callable[[], Any]) -> None:
        try:
            work()
            said[key] = "nothing"
        except (RuntimeError, ValueError) as error:
            said[key] = str(error)

    model, parallel = wrapped()
    opt = make("sam", parallel)
    x, y = shares(0, rank, world)
    before = weights(model)

    def in_no_sync(form: str) -> None:
        with parallel.no_sync():
            FORMS[form](opt, parallel, x, y)

    for form in FORMS:
        hear(f"no_sync {form}", lambda form=form: in_no_sync(form))
    said["moved"] = str(
        any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    )

    model, parallel = wrapped()
    msam = MSAM(model.parameters(), torch.optim.SGD, m=3, model=parallel, **SGD)
    hear("ragged m-sam", lambda: form_batch(msam, parallel, *shares(0, rank, world, n=13)))

    bare = network(3, DOUBLE, norm=False)
    alone = SAM(bare.parameters(), torch.optim.SGD, perturbation="local", **SGD)
    hear("no wrapper", lambda: FORMS["closure"](alone, bare, x, y))
    return said


def failing(rank: int, world: int, folder: str) -> Any:
    """Rank 1 fails in its second pass and is gone; the others say so and stand at w."""
    import os

    model, parallel = wrapped()
    opt = make("sam", parallel)
    FORMS["closure"](opt, parallel, *shares(0, rank, world))
    before = weights(model)
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        if passes == 2 and rank == 1:
            raise MemoryError("out of memory")
        opt.zero_grad()
        loss = losses(parallel)(*shares(1, rank, world)).mean()
        loss.backward()
        return loss

    try:
        opt.step(closure)
    except BaseException as error:
        at_w = all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
        torch.save((type(error).__name__, at_w), f"{folder}/failed-{rank}.pt")
        os._exit(3)
    return "no error"


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


def not_exchanged(rank: int, world: int, folder: str) -> dict[str, Any]:
    """A backward under no_sync() that must not be, and one that should; what is said."""
    out: dict[str, Any] = {}
    x, y = shares(0, rank, world)

    def hear(key: str, across: str, step: Callable[[Any, Any, Any], Any], **options: Any) -> None:
        model, parallel = wrapped()
        given = parallel if options.pop("given", True) else None
        opt = SAM(
            model.parameters(), torch.optim.SGD, model=given, perturbation=across,
            **SGD, **options,
        )  # fmt: skip
        before = weights(model)
        loss_of = losses(parallel)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                for _ in range(2):
                    step(opt, parallel, lambda: _backward(loss_of(x, y).mean()))
                said = " ".join(str(w.message) for w in caught)
            except RuntimeError as error:
                said = str(error)
        at_w = all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
        out[key] = said, at_w

    def closure(opt: Any, parallel: Any, backward: Callable[[], Tensor]) -> None:
        def alone() -> Tensor:
            opt.zero_grad()
            with parallel.no_sync():
                return backward()

        opt.step(alone)

    def context(quiet: tuple[bool, bool]) -> Callable[[Any, Any, Any], None]:
        def run(opt: Any, parallel: Any, backward: Callable[[], Tensor]) -> None:
            opt.zero_grad()
            for i, silent in enumerate(quiet):
                with contextlib.ExitStack() as stack:
                    if i:
                        stack.enter_context(opt.perturbed())
                    if silent:
                        stack.enter_context(parallel.no_sync())
                    backward()
            opt.step()

        return run

    def unwrapped(opt: Any, parallel: Any, backward: Callable[[], Tensor]) -> None:
        def closure() -> Tensor:
            opt.zero_grad()
            return _backward(losses(parallel.module)(x, y).mean())

        opt.step(closure)

    hear("closure", "global", closure)
    hear("closure, plain steps", "global", closure, start=100)
    hear("closure, local", "local", closure)
    hear("first", "global", context((True, False)))
    hear("first, wrapper found", "global", context((True, False)), given=False)
    hear("second", "global", context((False, True)))
    hear("second, local", "local", context((True, True)))
    hear("past the wrapper", "global", unwrapped)
    hear("exchanged, local", "local", context((False, False)))
    hear("right", "global", context((False, False)))
    hear("right, local", "local", context((True, False)))
    return out


def plans(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Methods that make passes of their own, from the first step on and later."""
    out: dict[str, Any] = {}
    for name in WAYS:
        if name in TWO_PASS:
            continue
        for start in (0, 2):
            model = network(3, DOUBLE, norm=False)
            unused = name == "sl-sam"
            parallel = DistributedDataParallel(model, find_unused_parameters=unused)
            opt = make(name, parallel, start=start)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says that all parameters are in use
                for i in range(STEPS):
                    form_batch(opt, parallel, *shares(i, rank, world))
            out[f"{name} {start}"] = weights(model)
    return out


def epochs(count: int, n: int = 8) -> list[Tensor]:
    """The examples' numbers of each epoch: from epoch to epoch they change places."""
    return [torch.arange(n).roll(3 * epoch) for epoch in range(count)]


def wandering(rank: int, world: int, folder: str) -> dict[str, Any]:
    """SAF where an example was on another device when its logits were recorded."""
    model = network(3, DOUBLE, norm=False)
    parallel = DistributedDataParallel(model)
    opt = SAF(parallel.parameters(), torch.optim.SGD, **TRAJECTORY, **SGD)
    x, y = data(0, 8, DOUBLE)
    for numbers in epochs(4):
        mine = numbers.tensor_split(world)[rank]
        on_batch(opt, parallel, losses(parallel), (x[mine], y[mine]), numbers=mine)
    return {"saf": weights(model)}
