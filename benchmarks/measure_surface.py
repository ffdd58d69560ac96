"""What instruments of the loss surface cost, beside what their passes over the data must cost.

For each instrument the passes are predicted from its formula and counted by hooks; the seconds
predicted are those passes at the measured price of a forward pass, and of a forward and backward
pass, over the same data. A ratio of 1 is an instrument that costs nothing beside its passes. Then:
reading the data once or for every point of a plane, with data that are cheap or take time to read;
bytes alive at the worst moment, in copies of the weights; and the same plane by the
`loss-landscapes` package, if it is installed.

    python benchmarks/measure_surface.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.core.seeds import generator
from lowland.measure.live_bytes import LiveBytes
from lowland.measure.surface import (
    average_sharpness,
    bezier_path,
    linear_path,
    loss_line,
    loss_plane,
    mean_loss,
    one_step_sharpness,
    worst_sharpness,
)
from lowland.models import create as create_model
from rounds import save

Row = dict[str, Any]
Data = list[tuple[Tensor, Tensor]]
STEPS, DRAWS, BATCH = 20, 20, 32


def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def subject(quick: bool) -> tuple[nn.Module, Data, str]:
    """A PreAct ResNet-18 of reduced width and random images, in eval mode."""
    width, n = (4, 64) if quick else (16, 128)
    torch.manual_seed(0)
    model = create_model("preact-resnet18", shape=(3, 32, 32), classes=10, width=width).eval()
    model.load_state_dict(elsewhere(model))  # the peer divides by the norms of biases: none is 0
    draw = generator("cpu", "images")
    images = torch.randn(n, 3, 32, 32, generator=draw)
    labels = torch.randint(0, 10, (n,), generator=draw)
    data = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return model, data, f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M weights, n={n}"


def elsewhere(model: nn.Module) -> dict[str, Tensor]:
    """Another checkpoint of the same network."""
    found = copy.deepcopy(model.state_dict())
    for name, _ in model.named_parameters():
        found[name].add_(0.01 * torch.randn(found[name].shape, generator=generator("cpu", name)))
    return found


class Passes:
    """Counts forward and backward passes over examples, in passes over all data."""

    def __init__(self, n: int) -> None:
        self.forward = self.backward = 0.0
        self._n, self._last = n, 0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        plain = torch.autograd.grad

        def see(module: nn.Module, inputs: Any) -> None:
            self._last = len(inputs[0])
            self.forward += self._last / self._n

        def grad(*args: Any, **options: Any) -> Any:
            self.backward += self._last / self._n
            return plain(*args, **options)

        handle = model.register_forward_pre_hook(see)
        torch.autograd.grad = grad
        try:
            yield
        finally:
            handle.remove()
            torch.autograd.grad = plain


Case = tuple[str, Callable[[nn.Module, Data], Any], float, float, str]


def cases(quick: bool, other: dict[str, Tensor], n: int) -> list[Case]:
    """Name, call, forward and backward passes predicted, and where they come from."""
    k, runs, trained = (5 if quick else 9), 2, (8 if quick else 16)
    share = trained * BATCH / n
    return [
        (
            "one-step sharpness",
            lambda m, d: one_step_sharpness(m, per_example, d, rho=0.05),
            2,
            1,
            "w with its gradient, and w + eps",
        ),
        (
            "average sharpness",
            lambda m, d: average_sharpness(m, per_example, d, rho=1e-3),
            1 + DRAWS,
            0,
            f"w and {DRAWS} draws",
        ),
        (
            "worst sharpness, fixed steps",
            lambda m, d: worst_sharpness(
                m, per_example, d, rho=0.05, ascent="fixed", restarts=1, steps=STEPS
            ),
            STEPS + 2,
            STEPS,
            f"{STEPS} steps, w and the last point",
        ),
        (
            "worst sharpness, halving",
            lambda m, d: worst_sharpness(m, per_example, d, rho=0.05, restarts=runs, steps=STEPS),
            runs * (STEPS + 1) + 1,
            runs * STEPS,
            "without going back, up to 7 times an ascent",
        ),
        (
            f"line of {k}, statistics re-estimated",
            lambda m, d: loss_line(m, per_example, d, points=k, batch_norm="reestimated"),
            2 * k,
            0,
            "two passes a point",
        ),
        (
            f"plane of {k}x{k}",
            lambda m, d: loss_plane(m, per_example, d, points=k),
            k * k,
            0,
            "a pass a point",
        ),
        (
            f"linear path of {k}",
            lambda m, d: linear_path(m, per_example, d, other, points=k),
            2 * k - 2,
            0,
            "statistics re-estimated between the ends",
        ),
        (
            f"curve of {k}, {trained} steps",
            lambda m, d: bezier_path(m, per_example, d, other, points=k, steps=trained),
            share + 2 * k - 2,
            share,
            "training, then the path",
        ),
    ]


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """Median wall time."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def prices(model: nn.Module, data: Data) -> tuple[float, float]:
    """Seconds of a forward pass over the data, and of a forward and backward pass."""
    weights = list(model.parameters())

    def forward() -> None:
        with torch.no_grad():
            for x, y in data:
                per_example(model(x), y).mean()

    def both() -> None:
        for x, y in data:
            torch.autograd.grad(per_example(model(x), y).mean(), weights)

    forward()
    return seconds(forward, 3), seconds(both, 3)


def pass_rows(quick: bool) -> list[Row]:
    """Each instrument against its passes."""
    model, data, size = subject(quick)
    n = sum(len(y) for _, y in data)
    found = []
    for name, call, forwards, backwards, why in cases(quick, elsewhere(model), n):
        forward, both = prices(model, data)
        predicted = (forwards - backwards) * forward + backwards * both
        passes = Passes(n)
        with passes.counting(model):
            measured = seconds(lambda call=call: call(model, data))  # type: ignore[misc]
        found.append(
            row(
                name,
                size,
                measured,
                predicted,
                f"forward {forwards:g} predicted, {passes.forward:g} counted; backward "
                f"{backwards:g}, {passes.backward:g}; {why}; other: predicted from passes",
            )
        )
    return found


def row(name: str, size: str, ours: float, other: float | None, note: str) -> Row:
    ratio = None if other is None else ours / other
    return {
        "name": name,
        "size": size,
        "ours_s": ours,
        "other_s": other,
        "ratio": ratio,
        "note": note,
    }


class Slow:
    """Data that take time to read, as images do that are decoded."""

    def __init__(self, data: Data, per_batch: float) -> None:
        self._data, self._per_batch = data, per_batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in self._data:
            until = time.perf_counter() + self._per_batch
            while time.perf_counter() < until:
                pass
            yield pair


def reading_rows(quick: bool) -> list[Row]:
    """A plane with the data read once, against reading them for every point."""
    model, data, size = subject(quick)
    k = 3 if quick else 5
    found = []
    for cost in (0.0, 0.1):
        source: Any = Slow(data, cost)

        def plane(reads: str, source: Any = source) -> Any:
            return loss_plane(model, per_example, source, points=k, reads=reads)

        once, often = seconds(lambda: plane("once")), seconds(lambda: plane("every point"))
        saved = (k * k - 1) * len(data) * cost
        found.append(
            row(
                f"plane of {k}x{k}, data read once",
                f"{size}, {1e3 * cost:g} ms to read a batch",
                once,
                often,
                f"other: read for every point; predicted difference {saved:.2f} s, "
                f"measured {often - once:.2f} s",
            )
        )
    return found


def memory_rows(quick: bool) -> list[Row]:
    """Bytes alive at the worst moment, in copies of the weights, where activations are nothing."""
    side = 500 if quick else 2000
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(side, side, bias=False), nn.ReLU(), nn.Linear(side, 10))
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    data = [(torch.randn(2, side), torch.tensor([0, 1]))]
    other = {n: t + 0.01 for n, t in model.state_dict().items()}
    found = []
    for name, call, _, _, _ in cases(True, other, 2):
        with LiveBytes() as live:
            call(model, data)
        copies = live.peak / own - 1  # the model's own are met too
        found.append(
            {
                **row(
                    f"memory of {name}",
                    f"{own / 1e6:.0f} MB of weights",
                    0.0,
                    None,
                    f"{copies:.1f} copies of the weights beside the model's own",
                ),
                "ours_s": None,
                "peak_copies": copies,
            }
        )
    return found


def peer_rows(quick: bool) -> list[Row]:
    """The same number of points by the loss-landscapes package, one batch, as it has it."""
    model, data, size = subject(quick)
    k = 3 if quick else 7
    name = f"plane of {k}x{k} beside loss-landscapes"
    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    whole = [(images, labels)]
    ours = seconds(lambda: loss_plane(model, per_example, whole, points=k))
    if importlib.util.find_spec("loss_landscapes") is None:
        return [row(name, size, ours, None, "loss-landscapes is not installed: skipped")]
    import loss_landscapes
    from loss_landscapes.metrics import Loss

    theirs = copy.deepcopy(model)
    before = torch.cat([p.detach().flatten().clone() for p in theirs.parameters()])
    metric = Loss(nn.CrossEntropyLoss(), images, labels)
    other = seconds(lambda: loss_landscapes.random_plane(theirs, metric, distance=1, steps=k))
    after = torch.cat([p.detach().flatten() for p in theirs.parameters()])
    moved = float((after - before).norm() / before.norm())
    frozen = not any(p.requires_grad for p in theirs.parameters())
    return [
        row(
            name,
            size,
            ours,
            other,
            f"after it the peer's weights are displaced by {100 * moved:.0f}% of their norm, "
            f"frozen: {frozen}; ours are the same bits",
        )
    ]


def rows(quick: bool) -> list[Row]:
    """Every row of the table."""
    model, data, _ = subject(quick)
    mean_loss(model, per_example, data)  # what is slow the first time
    return [*pass_rows(quick), *reading_rows(quick), *memory_rows(quick), *peer_rows(quick)]


def table(found: list[Row]) -> str:
    """The rows in columns."""
    lines = [f"{'instrument':44} {'ours s':>8} {'other s':>8} {'ratio':>6}  note"]
    for r in found:
        times = [
            f"{r['ours_s']:8.2f}" if r["ours_s"] is not None else " " * 8,
            f"{r['other_s']:8.2f}" if r["other_s"] is not None else " " * 8,
            f"{r['ratio']:6.2f}" if r["ratio"] is not None else " " * 6,
        ]
        lines.append(f"{r['name']:44} {' '.join(times)}  {r['size']}; {r['note']}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds")
    parser.add_argument("--out", type=Path, help="also write a JSON file and the table beside it")
    options = parser.parse_args()
    found = rows(options.quick)
    text = table(found)
    print(text)
    save(options.out, text, {"results": found})


if __name__ == "__main__":
    main()
