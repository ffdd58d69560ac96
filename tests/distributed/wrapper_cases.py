"""Wrappers that hold copies of the parameters, are made anew or belong to another network."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ddp_cases import DOUBLE, SGD, shares
from problems import losses, network, weights
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lowland.optim import MSAM, SAM


def sharded(**options: Any) -> Any:
    model: Any = network(3, DOUBLE, norm=False)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **options)
    return fully_shard(model, **options)


def whole(model: nn.Module) -> list[Tensor]:
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in weights(model)]


def heard(work: Callable[[], Any]) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            work()
        except (RuntimeError, ValueError) as error:
            return str(error)
    return " ".join(str(w.message) for w in caught)


def gathered(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Steps around which FSDP2 keeps gathered copies of the parameters."""
    x, y = shares(0, rank, world)
    out: dict[str, Any] = {}

    def step(kind: str, given: bool) -> None:
        model = sharded()
        opt = SAM(model.parameters(), torch.optim.SGD, model=model if given else None, **SGD)
        if kind == "metrics":
            model.set_reshard_after_forward(False)
        loss = losses(model)(x, y).mean()
        loss.backward()
        if kind == "metrics":
            with torch.no_grad():
                model(x)
        if kind == "prefetched":
            model[0].unshard()
        with opt.perturbed(loss=loss) as second:
            if kind == "looked at":
                model.set_reshard_after_forward(False)
                with torch.no_grad():
                    model(x)
            again = losses(model)(x, y).mean()
            again.backward()
            second.record(again)
        opt.step()
        assert opt.last is not None
        with torch.no_grad():
            after = losses(model)(x, y).mean()
        out[f"{kind} {given}"] = float(opt.last.sharpness), float(after), whole(model)

    for given in (True, False):
        for kind in ("plain", "metrics", "prefetched", "looked at"):
            step(kind, given)
    for keep in (False, True):
        model = sharded()
        opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)
        for i, last in enumerate((False, True)):
            if keep:
                model.set_reshard_after_backward(last)
            losses(model)(x[i::2], y[i::2]).mean().backward()
            with opt.perturbed(last=last):
                losses(model)(x[i::2], y[i::2]).mean().backward()
        opt.step()
        out[f"micro-batches {keep}"] = whole(model)

    def swap() -> None:
        model = sharded()
        opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)
        opt.step(loss_fn=losses(model), batch=(x, y))
        model.float()

    out["swap"] = heard(swap)
    model = sharded()
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)
    for i in range(3):  # 13 is not divided by the devices: weighed by examples
        opt.step(loss_fn=losses(model), batch=shares(i, rank, world, n=13))
    out["ragged"] = whole(model)
    msam = MSAM(model.parameters(), torch.optim.SGD, m=3, model=model, **SGD)
    out["ragged m-sam"] = heard(
        lambda: msam.step(loss_fn=losses(model), batch=shares(0, rank, world, n=13))
    )
    return out


def stages(rank: int, world: int, folder: str) -> tuple[float, float]:
    """Stages with different numbers of parameter groups: the last one has no bias."""
    torch.manual_seed(rank)
    stage = nn.Linear(4, 4, bias=rank == 0, dtype=DOUBLE)
    groups = [{"params": [stage.weight], "weight_decay": 0.01, "rho": 0.2}]
    if rank == 0:
        groups.append({"params": [stage.bias], "weight_decay": 0.0, "rho": 0.4})
    opt = SAM(groups, torch.optim.SGD, lr=0.1, rho=0.1, split_over=dist.group.WORLD)
    stage(torch.ones(2, 4, dtype=DOUBLE)).pow(2).mean().backward()
    grads = [p.grad.clone() for p in stage.parameters() if p.grad is not None]
    with opt.perturbed():
        stage(torch.ones(2, 4, dtype=DOUBLE)).pow(2).mean().backward()
    opt.step()
    assert opt.last is not None
    torch.save([g.norm() for g in grads], f"{folder}/norms-{rank}.pt")
    return float(opt.last.grad_norm), float(opt.last.perturbation_norm)  # type: ignore[arg-type]


def replicas(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Wrappers that change, belong to another network, or cannot keep quiet."""
    out: dict[str, Any] = {}
    x, y = shares(0, rank, world)

    def closure(opt: Any, parallel: nn.Module, i: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            opt.zero_grad()
            loss = losses(parallel)(*shares(i, rank, world)).mean()
            loss.backward()
            return loss

        return run

    for given in (False, True):
        model = network(3, DOUBLE, norm=False)
        parallel: Any = DistributedDataParallel(model)
        opt = SAM(
            model.parameters(), torch.optim.SGD, model=parallel if given else None,
            perturbation="local", **SGD,
        )  # fmt: skip
        said = []
        for i in range(4):
            if i == 2:  # wrapped anew, as after thawing layers
                parallel = DistributedDataParallel(model)
            said.append(heard(functools.partial(opt.step, closure(opt, parallel, i))))
        out[f"anew {given}"] = said, weights(model)

    one, two = (DistributedDataParallel(network(k, DOUBLE, norm=False)) for k in (3, 4))
    opt = SAM(two.parameters(), torch.optim.SGD, model=nn.ModuleList([one, two]), **SGD)
    with one.no_sync():
        out["another's no_sync"] = heard(lambda: opt.step(closure(opt, two, 0)))

    model = network(3, DOUBLE, norm=False)
    parallel = DistributedDataParallel(model)
    opt = SAM(model.parameters(), torch.optim.SGD, model=model, **SGD)

    def two_steps() -> None:
        with parallel.no_sync():
            losses(parallel)(x, y).mean().backward()
            opt.first_step()
            losses(parallel)(x, y).mean().backward()
            opt.second_step()

    out["two steps in no_sync"] = heard(two_steps)

    model = network(3, DOUBLE, norm=False)
    fixed = DistributedDataParallel(model, static_graph=True)
    opt = SAM(model.parameters(), torch.optim.SGD, model=fixed, perturbation="local", **SGD)
    model = network(3, DOUBLE, norm=False)
    joined = DistributedDataParallel(model)
    quiet = SAM(model.parameters(), torch.optim.SGD, model=joined, perturbation="local", **SGD)

    def join() -> None:
        with Join([joined]):
            quiet.step(closure(quiet, joined, 0))

    out["join"] = heard(join)
    out["static graph"] = heard(lambda: opt.step(closure(opt, fixed, 0)))
    return out
