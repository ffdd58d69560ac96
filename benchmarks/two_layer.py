"""What a two-layer run costs beside the loop that one would write: autograd, one run at a time.

The loop has two linear layers, `torch.optim.SGD`-like updates by hand, SAM with a copy of the
weights, and readings at the same points; it is timed on a part of its steps, since every step costs
the same. Ours is the study's grid, all activations, radii and seeds, over processes of one thread.

Prediction: the loop is bound by about 100 calls into torch per step, autograd among them, some 0.5
to 1 ms, so 10 to 20 s a run. Ours makes about 25 calls per step, for all runs of a process
together: alone some 0.1 ms a step, and of 50 side by side 50·100 numbers an operation, some 0.3 ms
a step or 6 µs a run and step. So 5 to 10 times faster alone, and about 100 times in the grid on one
core.

    python benchmarks/two_layer.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowland.studies.two_layer import ACTIVATIONS, draw, run, run_all
from lowland.studies.two_layer.draws import STEPS
from rounds import save

Row = dict[str, Any]
SIGMA = {"relu": torch.relu, "tanh": torch.tanh, "abs": torch.abs}


class Loop(nn.Module):
    """The network as one would write it."""

    def __init__(self, activation: str, units: int = 100) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, units), nn.Linear(units, 1)
        self.activation = SIGMA[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.activation(self.first(x)))[:, 0]


def loop_seconds(activation: str, rho: float, steps: int) -> float:
    """Seconds of so many steps of the plain loop, without its readings."""
    drawn = draw(ACTIVATIONS[activation], 0, steps=steps)
    net = Loop(activation)
    parameters = list(net.parameters())
    lr = ACTIVATIONS[activation].learning_rate
    began = time.perf_counter()
    for i in range(steps):
        x, y = drawn.x[drawn.order[i]][None], drawn.y[drawn.order[i]][None]
        gradients = torch.autograd.grad((net(x) - y).square().mean(), parameters)
        if rho:
            norm = torch.sqrt(sum(g.square().sum() for g in gradients))
            kept = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    p.add_(g, alpha=float(rho / norm))
            gradients = torch.autograd.grad((net(x) - y).square().mean(), parameters)
            with torch.no_grad():
                for p, k in zip(parameters, kept, strict=True):
                    p.copy_(k)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(g, alpha=lr)
    return time.perf_counter() - began


def _one_thread() -> None:
    torch.set_num_threads(1)


def _part(activation: str, first: int, count: int, steps: int) -> int:
    radii = ACTIVATIONS[activation].radii
    return len(run_all(activation, "sam", radii, range(first, first + count), steps=steps))


def grid_seconds(seeds: int, steps: int, together: int) -> tuple[int, float]:
    """Runs of the whole grid, and the wall time over all cores, processes started apart."""
    parts = [
        (name, first, min(together, seeds - first), steps)
        for name in ACTIVATIONS
        for first in range(0, seeds, together)
    ]
    with ProcessPoolExecutor(os.cpu_count(), initializer=_one_thread) as pool:
        list(pool.map(_part, *zip(*[(name, 0, 1, 2) for name in ACTIVATIONS], strict=True)))
        began = time.perf_counter()
        runs = sum(pool.map(_part, *zip(*parts, strict=True)))
        return runs, time.perf_counter() - began


def rows(quick: bool) -> list[Row]:
    """The loop, one run of ours, the whole grid, and the published seed."""
    steps, seeds = (200, 2) if quick else (STEPS, 30)
    measured = 100 if quick else 2_000
    torch.set_num_threads(1)
    loop_seconds("relu", 0.1, 20)
    half = loop_seconds("relu", 0.1, measured) + loop_seconds("relu", 0.0, measured)
    loop = half / 2 * steps / measured  # SAM acts in half of the steps
    began = time.perf_counter()
    run("relu", "sam", 0.1, 0, steps=steps)
    alone = time.perf_counter() - began
    runs, grid = grid_seconds(seeds, steps, 10)
    published = run_all("relu", "sam", ACTIVATIONS["relu"].radii, [4], True, steps=steps)
    return [
        {
            "what": "loop by autograd, one run, one thread",
            "runs": 1,
            "seconds": loop,
            "ratio": 1.0,
            "note": f"from {measured} steps",
        },
        {
            "what": "run(), one run, one thread",
            "runs": 1,
            "seconds": alone,
            "ratio": loop / alone,
            "note": "with 71 readings",
        },
        {
            "what": "the grid over all cores",
            "runs": runs,
            "seconds": grid,
            "ratio": loop / (grid / runs),
            "note": "ratio per run of wall time",
        },
        {
            "what": "ranks of seed 4, exact, by ρ",
            "runs": len(published),
            "seconds": None,
            "ratio": None,
            "note": ", ".join(str(one.feature_rank) for one in published),
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, seconds in all")
    parser.add_argument("--out", type=Path, help="JSON file for the rows; a .txt goes beside it")
    options = parser.parse_args()
    found = rows(options.quick)
    lines = [f"{'what':40}{'runs':>6}{'seconds':>10}{'ratio':>8}  note"]
    for row in found:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.0f}x"
        lines.append(f"{row['what']:40}{row['runs']:>6}{seconds:>10}{ratio:>8}  {row['note']}")
    print("\n".join(lines))
    save(options.out, "\n".join(lines), {"rows": found})


if __name__ == "__main__":
    main()
