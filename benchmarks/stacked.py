"""What a stack of networks costs beside the same networks trained one after the other.

Both do the same updates of SAM over SGD with momentum: the stack through `lowland.train.stack`, the
others through `lowland.optim.SAM` with a closure, one thread each. Networks are given images of
8x8 pixels in batches of 64.

Prediction: one network alone takes some 150 calls into torch per update, 0.8 ms or so, and its
arithmetic: an MLP of width w has about 64w + w² weights, 12 operations each for every example of
two passes, at some 40 GFLOP/s (0.01 ms for w = 6, 1 ms for w = 200). The stack makes some 100 calls
for all networks, so that small ones are faster by up to their number, and those of width 200, which
the arithmetic bounds, by less than two. Convolutions become grouped ones, which are no faster per
operation than others.

    python benchmarks/stacked.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.models.mlp import MLP
from lowland.optim import SAM
from lowland.train.stack import Stack, StackPlan, train
from rounds import save

Row = dict[str, Any]
N, BATCH = 1_024, 64


def convolutional() -> nn.Module:
    """Two convolutions of 8 and 16 channels, average pooling, linear head."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"MLP 64-{w}-{w}-10": lambda w=w: MLP(64, 10, width=w) for w in (6, 25, 100, 200)},
    "CNN 8-16": convolutional,
}


def alone_seconds(make: Callable[[], nn.Module], x: Tensor, y: Tensor, updates: int) -> float:
    """Seconds of so many updates of one network."""
    model = make()
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.01, momentum=0.9)

    def step(start: int) -> None:
        rows = slice(start, start + BATCH)

        def closure() -> Tensor:
            opt.zero_grad()
            loss = cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            return loss

        opt.step(closure)

    step(0)
    began = time.perf_counter()
    for update in range(updates):
        step(update % (N // BATCH) * BATCH)
    return time.perf_counter() - began


def stack_seconds(
    make: Callable[[], nn.Module], x: Tensor, y: Tensor, size: int, epochs: int
) -> float:
    """Seconds of so many epochs of a stack."""
    stack = Stack([make() for _ in range(size)])
    plan = StackPlan(seeds=range(size), rho=0.1, lr=0.01, batch_size=BATCH, epochs=epochs)
    return train(stack, x, y, plan).seconds


def rows(quick: bool) -> list[Row]:
    """Each network alone and in stacks of 10 and 50; the best of three rounds, taken in turns."""
    torch.set_num_threads(1)
    x, y = torch.randn(N, 1, 8, 8), torch.randint(10, (N,))
    updates, epochs, rounds = (16, 1, 1) if quick else (320, 2, 3)
    found = []
    for name, make in NETWORKS.items():
        alone: list[float] = []
        stacked: dict[int, list[float]] = {10: [], 50: []}
        for _ in range(rounds):
            alone.append(alone_seconds(make, x, y, updates) / updates)
            for size, seconds in stacked.items():
                steps = epochs * (N // BATCH) * size
                seconds.append(stack_seconds(make, x, y, size, epochs) / steps)
        one = min(alone)
        found.append(
            {
                "network": name,
                "alone_ms": one * 1e3,
                **{f"stack_{k}_ms": min(s) * 1e3 for k, s in stacked.items()},
                **{f"ratio_{k}": one / min(s) for k, s in stacked.items()},
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few updates, seconds in all")
    parser.add_argument("--out", type=Path, help="JSON file for the rows; a .txt goes beside it")
    options = parser.parse_args()
    found = rows(options.quick)
    heads = ("alone", "of 10", "of 50", "ratio 10", "ratio 50")
    lines = [
        "ms per update and network, one thread",
        f"{'network':20}" + "".join(f"{head:>10}" for head in heads),
    ]
    for row in found:
        times = "".join(f"{row[k]:>10.4f}" for k in ("alone_ms", "stack_10_ms", "stack_50_ms"))
        ratios = "".join(f"{row[k]:>9.1f}x" for k in ("ratio_10", "ratio_50"))
        lines.append(f"{row['network']:20}{times}{ratios}")
    print("\n".join(lines))
    save(options.out, "\n".join(lines), {"rows": found})


if __name__ == "__main__":
    main()
