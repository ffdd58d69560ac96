"""What the benchmarks share: steps timed in turn, ratios of times, results with provenance."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowland.core.files import write_json, write_text
from lowland.core.provenance import provenance

Step = Callable[[], Any]
Times = dict[str, list[float]]


def interleaved(
    steps: Mapping[str, Step], rounds: int, seed: int, before: Step | None = None
) -> Times:
    """Seconds of every step in every round; each round has an order of its own.

    What slows the machine down for a while then slows all of them, and ratios within a round stay
    what they are.

    Args:
        steps: what to time, by name.
        rounds: how often.
        seed: of the orders, so that several processes can go through the same ones.
        before: called before each step, outside the measured time.
    """
    times: Times = {name: [] for name in steps}
    shuffle = random.Random(seed)
    for _ in range(rounds):
        names = list(steps)
        shuffle.shuffle(names)
        for name in names:
            if before is not None:
                before()
            began = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - began)
    return times


def ratios(times: Times, to: str) -> dict[str, dict[str, float]]:
    """Per step: median milliseconds, and the quartiles of t/t(`to`) over the rounds."""
    rows = {}
    for name, own in times.items():
        each = [t / b for t, b in zip(own, times[to], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4)
        milliseconds = 1e3 * statistics.median(own)
        rows[name] = {"ms": milliseconds, "ratio": middle, "low": low, "high": high}
    return rows


def save(out: Path | None, text: str, results: Mapping[str, Any]) -> None:
    """Write `results` with their provenance to `out`, and `text` to the .txt beside it."""
    if out is None:
        return
    origin = provenance()
    write_json(out, {**results, **origin})
    state = "modified" if origin["modified"] else "as committed"
    write_text(
        out.with_suffix(".txt"),
        f"{text}\n\nlowland {origin['commit']} ({state}), torch {origin['torch']}, "
        f"Python {origin['python']}, {origin['gpu'] or origin['cpu']}, {origin['cores']} cores, "
        f"{origin['threads']} thread(s), {origin['time']}\n",
    )
