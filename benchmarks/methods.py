"""What every method costs: seconds per step and peak memory, in plain steps, side by side.

A pre-activation ResNet-18, narrow so that the whole table takes minutes, on a batch of CIFAR's
shape that is large enough for the passes to be nearly everything. On one thread, in rounds of
random order, every step stands between two plain ones and is divided by their mean. Columns:

    passes     forwards + backwards of the whole network on the whole batch
    predicted  what they cost if a forward is a third of a plain step
    measured   time in plain steps, median over the rounds with its quartiles
    own        what the step does outside its passes beyond a plain step, in % of one
    peak       most bytes alive in a step beyond network and batch, in those of the plain step
    copies     the same as a difference, in copies of the parameters
    aim        and whether the measured value keeps it

Methods whose steps differ are taken over a whole cycle (LookSAM) or several steps (what draws its
tensors). Rows of pytorch-optimizer are its versions of the same methods.

    python benchmarks/methods.py [--rounds 15] [--out benchmarks/results/methods.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
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
SAM_BYTES, SAM_CALLS, SAM_OPERATIONS = 48, 5, 6
"""SAM's own work per parameter: g to a flat copy and its norm (12 bytes), w away (8), w + ρ·g/‖g‖
(12), w back (8), whether u is finite (8); and calls per tensor for the same."""

Network = Callable[[int], nn.Module]
Results = dict[str, Any]


def resnet(width: int) -> nn.Module:
    return create_model("preact-resnet18", shape=(3, 32, 32), classes=10, width=width)


def make_batch(network: Network = resnet, examples: int = EXAMPLES, size: int = 32) -> Batch:
    """The same network and batch for every row."""
    torch.manual_seed(0)
    model, narrow = network(WIDTH), network(WIDTH // 2)
    x, y = torch.randn(examples, 3, size, size), torch.randint(0, 10, (examples,))
    return Batch(model, x, y, narrow)


Make = Callable[[], Batch]


def time_rows(
    rows: Mapping[str, Row], make: Make, rounds: int, seed: int
) -> dict[str, list[Reading]]:
    """Readings of all rows, each on a network of its own."""
    steps = {name: (row.build(make()), row.steps) for name, row in rows.items()}
    beside = plain(make())
    for step, count in [*steps.values(), (beside, 1)]:
        for _ in range(max(2, count)):
            step()
    return flanked(steps, beside, rounds, seed)


def peak_bytes(row: Row, make: Make) -> dict[str, Any]:
    """The most bytes alive in a step beyond network and batch, once its state is there."""
    with LiveBytes() as meter:
        batch = make()
        step = row.build(batch)
        for number in range(row.warm_up + max(2, row.steps)):
            if number == row.warm_up:
                meter.reset()
            step()
            for p in batch.params:
                p.grad = None
        return {"bytes": meter.peak - batch.fixed(), "where": meter.where}


def summary(row: Row, readings: list[Reading], peak: Mapping[str, Any]) -> Results:
    """What the table and the results say of one row."""
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
        "peak": dict(peak),
    }


def judge(rows: Mapping[str, Row], results: Results) -> None:
    """Put the aims beside what was measured: peaks as ratios first, then met or not."""
    base = results["plain"]["peak"]["bytes"]
    for name, row in rows.items():
        result = results[name]
        result["peak"]["ratio"] = result["peak"]["bytes"] / base
        aims = {"time": (row.aim, result["ratio"])}
        aims["peak"] = (row.memory_aim, result["peak"]["ratio"])
        result["aims"] = {
            what: {"aim": aim, "measured": value, "met": value <= aim}
            for what, (aim, value) in aims.items()
            if aim is not None
        }


def own_work(batch: Batch) -> Results:
    """SAM's own work and a plain step's, predicted from bytes, calls and operations."""
    parameters, tensors = sum(p.numel() for p in batch.params), len(batch.params)
    with FlopCounterMode(display=False) as counter:
        batch.backward()
    one, other = torch.randn(2, parameters).unbind()
    smallest = torch.zeros(2, 1).unbind()
    bytes_per_second = 8 * parameters / _seconds(lambda: one.copy_(other))
    per_call = _seconds(lambda: smallest[0].copy_(smallest[1]))
    seconds = SAM_BYTES * parameters / bytes_per_second + SAM_CALLS * tensors * per_call
    return {
        "parameters": parameters,
        "tensors": tensors,
        "operations": counter.get_total_flops(),
        "bytes_per_second": bytes_per_second,
        "seconds_per_call": per_call,
        "sam_seconds": seconds,
    }


def _seconds(call: Callable[[], Any], times: int = 200) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(rows: Mapping[str, Row], make: Make, rounds: int, seed: int) -> Results:
    """Times, then peaks, of all rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a skipped step is no step
        readings = time_rows(rows, make, rounds, seed)
        results = {n: summary(row, readings[n], peak_bytes(row, make)) for n, row in rows.items()}
    judge(rows, results)
    work = own_work(make())
    work["plain_seconds"] = statistics.median(r.plain for own in readings.values() for r in own)
    return {"work": work, "rows": results, "without": WITHOUT}


def table(result: Results) -> str:
    lines = [*_head(result), ""]
    lines.append(
        f"{'':26s} {'passes':>9s} {'predicted':>9s} {'measured':>8s}  {'quartiles':13s} "
        f"{'own':>6s} {'peak':>5s} {'copies':>6s}  aim"
    )
    copy = 4 * result["work"]["parameters"]
    base = result["rows"]["plain"]["peak"]["bytes"]
    for name, row in result["rows"].items():
        peak = row["peak"]
        lines.append(
            f"{name:26s} {row['forwards']:.3g} + {row['backwards']:.3g}".ljust(36)
            + f" {row['predicted']:9.2f} {row['ratio']:8.2f}  {row['low']:.2f} to {row['high']:.2f}"
            f"  {100 * row['own']:5.1f}% {peak['ratio']:5.2f} {(peak['bytes'] - base) / copy:+6.2f}"
            f"  {_aims(row['aims'])}".rstrip()
        )
    lines += [f"{name}: no row, {why}" for name, why in result["without"].items()]
    return "\n".join(lines)


def _aims(aims: Mapping[str, Any]) -> str:
    said = []
    for what, judged in aims.items():
        verdict = "met" if judged["met"] else f"NOT MET: {judged['measured']:.2f}"
        said.append(f"{'' if what == 'time' else what + ' '}<= {judged['aim']:.2f} {verdict}")
    return ", ".join(said)


def _head(result: Results) -> list[str]:
    work, rows = result["work"], result["rows"]
    plain_seconds = work["plain_seconds"]
    per_parameter = work["operations"] / work["parameters"]
    return [
        f"{work['parameters'] / 1e6:.2f} M parameters in {work['tensors']} tensors; plain step "
        f"{1e3 * plain_seconds:.0f} ms, of which a forward that keeps nothing is "
        f"{100 * rows['forward']['ratio']:.0f} %",
        f"per parameter a plain step has {per_parameter:,.0f} floating-point operations, SAM's own "
        f"work {SAM_OPERATIONS} and {SAM_BYTES} bytes:",
        f"at {work['bytes_per_second'] / 1e9:.1f} GB/s, and {1e6 * work['seconds_per_call']:.1f} "
        f"µs for each of {SAM_CALLS * work['tensors']} calls, "
        f"{1e3 * work['sam_seconds']:.2f} ms or {100 * work['sam_seconds'] / plain_seconds:.1f} % "
        f"of a plain step (measured: own, {100 * rows['sam']['own']:.1f} %)",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="in a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    def make() -> Batch:
        return make_batch(examples=options.examples)

    result = measure(all_rows(), make, options.rounds, options.seed)
    text = table(result)
    print(text)
    settings = {"rounds": options.rounds, "examples": options.examples, "width": WIDTH}
    save(options.out, text, {"results": result, **settings})


if __name__ == "__main__":
    main()
