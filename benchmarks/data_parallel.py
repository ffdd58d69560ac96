"""Data-parallel SAM: what goes over the wire in a step, and what the step costs in time.

Two processes (gloo, one thread each) train one network under DistributedDataParallel: plain SGD, a
SAM written by hand that reduces both of its passes, and lowland's SAM with ε from the gradient of
all devices ("global") and from each device's own ("local"). Bytes are predicted first:

    reductions of 4·P bytes:   plain 1,   by hand 2,   global 2,   local 1
    and 4 bytes for local:     the flag by which devices skip a step together

and every forward that follows a reduction broadcasts the buffers of normalization layers, B bytes,
from the first process to the second. Counted are what is handed to collectives (see wire.py), and
what the second process's sockets have received: with two processes a reduction of n bytes brings
each of them n bytes, and a few for headers.

    python benchmarks/data_parallel.py [--rounds 40] [--out benchmarks/results/data_parallel.json]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from lowland import SAM
from lowland.models import create as create_model
from rounds import Step, interleaved, ratios, save
from step_overhead import Transformer
from wire import Wire, received

WORLD = 2
COUNTED, WARM_UP = 4, 3
SGD: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9}

PLAIN, BY_HAND = "plain SGD", "SAM by hand"
REDUCTIONS = {
    PLAIN: 1, BY_HAND: 2, "SAM global, closure": 2, "SAM global, context": 2,
    "SAM local, closure": 1, "SAM local, context": 1,
}  # fmt: skip
"""Predicted: how often a step of each method reduces the gradient."""


def transformer() -> tuple[nn.Module, Tensor]:
    """Without buffers: gradients are all there is to exchange."""
    return Transformer(layers=6, width=128), torch.randn(8, 16, 32)


def resnet() -> tuple[nn.Module, Tensor]:
    """With BatchNorm, whose buffers the wrapper broadcasts."""
    model = create_model("resnet18", shape=(3, 32, 32), classes=10, width=16)
    return model, torch.randn(8, 3, 32, 32)


NETWORKS = {"transformer": transformer, "ResNet": resnet}


class ByHand:
    """SAM as it is written down: two backward passes, both of them reduced by the wrapper."""

    def __init__(self, params: list[Tensor], rho: float) -> None:
        self.params, self.rho = params, rho
        self.base = torch.optim.SGD(params, **SGD)

    def step(self, closure: Callable[[], Tensor]) -> None:
        closure()
        with torch.no_grad():
            grads = [p.grad for p in self.params if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            saved = [p.clone() for p in self.params]
            torch._foreach_add_(self.params, grads, alpha=self.rho / (float(norm) + 1e-12))
        closure()
        with torch.no_grad():
            torch._foreach_copy_(self.params, saved)
        self.base.step()


def methods(parallel: DistributedDataParallel, x: Tensor, y: Tensor) -> dict[str, Step]:
    """A step of every method by name, all on one wrapped network."""

    def backward() -> Tensor:
        loss = cross_entropy(parallel(x), y)
        loss.backward()
        return loss

    def plain() -> Step:
        optimizer = torch.optim.SGD(parallel.parameters(), **SGD)

        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step

    def by_hand() -> Step:
        optimizer = ByHand(list(parallel.parameters()), rho=0.05)
        return lambda: optimizer.step(cleared(optimizer.base))

    def cleared(optimizer: Any) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            return backward()

        return closure

    def closure(across: str) -> Step:
        optimizer = sam(across)
        return lambda: optimizer.step(cleared(optimizer))

    def context(across: str) -> Step:
        optimizer = sam(across)

        def step() -> None:
            optimizer.zero_grad()
            with parallel.no_sync() if across == "local" else contextlib.nullcontext():
                backward()
            with optimizer.perturbed():
                backward()
            optimizer.step()

        return step

    def sam(across: str) -> SAM:
        rule = {"rho": 0.05, "perturbation": across, "model": parallel}
        return SAM(parallel.parameters(), torch.optim.SGD, **rule, **SGD)

    return {
        PLAIN: plain(),
        BY_HAND: by_hand(),
        **{f"SAM {across}, closure": closure(across) for across in ("global", "local")},
        **{f"SAM {across}, context": context(across) for across in ("global", "local")},
    }


def task(name: str, rank: int) -> tuple[DistributedDataParallel, Tensor, Tensor]:
    """The wrapped network, the same on all ranks, and this rank's batch."""
    torch.manual_seed(0)
    network, x = NETWORKS[name]()
    torch.manual_seed(1 + rank)
    parallel = DistributedDataParallel(network)
    return parallel, torch.randn_like(x), torch.randint(0, 10, (len(x),))


def count(name: str, rank: int) -> dict[str, dict[str, float | None]]:
    """Per method and step: reductions of a gradient, and bytes."""
    parallel, x, y = task(name, rank)
    wire = Wire()
    wire.attach(parallel)
    counts: dict[str, dict[str, float | None]] = {}
    for method, step in methods(parallel, x, y).items():
        step()  # the wrapper arranges its buckets anew after the first
        wire.reductions = wire.gradients = wire.calls = wire.others = 0
        _meet()
        before = received()
        with wire.counting():
            for _ in range(COUNTED):
                step()
        after = received()
        sockets = None if before is None or after is None else (after - before) / COUNTED
        counts[method] = {
            "gradients": wire.gradients / COUNTED,
            "others": wire.others / COUNTED,
            "calls": wire.calls / COUNTED,
            "sockets": sockets,
        }
    return counts


def _meet() -> None:
    """Everybody has sent what he had to send before anybody counts."""
    dist.all_reduce(torch.zeros(1))


def time_steps(name: str, rank: int, rounds: int, seed: int) -> dict[str, list[float]]:
    """Seconds of every step, that of the slower process."""
    steps = methods(*task(name, rank))
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times = interleaved(steps, rounds, seed, before=dist.barrier)
    for own in times.values():
        slowest = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        own[:] = slowest.tolist()
    return times


def work(rank: int, folder: str, rounds: int, seed: int) -> None:
    """What each process does; the last one leaves its results in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(minutes=5),
    )
    results = {}
    for name in NETWORKS:
        network, _ = NETWORKS[name]()
        results[name] = {
            "gradient_bytes": 4 * sum(p.numel() for p in network.parameters()),
            "buffer_bytes": sum(b.numel() * b.element_size() for b in network.buffers()),
            "counts": count(name, rank),
            "times": time_steps(name, rank, rounds, seed),
        }
    if rank == WORLD - 1:
        torch.save(results, Path(folder, "results.pt"))
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an ordinary exit on a busy machine


def measure(rounds: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder, rounds, seed), nprocs=WORLD)  # type: ignore[no-untyped-call]
        found: dict[str, Any] = torch.load(Path(folder, "results.pt"))
    for result in found.values():
        for method, row in result["counts"].items():
            row["predicted"] = predicted(method, result["gradient_bytes"])
            row["as_predicted"] = row["predicted"] == row["gradients"] + row["others"]
        result["steps"] = ratios(result.pop("times"), PLAIN)
    return found


def predicted(method: str, gradient_bytes: int) -> int:
    """Bytes handed to collectives in a step, gradients and all."""
    return REDUCTIONS[method] * gradient_bytes + 4 * ("local" in method)


def table(name: str, result: dict[str, Any]) -> str:
    one = result["gradient_bytes"]
    lines = [
        f"{name}: a gradient has {one:,} bytes, the buffers {result['buffer_bytes']:,}; per step",
        f"{'':22s} {'predicted':>12s} {'counted':>12s}  {'sockets':>12s} {'/gradient':>9s}"
        f"  {'ms':>6s} {'ratio':>6s}  quartiles",
    ]
    for method, row in result["counts"].items():
        sockets, step = row["sockets"], result["steps"][method]
        through = "unknown" if sockets is None else f"{sockets:,.0f}"
        share = "" if sockets is None else f"{sockets / one:.3f}"
        lines.append(
            f"{method:22s} {row['predicted']:12,} {row['gradients'] + row['others']:12,.0f}"
            f"{' ' if row['as_predicted'] else '!'} {through:>12s} {share:>9s}"
            f"  {step['ms']:6.1f} {step['ratio']:6.2f}  {step['low']:.2f} to {step['high']:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(options.rounds, options.seed)
    text = "\n\n".join(table(name, result) for name, result in results.items())
    print(text)
    settings = {"rounds": options.rounds, "processes": WORLD, "backend": "gloo"}
    save(options.out, text, {"results": results, **settings})


if __name__ == "__main__":
    main()
