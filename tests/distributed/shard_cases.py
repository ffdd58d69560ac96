"""What every process of sharded training (FSDP2, tensor, pipeline) does in the tests."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from forms import BASES, FORMS, THREE, make, step_by
from problems import closure_for, data, losses, network, weights
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils._python_dispatch import TorchDispatchMode

DOUBLE = torch.float64
STEPS = 4
NAMES = ("sam", "asam", "f-sam", "looksam")
SAVED = [(name, form) for name in ("sam", "f-sam", "looksam") for form in THREE]
SAVED += [("mesa", "batch")]


def whole(model: nn.Module) -> list[Tensor]:
    """The full weights, on every rank."""
    return [
        (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for p in model.parameters()
    ]


def sharded(mesh: Any = None, dtype: torch.dtype = DOUBLE, norm: bool = False) -> nn.Module:
    """The usual small network; its 7 x 5 and 3 x 7 weights divide by no number of ranks."""
    model = network(3, dtype, norm=norm)
    for layer in (model[0], model[3]):  # type: ignore[index]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def share(i: int, rank: int, world: int, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    x, y = data(i, 24, dtype)
    return x.tensor_split(world)[rank], y.tensor_split(world)[rank]


def with_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups with radii of their own, one of them with none of the first layer's weights."""
    params = list(model.parameters())
    return [{"params": params[:1], "rho": 0.1}, {"params": params[1:]}]


def forms_and_methods(rank: int, world: int, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in NAMES:
        for form, step in FORMS.items():
            model = sharded()
            opt = make(name, model)
            for i in range(STEPS):
                step(opt, model, *share(i, rank, world))
            out[f"{name} {form}"] = whole(model)
            assert opt.last is not None
            out[f"{name} {form} last"] = opt.last.metrics()
    from lowland.optim import SAM

    model = sharded()
    opt = SAM(with_groups(model), torch.optim.AdamW, rho=0.3, lr=0.01)
    for i in range(STEPS):
        FORMS["closure"](opt, model, *share(i, rank, world))
    out["groups"] = whole(model)
    out["groups last"] = opt.last.metrics()  # type: ignore[union-attr]
    out["shares"] = [p.to_local().numel() for p in model.parameters()]
    return out


def exactly_back(rank: int, world: int, folder: str) -> dict[str, Any]:
    """lr = 0 leaves every bit, the radius is ρ, and a failing loss leaves w."""
    model = sharded(dtype=torch.bfloat16)
    before = whole(model)
    opt = make("sam", model, lr=0.0, momentum=0.0)
    for i in range(STEPS):
        FORMS["context"](opt, model, *share(i, rank, world, torch.bfloat16))
    out: dict[str, Any] = {"bits": all(map(torch.equal, before, whole(model)))}

    model = sharded()
    opt = make("sam", model, rho=0.05)
    x, y = share(0, rank, world)
    start = whole(model)
    losses(model)(x, y).mean().backward()
    with opt.perturbed():
        moved = whole(model)
        losses(model)(x, y).mean().backward()
    squares = [((a - b) ** 2).sum() for a, b in zip(moved, start, strict=True)]
    out["radius"] = float(torch.stack(squares).sum().sqrt())

    def fails() -> Tensor:
        if not torch.equal(model[0].weight.to_local(), first):  # type: ignore[index]
            raise ValueError("on purpose, at w+ε, on every rank")
        return closure_for(opt, model, x, y)()

    first = model[0].weight.to_local().clone()  # type: ignore[index]
    opt.zero_grad()
    try:
        opt.step(fails)
        out["after failing"] = False
    except ValueError:
        out["after failing"] = all(map(torch.equal, start, whole(model)))
    return out


def save_and_go_on(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Sharded checkpoints of methods with state; the last steps are uninterrupted here."""
    out: dict[str, Any] = {}
    for name, form in SAVED:
        model = sharded()
        opt = make(name, model, "adamw")
        for i in range(3):
            FORMS[form](opt, model, *share(i, rank, world))
        dcp.save(_state(model, opt), checkpoint_id=f"{folder}/{name}-{form}")
        for i in range(3, 6):
            FORMS[form](opt, model, *share(i, rank, world))
        out[f"{name} {form}"] = whole(model)
        out[f"{name} {form} resumed"] = _resume(name, form, rank, world, folder)
    return out


def resume_elsewhere(rank: int, world: int, folder: str) -> dict[str, Any]:
    """The same checkpoints on another number of ranks; `folder` is beside theirs."""
    return {
        f"{name} {form}": _resume(name, form, rank, world, f"{folder}/../saved")
        for name, form in SAVED
    }


def _state(model: nn.Module, opt: Any) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, opt),
    }


def _load(model: nn.Module, opt: Any, folder: str, **options: Any) -> None:
    """Into a network of zeros and an optimizer that has taken no step."""
    with torch.no_grad():
        for p in model.parameters():
            p.to_local().zero_()  # type: ignore[attr-defined]
    state = _state(model, opt)
    dcp.load(state, checkpoint_id=folder, **options)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, opt, state["optimizer"])


def _resume(name: str, form: str, rank: int, world: int, folder: str) -> list[Tensor]:
    model = sharded()
    opt = make(name, model, "adamw")
    _load(model, opt, f"{folder}/{name}-{form}")
    for i in range(3, 6):
        FORMS[form](opt, model, *share(i, rank, world))
    return whole(model)


def plain_and_back(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Three plain steps, a checkpoint into SAM, three of its, and a checkpoint into the base."""
    kind, settings = BASES["adamw"]
    out: dict[str, Any] = {}
    model = sharded()
    plain = kind(model.parameters(), **settings)
    for i in range(3):
        plain.step(closure_for(plain, model, *share(i, rank, world)))
    dcp.save(_state(model, plain), checkpoint_id=f"{folder}/plain")

    model = sharded()
    opt = make("sam", model, "adamw", rho=0.3)
    try:
        _load(model, opt, f"{folder}/plain")
    except dcp.api.CheckpointException as error:
        out["strict"] = str(error)
    opt = make("sam", model, "adamw", rho=0.3)
    _load(model, opt, f"{folder}/plain", planner=DefaultLoadPlanner(allow_partial_load=True))
    out["rho"] = opt.param_groups[0]["rho"]
    for i in range(3, 6):
        FORMS["closure"](opt, model, *share(i, rank, world))
    out["into sam"] = whole(model)
    dcp.save(_state(model, opt), checkpoint_id=f"{folder}/sam")

    model = sharded()
    plain = kind(model.parameters(), **settings)
    _load(model, plain, f"{folder}/sam")
    for i in range(6, 9):
        plain.step(closure_for(plain, model, *share(i, rank, world)))
    out["back"] = whole(model)
    return out


class Reductions(TorchDispatchMode):
    """Counts the exchanges of gradients."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce_scatter" in func.name()
        return func(*args, **(kwargs or {}))


def micro_batches(rank: int, world: int, folder: str) -> dict[str, Any]:
    """In each pass the last micro-batch alone exchanges; under a learning-rate schedule."""
    out: dict[str, Any] = {}
    for form in THREE:
        model = sharded()
        opt = make("sam", model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS)

        def closure(i: int, model: Any = model, opt: Any = opt) -> Tensor:
            opt.zero_grad()
            total = torch.zeros((), dtype=DOUBLE)
            x, y = share(i, rank, world)
            parts = list(zip(x.chunk(3), y.chunk(3), strict=True))
            for part in parts:
                model.set_requires_gradient_sync(part is parts[-1])
                loss = losses(model)(*part).mean() / len(parts)
                loss.backward()
                total += loss.detach()
            return total

        with Reductions() as wire:
            for i in range(STEPS):
                step_by(form, opt, lambda i=i, closure=closure: closure(i))
                schedule.step()
        out[form] = whole(model)
        out[f"{form} reductions"] = wire.count
    return out


def overflow(rank: int, world: int, folder: str) -> dict[str, Any]:
    """The gradient is not finite in the shard of one rank alone: all skip, scalers agree."""
    warnings.simplefilter("ignore", RuntimeWarning)
    out: dict[str, Any] = {}
    for scaled in (False, True):
        for bad in (0, 1):
            out[f"{scaled} {bad}"] = _overflow(rank, world, scaled, bad)
    return out


def _overflow(rank: int, world: int, scaled: bool, bad: int) -> Any:
    model = sharded(dtype=torch.float32)
    opt = make("sam", model)
    scaler = GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    calls = 0

    def closure(i: int) -> Tensor:
        nonlocal calls
        opt.zero_grad()
        loss = losses(model)(*share(i, rank, world, torch.float32)).mean()
        scaler.scale(loss).backward()
        if i == 1 and calls == bad and rank == 0:
            p = next(model.parameters())
            p.grad.to_local()[0, 0] = torch.inf  # type: ignore[union-attr]
        calls += 1
        return loss

    trail = []
    for i in range(3):
        calls = 0
        opt.step(lambda i=i: closure(i), scaler=scaler)
        if scaled:
            scaler.update()
        trail.append(whole(model))
    assert opt.last is not None
    return trail, scaler.get_scale(), int(opt.last.skipped_total)


def local_is_refused(rank: int, world: int, folder: str) -> str:
    try:
        make("sam", sharded(), perturbation="local")
    except ValueError as error:
        return str(error)
    return "nothing"


def tensor_parallel(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Columns of the first layer and rows of the second on each rank; biases partly replicated."""
    out: dict[str, Any] = {}
    mesh = init_device_mesh("cpu", (world,))
    for name in NAMES:
        for form in THREE:
            model = network(3, DOUBLE, norm=False)
            plan = {"0": ColwiseParallel(use_local_output=False), "3": RowwiseParallel()}
            model[1] = nn.Identity()  # type: ignore[index]
            parallelize_module(model, mesh, plan)
            opt = make(name, model)
            for i in range(STEPS):
                x, y = data(i, 24, DOUBLE)  # all ranks have the whole batch
                FORMS[form](opt, model, x, y)
            out[f"{name} {form}"] = whole(model)
    return out


def two_dimensions(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Replicated over one dimension of the mesh, sharded over the other (HSDP), and 2-D shards."""
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("replicate", "shard"))
    out: dict[str, Any] = {}
    for name in NAMES:
        model = sharded(mesh)
        opt = make(name, model)
        for i in range(STEPS):
            FORMS["closure"](opt, model, *share(i, rank, world))
        out[f"hybrid {name}"] = whole(model)

    both = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    for name in NAMES:
        model = network(3, DOUBLE, norm=False)
        plan = {"0": ColwiseParallel(use_local_output=False), "3": RowwiseParallel()}
        parallelize_module(model, both["tensor"], plan)
        fully_shard(model, mesh=both["data"])
        opt = make(name, model)
        which = dist.get_rank(both.get_group("data"))
        for i in range(STEPS):
            FORMS["closure"](opt, model, *share(i, which, world // 2))
        out[f"2-D {name}"] = whole(model)
    return out


class Pipeline(nn.Module):
    """The network in two stages, one on each rank, sent from hand to hand."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        model = network(3, DOUBLE, norm=False)
        self.rank = rank
        self.stage = model[:3] if rank == 0 else model[3:]  # type: ignore[index]

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """One forward and backward through both stages; the loss, known to both."""
        loss = torch.zeros((), dtype=DOUBLE)
        if self.rank == 0:
            out = self.stage(x)
            dist.send(out.detach(), 1)
            grad = torch.empty_like(out)
            dist.recv(grad, 1)
            out.backward(grad)
        else:
            middle = torch.empty(len(x), 7, dtype=DOUBLE)
            dist.recv(middle, 0)
            middle.requires_grad_()
            loss = nn.functional.cross_entropy(self.stage(middle), y)
            loss.backward()
            dist.send(middle.grad, 0)
            loss = loss.detach()
        dist.broadcast(loss, 1)
        return loss


def pipeline(rank: int, world: int, folder: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in NAMES:
        for form in THREE:
            out[f"{name} {form}"] = _pipeline(name, form, rank)
    return out


def _pipeline(name: str, form: str, rank: int) -> list[Tensor]:
    model = Pipeline(rank)
    opt = make(name, model.stage, split_over=dist.group.WORLD)

    def closure(i: int) -> Tensor:
        opt.zero_grad()
        return model.backward(*data(i, 24, DOUBLE))

    for i in range(STEPS):
        step_by(form, opt, lambda i=i: closure(i))
    return weights(model)
