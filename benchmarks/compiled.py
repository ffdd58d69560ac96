"""SAM on a compiled network: whether it stays compiled, and what compilation is worth.

`torch.compile` with inductor, which needs a C++ compiler on the CPU (without one the "aot_eager"
backend shows the graphs and no speed). Two things are measured:

    graphs   how many have been compiled after 1 step and after 20; the same number if nothing
             recompiles, for the plain step and for SAM in every form
    times    of plain and SAM steps, eager and compiled, in turn; in ratios to the plain eager step

    python benchmarks/compiled.py [--rounds 100] [--out benchmarks/results/compiled.json]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from lowland import SAM
from rounds import Step, interleaved, ratios, save
from step_overhead import Transformer

STEPS, WARM_UP = 20, 3
SGD: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9}


class Gated(nn.Module):
    """Norm and activation written out in elementary operations, which a compiler can fuse."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        a, b = self.up(h).chunk(2, -1)
        h = a * torch.sigmoid(1.702 * a) * (1 + 0.1 * torch.tanh(b))
        return x + self.norm(self.down(h))


def gated() -> tuple[nn.Module, Tensor]:
    """Many elementwise operations beside few products, and BatchNorm."""
    blocks = [Gated(32) for _ in range(4)]
    return nn.Sequential(*blocks, nn.Linear(32, 10)), torch.randn(1024, 32)


def transformer() -> tuple[nn.Module, Tensor]:
    return Transformer(layers=3), torch.randn(16, 16, 32)


NETWORKS = {"gated MLP": gated, "transformer": transformer}


def plain(run: nn.Module, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), **SGD)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(run(x), y).backward()
        optimizer.step()

    return step


def closure(run: nn.Module, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = sam(model)

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(run(x), y)
        loss.backward()
        return loss

    return lambda: optimizer.step(evaluate)


def context(run: nn.Module, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = sam(model)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(run(x), y).backward()
        with optimizer.perturbed():
            cross_entropy(run(x), y).backward()
        optimizer.step()

    return step


def two_step(run: nn.Module, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = sam(model)

    def step() -> None:
        cross_entropy(run(x), y).backward()
        optimizer.first_step(zero_grad=True)
        cross_entropy(run(x), y).backward()
        optimizer.second_step(zero_grad=True)

    return step


def batch(run: nn.Module, model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = sam(model)
    return lambda: optimizer.step(loss_fn=lambda x, y: cross_entropy(run(x), y), batch=(x, y))


def sam(model: nn.Module) -> SAM:
    return SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, **SGD)


FORMS = {
    "plain": plain,
    "SAM, closure": closure,
    "SAM, context": context,
    "SAM, two-step": two_step,
    "SAM, batch": batch,
}
Network = Callable[[], tuple[nn.Module, Tensor]]


def backend() -> str:
    return "inductor" if torch.cuda.is_available() or shutil.which("g++") else "aot_eager"


def task(network: Network, compiled: bool) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """(what is called, the network in it, batch)."""
    torch.manual_seed(0)
    model, x = network()
    y = torch.randint(0, 10, (len(x),))
    run = torch.compile(model, backend=backend()) if compiled else model
    return run, model, x, y  # type: ignore[return-value]


def graphs(network: Network) -> dict[str, dict[str, int]]:
    """Per form: graphs compiled after the first step and after the last."""
    found = {}
    for name, form in FORMS.items():
        torch._dynamo.reset()
        counters.clear()
        step, counts = form(*task(network, compiled=True)), []
        for _ in range(STEPS):
            step()
            counts.append(int(counters["stats"]["unique_graphs"]))
        found[name] = {"first": counts[0], "last": counts[-1]}
    return found


def time_steps(network: Network, rounds: int, seed: int) -> dict[str, list[float]]:
    torch._dynamo.reset()
    steps: dict[str, Step] = {}
    for compiled in (False, True):
        held = task(network, compiled)
        for name in ("plain", "SAM, closure", "SAM, context"):
            steps[f"{name}, {'compiled' if compiled else 'eager'}"] = FORMS[name](*held)
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    return interleaved(steps, rounds, seed)


def measure(network: Network, rounds: int, seed: int) -> dict[str, Any]:
    # times first: no graph of the counted ones is in memory then
    times = time_steps(network, rounds, seed)
    sam = {
        mode: ratios(times, f"plain, {mode}")[f"SAM, closure, {mode}"]
        for mode in ("eager", "compiled")
    }
    return {"times": ratios(times, "plain, eager"), "sam": sam, "graphs": graphs(network)}


def table(name: str, result: dict[str, Any]) -> str:
    times = result["times"]
    lines = [f"{name}, {backend()}", f"{'':26s} {'ms':>7s} {'ratio':>7s}   quartiles"]
    for form, row in times.items():
        quartiles = f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(f"{form:26s} {row['ms']:7.2f} {row['ratio']:7.2f}   {quartiles}")
    for mode, row in result["sam"].items():
        quartiles = f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(f"{f'SAM to plain, both {mode}':34s} {row['ratio']:7.2f}   {quartiles}")
    lines.append(f"{'':26s} graphs after 1 step, after {STEPS}")
    for form, counts in result["graphs"].items():
        said = "" if counts["first"] == counts["last"] else "  RECOMPILED"
        lines.append(f"{form:26s} {counts['first']:19d}, {counts['last']:8d}{said}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if backend() != "inductor":
        print("no C++ compiler (g++) found: aot_eager instead of inductor, so no speed-up")
    results = {n: measure(f, options.rounds, options.seed) for n, f in NETWORKS.items()}
    text = "\n\n".join(table(name, result) for name, result in results.items())
    print(text)
    settings = {"rounds": options.rounds, "steps": STEPS, "backend": backend()}
    save(options.out, text, {"results": results, **settings})


if __name__ == "__main__":
    main()
