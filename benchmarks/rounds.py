"""What the benchmarks share: steps timed in turn, ratios of times, results with provenance."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowland.core.files import write_json, write_text
from lowland.core.provenance import provenance
from pass_times import PassTimes

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


@dataclass(frozen=True)
class Reading:
    """One step in one round, and the mean of the plain steps just before and just after it.

    Attributes:
        seconds: of the step.
        inside: of that, in forward and backward passes.
        plain: seconds of the plain step.
        plain_inside: of that, in passes.
    """

    seconds: float
    inside: float
    plain: float
    plain_inside: float

    @property
    def ratio(self) -> float:
        """t/t(plain)."""
        return self.seconds / self.plain

    @property
    def own(self) -> float:
        """What the step does outside its passes beyond what a plain step does, in plain steps."""
        return (self.seconds - self.inside - self.plain + self.plain_inside) / self.plain


def flanked(
    steps: Mapping[str, tuple[Step, int]], plain: Step, rounds: int, seed: int
) -> dict[str, list[Reading]]:
    """Every step between two plain ones, in every round; each round has an order of its own.

    A machine that slows down or speeds up from step to step does so for the neighbours alike.

    Args:
        steps: what to time, by name, and how often it is taken for one reading: methods whose
            steps differ are read over a whole cycle. Readings are per step.
        plain: what stands between.
        rounds: how often.
        seed: of the orders.
    """
    readings: dict[str, list[Reading]] = {name: [] for name in steps}
    shuffle = random.Random(seed)
    for _ in range(rounds):
        names = list(steps)
        shuffle.shuffle(names)
        before = _timed(plain, 1)
        for name in names:
            own = _timed(*steps[name])
            after = _timed(plain, 1)
            beside = [(a + b) / 2 for a, b in zip(before, after, strict=True)]
            readings[name].append(Reading(*own, *beside))
            before = after
    return readings


def _timed(step: Step, count: int) -> tuple[float, float]:
    """Seconds per step, and those of them that are in passes."""
    with PassTimes() as passes:
        began = time.perf_counter()
        for _ in range(count):
            step()
        ended = time.perf_counter()
    return (ended - began) / count, passes.seconds / count


def save(out: Path | None, text: str, results: Mapping[str, Any]) -> None:
    """Write `results` with their provenance to `out`, and `text` to the .txt beside it."""
    if out is None:
        return
    origin = provenance()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {**results, **origin})
    state = "modified" if origin["modified"] else "as committed"
    write_text(
        out.with_suffix(".txt"),
        f"{text}\n\nlowland {origin['commit']} ({state}), torch {origin['torch']}, "
        f"Python {origin['python']}, {origin['gpu'] or origin['cpu']}, {origin['cores']} cores, "
        f"{origin['threads']} thread(s), {origin['time']}\n",
    )
