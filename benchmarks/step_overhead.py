"""What a SAM step costs beside its two passes and the base step.

For three networks (a ResNet of 62 tensors, a 24-layer transformer of 290, a 201-layer MLP of 402)
and one foreach SGD with momentum on every side, per-step wall times of all methods are taken in
turn, in a new random order every round, on one thread. Reported is the median over rounds of

    extra = (t(method) − t(two passes + base step)) / t(plain step)

with its quartiles, each round's three times taken next to each other. Finite checks are included
for lowland; the others have none.

    python benchmarks/step_overhead.py [--rounds 60] [--out benchmarks/results/step_overhead.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland import FSAM, SAM, LookSAM
from lowland.models import create as create_model
from rounds import save

Step = Callable[[], Any]


class Transformer(nn.Module):
    """24 pre-norm layers of width 64 over 16 tokens: many small tensors of several kinds."""

    def __init__(self, layers: int = 24, width: int = 64, tokens: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(32, width, bias=False)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10, bias=False)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(1))


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-18 with a third of its width: 2.8 million weights."""
    model = create_model("resnet18", shape=(3, 32, 32), classes=10, width=32)
    return model, torch.randn(8, 3, 32, 32)


def transformer() -> tuple[nn.Module, Tensor]:
    return Transformer(), torch.randn(4, 16, 32)


def mlp() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = []
    for _ in range(200):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10)), torch.randn(8, 32)


class Reference:
    """The least that a SAM step can do with foreach calls: nothing checked, nothing protected."""

    def __init__(self, model: nn.Module, base: torch.optim.Optimizer, rho: float) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.backup = [torch.empty_like(p) for p in self.params]
        self.base, self.rho = base, rho

    @torch.no_grad()
    def go(self) -> None:
        grads = [p.grad for p in self.params]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_copy_(self.backup, self.params)
        torch._foreach_add_(self.params, grads, alpha=self.rho / (float(norm) + 1e-12))
        self.base.zero_grad()

    @torch.no_grad()
    def back(self) -> None:
        torch._foreach_copy_(self.params, self.backup)
        self.base.step()


def methods(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Step]:
    """One step of every method on this model and batch, by name."""
    settings: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "foreach": True}

    def base() -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), **settings)

    def backward() -> Tensor:
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    def plain(optimizer: torch.optim.Optimizer) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step

    def two_passes(optimizer: torch.optim.Optimizer) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            backward()
            optimizer.zero_grad()
            backward()
            optimizer.step()

        return step

    def closure_form(optimizer: SAM) -> Step:
        def closure() -> Tensor:
            optimizer.zero_grad()
            return backward()

        return lambda: optimizer.step(closure)

    def context_form(optimizer: SAM) -> Step:
        def step() -> None:
            optimizer.zero_grad()
            backward()
            with optimizer.perturbed():
                backward()
            optimizer.step()

        return step

    def two_step(optimizer: Any) -> Step:
        def step() -> None:
            backward()
            optimizer.first_step(zero_grad=True)
            backward()
            optimizer.second_step(zero_grad=True)

        return step

    def reference(plainest: Reference) -> Step:
        def step() -> None:
            plainest.base.zero_grad()
            backward()
            plainest.go()
            backward()
            plainest.back()

        return step

    params, sgd = list(model.parameters()), torch.optim.SGD
    known: dict[str, Any] = {"rho": 0.05, "model": model, **settings}
    steps = {
        "plain": plain(base()),
        "two passes": two_passes(base()),
        "lowland SAM, closure": closure_form(SAM(params, sgd, **known)),
        "lowland SAM, context": context_form(SAM(params, sgd, **known)),
        "lowland SAM, no model=": closure_form(SAM(params, sgd, rho=0.05, **settings)),
        "lowland SAM adaptive": closure_form(SAM(params, sgd, adaptive=True, **known)),
        "lowland F-SAM": closure_form(FSAM(params, sgd, **known)),
        "lowland LookSAM k=5": closure_form(LookSAM(params, sgd, **known)),
        "reference": reference(Reference(model, base(), 0.05)),
    }
    momentum = {"lr": 1e-3, "momentum": 0.9}
    if importlib.util.find_spec("pytorch_optimizer"):
        import pytorch_optimizer

        for name, foreach in (("default", None), ("foreach", True)):
            peer = pytorch_optimizer.SAM(params, sgd, rho=0.05, foreach=foreach, **momentum)
            steps[f"pytorch-optimizer SAM, {name}"] = two_step(peer)
    return steps


def measure(
    build: Callable[[], tuple[nn.Module, Tensor]], rounds: int, seed: int
) -> dict[str, Any]:
    """Times of all methods over `rounds` rounds, each in an order of its own."""
    torch.manual_seed(seed)
    model, x = build()
    y = torch.randint(0, 10, (len(x),))
    steps = methods(model, x, y)
    for step in steps.values():
        for _ in range(5):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    shuffle = random.Random(seed)
    for _ in range(rounds):
        names = list(steps)
        shuffle.shuffle(names)
        for name in names:
            for p in model.parameters():  # nobody finds another's gradients
                p.grad = None
            began = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - began)
    tensors = [p.numel() for p in model.parameters()]
    return {"tensors": len(tensors), "parameters": sum(tensors), "times": times}


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Per method: ratio to a plain step, and extra with its quartiles, from the rounds' times."""
    plain, two = statistics.median(times["plain"]), times["two passes"]
    rows = {}
    for name, own in times.items():
        extra = [(t - b) / plain for t, b in zip(own, two, strict=True)]
        low, middle, high = statistics.quantiles(extra, n=4)
        rows[name] = {
            "ms": 1e3 * statistics.median(own),
            "ratio": statistics.median(own) / plain,
            "extra": middle,
            "extra_low": low,
            "extra_high": high,
        }
    return rows


def table(network: str, result: dict[str, Any]) -> str:
    rows = summary(result["times"])
    lines = [
        f"\n{network}: {result['tensors']} tensors, {result['parameters'] / 1e6:.2f} M parameters, "
        f"plain step {rows['plain']['ms']:.1f} ms",
        f"{'':34s} {'ratio':>6s} {'extra':>8s}   quartiles",
    ]
    for name, row in rows.items():
        if name in ("plain", "two passes"):
            lines.append(f"{name:34s} {row['ratio']:6.2f}")
            continue
        quartiles = f"{100 * row['extra_low']:5.1f} to {100 * row['extra_high']:5.1f} %"
        lines.append(f"{name:34s} {row['ratio']:6.2f} {100 * row['extra']:7.1f}%   {quartiles}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results, tables = {}, []
    for network, build in {"ResNet": resnet, "transformer": transformer, "MLP": mlp}.items():
        result = measure(build, options.rounds, options.seed)
        tables.append(table(network, result))
        print(tables[-1], flush=True)
        results[network] = {k: v for k, v in result.items() if k != "times"}
        results[network]["methods"] = summary(result["times"])
    save(options.out, "\n".join(tables), {"results": results, "rounds": options.rounds})


if __name__ == "__main__":
    main()
