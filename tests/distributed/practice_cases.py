"""What data-parallel processes do in loops of their own, and a rank that fails and stays alive."""

from __future__ import annotations

import contextlib
import datetime
import warnings
from typing import Any

import torch
import torch.distributed as dist
from ddp_cases import DOUBLE, SGD, STEPS, Wire, shares, wrapped
from forms import FORMS, make
from problems import closure_for, data, losses, network, weights
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from lowland.optim import MSAM, SAM

SIZES = (5, 5, 2)
"""The micro-batches of a device; also what m = 5 makes of its examples."""
WAYS = ("own loop", "own loop, divided", "m=", "batches=")
TIMEOUT = 4
"""Seconds that a device waits for another in `stays_away`."""

Batch = tuple[Tensor, Tensor]


def micro_batches(i: int, rank: int, world: int) -> list[Batch]:
    x, y = shares(i, rank, world, sum(SIZES) * world)
    return list(zip(x.split(SIZES), y.split(SIZES), strict=True))


def m_sam(rank: int, world: int, folder: str) -> dict[str, Any]:
    """An ε for every micro-batch, in a loop of one's own and by `MSAM`."""
    out: dict[str, Any] = {}
    for across in ("global", "local"):
        for how in WAYS:
            model, parallel = wrapped()
            wire = Wire(parallel)
            settings: dict[str, Any] = {"model": parallel, "perturbation": across, **SGD}
            if how.startswith("own loop"):
                opt: Any = SAM(model.parameters(), torch.optim.SGD, **settings)
            else:
                m = SIZES[0] if how == "m=" else None
                opt = MSAM(model.parameters(), torch.optim.SGD, m=m, **settings)
            for i in range(STEPS):
                if how == "m=":
                    batch = shares(i, rank, world, sum(SIZES) * world)
                    opt.step(loss_fn=losses(parallel), batch=batch)
                elif how == "batches=":
                    opt.step(loss_fn=losses(parallel), batches=micro_batches(i, rank, world))
                else:
                    _own_loop(opt, parallel, micro_batches(i, rank, world), "divided" in how)
            out[f"{across} {how}"] = weights(model)
            out[f"{across} {how} wire"] = wire.count
    return out


def _own_loop(opt: Any, parallel: Any, batches: list[Batch], divided: bool) -> None:
    for x, y in batches:
        weight = len(x) / sum(SIZES) if divided else 1.0

        def backward(x: Tensor = x, y: Tensor = y, weight: float = weight) -> None:
            (losses(parallel)(x, y).mean() * weight).backward()

        opt.zero_grad()
        with parallel.no_sync() if opt.across == "local" else contextlib.nullcontext():
            backward()
        settings: dict[str, Any] = {"divided": True} if divided else {"examples": len(x)}
        with opt.perturbed(last=x is batches[-1][0], **settings):
            backward()
    opt.step()


def overflow_in_two_steps(rank: int, world: int, folder: str) -> dict[str, Any]:
    """The last rank alone finds something not finite, in two-step form."""
    warnings.simplefilter("ignore", RuntimeWarning)
    return {
        f"{across} {scaled} {bad}": _overflow(rank, world, across, scaled, bad)
        for across in ("local", "global")
        for scaled in (False, True)
        for bad in (0, 1)
    }


def _overflow(rank: int, world: int, across: str, scaled: bool, bad: int) -> Any:
    model = network(3, torch.float32, norm=False)
    parallel = DistributedDataParallel(model)
    opt = SAM(
        model.parameters(), torch.optim.SGD, model=parallel, perturbation=across, rho=0.3, lr=0.1
    )
    grad_scaler = GradScaler("cpu", init_scale=1024.0, enabled=scaled)

    def backward(i: int, which: int) -> None:
        x, y = (t.tensor_split(world)[rank] for t in data(i, 24))
        loss = losses(parallel)(x, y).mean()
        if i == 1 and rank == world - 1 and which == bad:
            loss = loss + (loss - loss.detach()) * (3e37 if scaled else torch.inf)
        grad_scaler.scale(loss).backward()

    trail = []
    for i in range(3):
        opt.zero_grad()
        with parallel.no_sync() if across == "local" else contextlib.nullcontext():
            backward(i, 0)
        opt.first_step(scaler=grad_scaler)
        backward(i, 1)
        opt.second_step(scaler=grad_scaler)
        if scaled:
            grad_scaler.update()
        trail.append(weights(model))
    assert opt.last is not None
    return trail, grad_scaler.get_scale(), int(opt.last.skipped_total)


def stays_away(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Rank 1 fails in its second pass and stays alive, until the others have given up."""
    dist.barrier()
    group = dist.new_group(timeout=datetime.timedelta(seconds=TIMEOUT))
    model = network(3, DOUBLE, norm=False)
    parallel = DistributedDataParallel(model, process_group=group)
    opt = make("sam", parallel)
    FORMS["closure"](opt, parallel, *shares(0, rank, world))
    before, passes = weights(model), 0
    closure = closure_for(opt, parallel, *shares(1, rank, world))

    def fails() -> Tensor:
        nonlocal passes
        passes += 1
        if passes == 2 and rank == 1:
            raise MemoryError("out of memory")
        return closure()

    said = "nothing"
    try:
        opt.step(fails)
    except (MemoryError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}"
    at_w = all(map(torch.equal, before, weights(model)))
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait([f"{other} gave up" for other in range(world) if other != 1])
    else:
        store.set(f"{rank} gave up", "yes")
    return {"said": said, "passes": passes, "at w": at_w}
