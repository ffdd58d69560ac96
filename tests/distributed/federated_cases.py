"""Federated rounds on every process: a share of each client, or shards of the network."""

from __future__ import annotations

from typing import Any

import torch
from problems import data, losses, network, weights
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lowland.core.errors import InputError
from lowland.optim import FedASAM, FedSAM, MoFedSAM

KINDS: dict[str, tuple[type[FedSAM], dict[str, Any]]] = {
    "fedsam": (FedSAM, {}),
    "fedasam": (FedASAM, {"scale_bias": True}),
    "mofedsam": (MoFedSAM, {"beta": 0.4, "clip": 0.5, "local_weight_decay": 0.1}),
}


def clients(r: int, rank: int = 0, world: int = 1) -> list[tuple[Tensor, Tensor]]:
    """This rank's examples of every client in round number r."""
    whole = [data(10 * r + i, n, torch.float64) for i, n in enumerate((4, 8, 6))]
    return [(x.tensor_split(world)[rank], y.tensor_split(world)[rank]) for x, y in whole]


def rounds(name: str, model: nn.Module, called: nn.Module, *place: int) -> None:
    kind, own = KINDS[name]
    server = {"lr": 1.0, "momentum": 0.9, "local_steps": 3}
    opt = kind(model.parameters(), torch.optim.SGD, model=called, **server, **own)
    for r in range(3):
        opt.step(loss_fn=losses(called), batches=clients(r, *place))


def small() -> Any:
    return network(3, torch.float64, norm=False)


def everywhere(rank: int, world: int, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in KINDS:
        model = small()
        rounds(name, model, DistributedDataParallel(model), rank, world)
        out[f"{name} DDP"] = weights(model)
        model = small()
        mesh = init_device_mesh("cpu", (world,))
        for part in (model[0], model[3], model):
            fully_shard(part, mesh=mesh)
        rounds(name, model, model, rank, world)
        whole: Any = [p.detach().full_tensor() for p in model.parameters()]  # type: ignore[operator]
        out[f"{name} FSDP2"] = whole
    model = small()
    opt = FedSAM(model.parameters(), torch.optim.SGD, model=(ddp := DistributedDataParallel(model)))
    try:
        opt.step(loss_fn=losses(ddp), batches=[data(0, 4 + rank, torch.float64)])
    except InputError as error:
        out["ragged"] = str(error)
    out["unmoved"] = all(map(torch.equal, weights(model), weights(small())))
    return out
