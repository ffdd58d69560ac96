"""What a step of every method needs in memory, in copies of the parameters.

Every way of taking a step is taken on a network whose parameters are nearly all there is (an MLP
with a small batch, where any copy shows) and on one whose activations are (a ResNet). Measured are
bytes beyond the network and the batch, in units of P, one copy of the parameters:

    resident   between steps, when gradients are cleared: optimizer state, the copy of w
    peak       the worst moment of a step, resident included
    bound      peak of the base optimizer's own step + 2 P + the method's own state: one copy of
               the parameters, one of gradients, and what the method remembers between steps
    over       peak − bound; above 0 it says ABOVE

by operations (every tensor that is made, see live_bytes.py) and by the allocator (the work space
inside kernels included). With a GPU, by the allocator of that GPU alone.

    python benchmarks/peak_memory.py [--out benchmarks/results/peak_memory.json]
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from live_bytes import Allocator, LiveBytes
from lowland import ASAM, FSAM, MSAM, SAM, SAMON, LookSAM
from lowland.models import create as create_model
from rounds import Step, save

WARM_UP, STEPS, PARTS = 2, 2, 4
"""LookSAM with k=2 repeats itself after 2 steps: both of its kinds are among them."""
SLACK = 0.02
"""What is not counted as too much, in P: flags, losses, norms and copies of running statistics."""

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mlp() -> tuple[nn.Module, Tensor]:
    """Four wide layers: 1.06 million weights, activations 1 % of that."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10)), torch.randn(8, 512)


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-18 of width 16: 0.7 million weights, and many more activations."""
    model = create_model("resnet18", shape=(3, 32, 32), classes=10, width=16)
    return model, torch.randn(16, 3, 32, 32)


Network = Callable[[], tuple[nn.Module, Tensor]]
NETWORKS: dict[str, Network] = {"MLP": mlp, "ResNet": resnet}


@dataclass
class Task:
    """A network and a batch, with the passes that all paths share."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.model(x), y)

    def backward(self, scaler: Any = None) -> Tensor:
        loss = self.loss(self.x, self.y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    @property
    def parts(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.chunk(PARTS), self.y.chunk(PARTS), strict=True))

    @property
    def params(self) -> list[Tensor]:
        return list(self.model.parameters())

    def fixed(self) -> int:
        """Bytes of the network and the batch."""
        held = [*self.params, *self.model.buffers(), self.x, self.y]
        return sum(t.untyped_storage().nbytes() for t in held)


SGD: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9}


def plain(task: Task, kind: Any = torch.optim.SGD, **settings: Any) -> Step:
    optimizer = kind(task.params, **(settings or SGD))

    def step() -> None:
        optimizer.zero_grad()
        task.backward()
        optimizer.step()

    return step


def plain_scaled(task: Task) -> Step:
    optimizer, scaler = torch.optim.SGD(task.params, **SGD), torch.amp.GradScaler(DEVICE.type)

    def step() -> None:
        optimizer.zero_grad()
        task.backward(scaler)
        scaler.step(optimizer)
        scaler.update()

    return step


def plain_parts(task: Task) -> Step:
    optimizer = torch.optim.SGD(task.params, **SGD)

    def step() -> None:
        optimizer.zero_grad()
        for x, y in task.parts:
            (task.loss(x, y) / PARTS).backward()
        optimizer.step()

    return step


def make(task: Task, kind: Any = SAM, base: Any = torch.optim.SGD, **options: Any) -> Any:
    settings = SGD if base is torch.optim.SGD else {"lr": 1e-3}
    return kind(task.params, base, model=task.model, rho=0.05, **settings, **options)


def closure(task: Task, kind: Any = SAM, scaled: bool = False, **options: Any) -> Step:
    optimizer = make(task, kind, **options)
    scaler = torch.amp.GradScaler(DEVICE.type) if scaled else None

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        return task.backward(scaler)

    def step() -> None:
        optimizer.step(evaluate, scaler=scaler)
        if scaler is not None:
            scaler.update()

    return step


def context(task: Task, kind: Any = SAM, scaled: bool = False, **options: Any) -> Step:
    optimizer = make(task, kind, **options)
    scaler = torch.amp.GradScaler(DEVICE.type) if scaled else None

    def step() -> None:
        optimizer.zero_grad()
        task.backward(scaler)
        if optimizer.needs_perturbation:
            with optimizer.perturbed(scaler=scaler):
                task.backward(scaler)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    return step


def two_step(task: Task) -> Step:
    return _two_step(task, make(task))


def _two_step(task: Task, optimizer: Any) -> Step:
    def step() -> None:
        task.backward()
        optimizer.first_step(zero_grad=True)
        task.backward()
        optimizer.second_step(zero_grad=True)

    return step


def batch(task: Task, kind: Any = SAM, **options: Any) -> Step:
    optimizer = make(task, kind, **options)
    return lambda: optimizer.step(loss_fn=task.loss, batch=(task.x, task.y))


def batches(task: Task, kind: Any = SAM) -> Step:
    optimizer = make(task, kind)
    return lambda: optimizer.step(loss_fn=task.loss, batches=task.parts)


def context_parts(task: Task) -> Step:
    """m-SAM in the user's own loop: an ε for every micro-batch."""
    optimizer = make(task)

    def step() -> None:
        for i, (x, y) in enumerate(task.parts):
            optimizer.zero_grad()
            task.loss(x, y).backward()
            with optimizer.perturbed(last=i == PARTS - 1):
                task.loss(x, y).backward()
        optimizer.step()

    return step


def peer(task: Task) -> Step:
    import pytorch_optimizer

    return _two_step(task, pytorch_optimizer.SAM(task.params, torch.optim.SGD, rho=0.05, **SGD))


@dataclass(frozen=True)
class Way:
    """A way of taking a step, the base step to compare it with, and the state it is defined by.

    `state` counts, in P, what the method remembers from step to step beside the base optimizer.
    """

    build: Callable[[Task], Step]
    base: str = "plain"
    state: float = 0.0


def ways() -> dict[str, Way]:
    parts = f"plain, {PARTS} parts"
    found = {
        "plain": Way(plain),
        "plain, scaler": Way(plain_scaled, "plain, scaler"),
        parts: Way(plain_parts, parts),
        "plain AdamW": Way(lambda t: plain(t, torch.optim.AdamW, lr=1e-3), "plain AdamW"),
        "SAM, closure": Way(closure),
        "SAM, context": Way(context),
        "SAM, two-step": Way(two_step),
        "SAM, batch": Way(batch),
        "SAM, closure, scaler": Way(lambda t: closure(t, scaled=True), "plain, scaler"),
        "SAM, context, scaler": Way(lambda t: context(t, scaled=True), "plain, scaler"),
        f"SAM, {PARTS} micro-batches": Way(batches, parts),
        "SAM on AdamW": Way(lambda t: closure(t, base=torch.optim.AdamW), "plain AdamW"),
        "SAM adaptive": Way(lambda t: closure(t, adaptive=True)),
        "ASAM": Way(lambda t: closure(t, ASAM)),
        "SAM-ON": Way(lambda t: closure(t, SAMON)),
        "m-SAM, batch": Way(lambda t: batch(t, MSAM, m=len(t.x) // PARTS), parts),
        "m-SAM, micro-batches": Way(lambda t: batches(t, MSAM), parts),
        "m-SAM, context": Way(context_parts, parts),
        "F-SAM, closure": Way(lambda t: closure(t, FSAM), state=1),
        "F-SAM, context": Way(lambda t: context(t, FSAM), state=1),
        "LookSAM k=2": Way(lambda t: closure(t, LookSAM, k=2), state=1),
    }
    if importlib.util.find_spec("pytorch_optimizer"):
        found["pytorch-optimizer SAM"] = Way(peer)
    return found


def steps(network: Network, way: Way) -> Iterator[int]:
    """Takes the steps of one way; in between, once it is warm, gives the fixed bytes."""
    torch.manual_seed(0)
    model, x = network()
    y = torch.randint(0, 10, (len(x),), device=DEVICE)
    task = Task(model.to(DEVICE), x.to(DEVICE), y)
    step = way.build(task)
    for i in range(WARM_UP + STEPS):
        if i == WARM_UP:
            yield task.fixed()
        step()
        for p in task.params:
            p.grad = None


@dataclass(frozen=True)
class Needs:
    """Bytes beyond the network and the batch, and the line of lowland that ran at the peak."""

    resident: int
    peak: int
    where: str | None = None


def by_operations(network: Network, way: Way) -> Needs:
    with LiveBytes() as meter:
        under_way = steps(network, way)
        fixed = next(under_way)
        meter.reset()
        resident = meter.now - fixed
        finish(under_way)
    return Needs(resident, meter.peak - fixed, meter.where)


def by_allocator(network: Network, way: Way) -> Needs:
    with Allocator() as meter:
        under_way = steps(network, way)
        fixed = next(under_way)
        meter.reset()
        finish(under_way)
    return Needs(meter.before - fixed, meter.peak - fixed)


def by_gpu(network: Network, way: Way) -> Needs:
    gc.collect()
    began = torch.cuda.memory_allocated()
    under_way = steps(network, way)
    fixed = began + next(under_way)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    resident = torch.cuda.memory_allocated() - fixed
    finish(under_way)
    return Needs(resident, torch.cuda.max_memory_allocated() - fixed)


def finish(under_way: Iterator[int]) -> None:
    for _ in under_way:
        raise AssertionError("one pause is all there is")


METERS = {"operations": by_operations, "allocator": by_allocator}
if DEVICE.type == "cuda":
    METERS = {"GPU": by_gpu}


def measure(network: Network, wanted: Callable[[str], bool] = bool) -> dict[str, Any]:
    """All ways on one network, in units of P."""
    copy = 4 * sum(p.numel() for p in network()[0].parameters())
    rows: dict[str, Any] = {}
    for name, way in ways().items():
        if not wanted(name):
            continue
        row: dict[str, Any] = {"base": way.base, "state": way.state}
        for meter, read in METERS.items():
            needs = read(network, way)
            bound = rows.get(way.base, row).get(meter, {}).get("peak", needs.peak / copy)
            over = needs.peak / copy - (bound + 2 + way.state)
            row[meter] = {
                "resident": needs.resident / copy,
                "peak": needs.peak / copy,
                "over": None if name == way.base else over,
                "where": needs.where,
            }
        rows[name] = row
    return {"copy_bytes": copy, "ways": rows}


def table(name: str, result: dict[str, Any]) -> str:
    lines = [
        f"{name}: P = {result['copy_bytes'] / 2**20:.2f} MiB; all in P, by {' / '.join(METERS)}",
        f"{'':24s} {'resident':>9s}  {'peak':>13s}  {'bound':>13s}  {'over':>13s}  at the peak",
    ]
    for way, row in result["ways"].items():
        read = [row[meter] for meter in METERS]
        base = [result["ways"][row["base"]][meter]["peak"] for meter in METERS]
        shown = [f"{read[0]['resident']:9.2f}", _pair([r["peak"] for r in read])]
        if read[0]["over"] is None:
            shown += [13 * " ", 13 * " "]
        else:
            shown += [_pair([b + 2 + row["state"] for b in base]), _pair([r["over"] for r in read])]
        too_much = any((r["over"] or 0) > SLACK for r in read)
        where = (read[0]["where"] or "pass or base step") + too_much * "  ABOVE"
        lines.append(f"{way:24s} {'  '.join(shown)}  {where}")
    return "\n".join(lines)


def _pair(numbers: list[float]) -> str:
    return " / ".join(f"{number:5.2f}" for number in numbers).rjust(13)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(network) for name, network in NETWORKS.items()}
    text = "\n\n".join(table(name, result) for name, result in results.items())
    print(text)
    save(options.out, text, {"results": results, "device": DEVICE.type})


if __name__ == "__main__":
    main()
