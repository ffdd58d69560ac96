"""What every method costs: seconds per step and peak memory beside plain training, in one run.

A pre-activation ResNet-18, narrow so that the whole table takes minutes, on a batch of CIFAR's
shape that is large enough for the passes to be nearly everything. On one thread, in rounds of
random order, every step stands between two plain ones and is divided by their mean. Columns:

    passes     forwards + backwards of the whole network on the whole batch
    predicted  what they cost if a forward is a third of a plain step
    measured   time in plain steps, median over the rounds with its quartiles
    own        what the step does outside its passes beyond a plain step, in % of one
    peak       most bytes alive in any step, beyond network and batch, in those of the plain step
    copies     the same as a difference, in copies of the parameters
    MLP        likewise on a deep MLP with a small batch, where activations are next to nothing
    aim        of the measured value, and whether it is kept

Methods whose steps differ are taken over a whole cycle (LookSAM) or several steps (what draws its
tensors). The rows of pytorch-optimizer are its versions of the same methods.

    python benchmarks/methods.py [--rounds 12] [--out benchmarks/results/methods.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from live_bytes import LiveBytes
from lowland.models import create as create_model
from method_rows import WITHOUT, Batch, Row, all_rows, plain
from rounds import Reading, flanked, save

WIDTH, EXAMPLES = 8, 128
SAM_BYTES, SAM_OPERATIONS = 48, 6
"""SAM's own work per parameter, bytes moved: g to a flat copy and its norm (12), w away (8),
w + ρ·g/‖g‖ (12), w back (8), whether u is finite (8). A copy of the parameters moves 8."""

Results = dict[str, Any]
Make = Callable[[], Batch]


def resnet(examples: int = EXAMPLES) -> Batch:
    """Images in, ten classes, the same for every row."""
    torch.manual_seed(0)
    model, narrow = (
        create_model("preact-resnet18", shape=(3, 32, 32), classes=10, width=width)
        for width in (WIDTH, WIDTH // 2)
    )
    x, y = torch.randn(examples, 3, 32, 32), torch.randint(0, 10, (examples,))
    return Batch(model, x, y, narrow)


def mlp(width: int = 256, examples: int = 4) -> Batch:
    """16 wide layers with BatchNorm, and hardly any activations."""
    torch.manual_seed(0)
    x, y = torch.randn(examples, 32), torch.randint(0, 10, (examples,))
    return Batch(_layers(width), x, y, _layers(width // 2))


def _layers(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (32, *(15 * [width])):
        layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@dataclass(frozen=True)
class Networks:
    """What times and peaks are taken on, and what shows copies of the parameters."""

    main: Make = resnet
    wide: Make = mlp


def time_rows(
    rows: Mapping[str, Row], make: Make, rounds: int, seed: int
) -> dict[str, list[Reading]]:
    """Readings of all rows, each on a network of its own."""
    steps = {name: (row.build(make()), row.steps) for name, row in rows.items()}
    beside = plain(make())
    for name, row in rows.items():
        for _ in range(row.warm_up):
            steps[name][0]()
    return flanked(steps, beside, rounds, seed)


def peak_bytes(row: Row, make: Make) -> Results:
    """The most bytes alive in a step beyond network and batch, once its state is there."""
    peaks = []
    with LiveBytes() as meter:
        batch = make()
        step = row.build(batch)
        for number in range(row.warm_up + row.measured):
            if number == row.warm_up:
                meter.reset()
            meter.peak, meter.where = meter.now, None  # each step has its own
            step()
            for p in batch.params:
                p.grad = None
            peaks.append((meter.peak - batch.fixed(), meter.where))
    peaks = peaks[row.warm_up :]
    most, where = max(peaks, key=lambda peak: peak[0])
    return {"bytes": most, "median": statistics.median(p for p, _ in peaks), "where": where}


def summary(row: Row, readings: list[Reading]) -> Results:
    """What the table and the results say of the times of one row."""
    low, middle, high = statistics.quantiles([r.ratio for r in readings], n=4)
    return {
        "forwards": row.forwards,
        "backwards": row.backwards,
        "predicted": row.predicted,
        "ms": 1e3 * statistics.median(r.seconds for r in readings),
        "ratio": middle,
        "low": low,
        "high": high,
        "own": statistics.median(r.own for r in readings),
    }


def against_plain(peak: Results, base: Results, copy: int) -> Results:
    """The peak with its ratio to the plain step's, and its difference in copies."""
    most, reference = peak["bytes"], base["bytes"]
    ratios = {"ratio": most / reference, "median_ratio": peak["median"] / reference}
    return {**peak, **ratios, "copies": (most - reference) / copy}


def judged(row: Row, result: Results) -> Results:
    """The aims that the row has, each beside what was measured."""
    values = {"time": result["ratio"]} | {what: result[what]["ratio"] for what in ("peak", "MLP")}
    aims = {"time": row.aim, "peak": row.memory_aim, "MLP": row.memory_aim}
    return {
        what: {"aim": aim, "measured": values[what], "met": values[what] <= aim}
        for what, aim in aims.items()
        if aim is not None
    }


def own_work(batch: Batch) -> Results:
    """A plain step's operations, and the time of one copy of parameters that no cache has."""
    with FlopCounterMode(display=False) as counter:
        batch.backward()
    copies, seconds = [torch.empty_like(p) for p in batch.params], []
    for _ in range(9):
        batch.backward()
        began = time.perf_counter()
        with torch.no_grad():
            torch._foreach_copy_(copies, batch.params)
        seconds.append(time.perf_counter() - began)
    return {
        "parameters": sum(p.numel() for p in batch.params),
        "tensors": len(batch.params),
        "operations": counter.get_total_flops(),
        "copy_seconds": statistics.median(seconds),
        "sam_seconds": SAM_BYTES / 8 * statistics.median(seconds),
    }


def measure(rows: Mapping[str, Row], networks: Networks, rounds: int, seed: int) -> Results:
    """Times, then peaks, of all rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a skipped step is no step
        readings = time_rows(rows, networks.main, rounds, seed)
        results = {name: summary(row, readings[name]) for name, row in rows.items()}
        for what, make in (("peak", networks.main), ("MLP", networks.wide)):
            copy = 4 * sum(p.numel() for p in make().params)
            peaks = {name: peak_bytes(row, make) for name, row in rows.items()}
            for name, peak in peaks.items():
                results[name][what] = against_plain(peak, peaks["plain"], copy)
    for name, row in rows.items():
        results[name]["aims"] = judged(row, results[name])
    work = own_work(networks.main())
    work["plain_seconds"] = statistics.median(r.plain for own in readings.values() for r in own)
    return {"work": work, "rows": results, "without": dict(WITHOUT)}


def table(result: Results) -> str:
    """The results as text."""
    lines = [
        *_head(result["work"], result["rows"]),
        "",
        f"{'':31s} {'passes':>9s} {'predicted':>9s} {'measured':>8s}  {'quartiles':12s} "
        f"{'own':>6s} {'peak':>5s} {'copies':>6s} {'MLP':>5s}  aim",
    ]
    for name, row in result["rows"].items():
        passes = f"{row['forwards']:.3g} + {row['backwards']:.3g}"
        times = (
            f"{row['predicted']:9.2f} {row['ratio']:8.2f}  {row['low']:.2f} to {row['high']:.2f}"
        )
        memory = f"{row['peak']['ratio']:5.2f} {row['peak']['copies']:+6.2f}"
        line = f"{name:31s} {passes:>9s} {times} {100 * row['own']:5.1f}% {memory} "
        lines.append(f"{line}{row['MLP']['copies']:+5.2f}  {_aims(row)}".rstrip())
    lines += [f"{name}: no row, {why}" for name, why in result["without"].items()]
    return "\n".join(lines)


def _aims(row: Results) -> str:
    said = []
    for what, aim in row["aims"].items():
        name = "" if what == "time" else f"{what} "
        if aim["met"]:
            verdict = "met"
        elif what != "time":
            median = row[what]["median_ratio"]
            verdict = f"NOT MET: {aim['measured']:.3f}, in the median step {median:.3f}"
        else:
            verdict = f"NOT MET: {aim['measured']:.2f}"
            if row["predicted"] > aim["aim"]:
                verdict += f", and {row['predicted']:.2f} by its passes alone"
        said.append(f"{name}<= {aim['aim']:.2f} {verdict}")
    return "; ".join(said)


def _head(work: Results, rows: Results) -> list[str]:
    seconds = work["plain_seconds"]
    return [
        f"{work['parameters'] / 1e6:.2f} M parameters in {work['tensors']} tensors; a plain step "
        f"takes {1e3 * seconds:.0f} ms, a forward that keeps nothing "
        f"{100 * rows['forward']['ratio']:.0f} % of it",
        f"operations per parameter: {work['operations'] / work['parameters']:,.0f} in a plain "
        f"step, {SAM_OPERATIONS} in SAM's own work; its {SAM_BYTES} bytes are those of "
        f"{SAM_BYTES // 8} copies of the parameters,",
        f"{1e3 * work['copy_seconds']:.2f} ms each: predicted "
        f"{100 * work['sam_seconds'] / seconds:.1f} % of a plain step, measured "
        f"{100 * rows['sam']['own']:.1f} % (second loss and zero_grad() included)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="in a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = Networks(main=lambda: resnet(options.examples))
    result = measure(all_rows(), networks, options.rounds, options.seed)
    text = table(result)
    print(text)
    settings = {"rounds": options.rounds, "examples": options.examples, "width": WIDTH}
    save(options.out, text, {"results": result, **settings})


if __name__ == "__main__":
    main()
