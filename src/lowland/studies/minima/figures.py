"""The figures of the minima study: moments against ρ, losses over steps, rates, stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from lowland.report.intervals import t_interval
from lowland.studies.effects import mean
from lowland.studies.minima.columns import (
    FEATURES,
    FITS,
    LACKS,
    LEAVING,
    MINIMA,
    RATE_RHO,
    rate_group,
)
from lowland.studies.minima.findings import line
from lowland.studies.minima.leaving import FACTORS
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Line, Sheet

_WORDS = {
    "largest": "λ_max(H)",
    "moment/2": "λ_max(M₂ − H²)",
    "moment/3": "λ_max(M₃ − H³)",
    "moment/4": "λ_max(M₄ − H⁴)",
}


def figures(runs: Runs) -> list[Drawing]:
    """Every figure whose runs are there."""
    makers: Sequence[Callable[[Runs], Drawing]] = (
        *(_moments(method) for method in MINIMA),
        *(_training(method) for method in MINIMA),
        _rate_curves,
        _rates,
        _leaving,
    )
    made = []
    for make in makers:
        try:
            made.append(make(runs))
        except NotMeasuredError:
            continue
    return made


def _values(runs: Runs, group: str, rho: float, column: str) -> list[float]:
    """The last values of all seeds that have one."""
    found = []
    for seed in runs.seeds(group):
        held = runs.run(group, rho, seed).history.get(column, [None])[-1]
        if held is not None:
            found.append(held)
    return found


def _moments(method: str) -> Callable[[Runs], Drawing]:
    def make(runs: Runs) -> Drawing:
        group = MINIMA[method]
        rhos = runs.rhos(group)
        lines = []
        for name, words in _WORDS.items():
            column = f"level/{name}"
            plain = {s: runs.run(group, 0.0, s).history.get(column) for s in runs.seeds(group)}
            y: list[float | None] = []
            low: list[float | None] = []
            high: list[float | None] = []
            for rho in rhos:
                ratios = []
                for seed, first in plain.items():
                    held = runs.run(group, rho, seed).history.get(column)
                    if first and held and first[-1] and held[-1] and held[-1] > 0 < first[-1]:
                        ratios.append(math.log10(held[-1] / first[-1]))
                interval = t_interval(ratios)
                y.append(10 ** mean(ratios) if ratios else None)
                low.append(None if interval is None else 10**interval.low)
                high.append(None if interval is None else 10**interval.high)
            lines.append(Line(name=words, x=rhos, y=y, low=low, high=high))
        return Drawing(
            title=f"{method.upper()}: moments of the Hessians, over SGD's at the same loss",
            x=Axis(title="ρ"),
            y=Axis(title="over SGD's", log=True),
            lines=lines,
            note="Geometric mean over seeds with 95% intervals.",
        )

    return make


def _training(method: str) -> Callable[[Runs], Drawing]:
    def make(runs: Runs) -> Drawing:
        group = MINIMA[method]
        lines = []
        for rho in runs.rhos(group):
            seeds = runs.seeds(group)
            steps = runs.run(group, rho, seeds[0]).curve("step")
            curves = [runs.curve(group, rho, seed, "loss") for seed in seeds]
            middle: list[float | None] = []
            for at in zip(*curves, strict=True):
                value = median(v if math.isfinite(v) else math.inf for v in at)
                middle.append(value if 0 < value < math.inf else None)
            lines.append(Line(name=f"ρ = {rho:g}", x=steps, y=middle, rho=rho))
        return Drawing(
            title=f"{method.upper()}: train loss of the small networks",
            x=Axis(title="step"),
            y=Axis(title="mean ½(f − y)²", log=True),
            lines=lines,
            note="Median over seeds; one example per step.",
        )

    return make


def _rate_curves(runs: Runs) -> Drawing:
    lines = []
    for features, words in ((FITS, "fits"), (LACKS, "does not fit")):
        group = rate_group(features)
        rho = min(runs.rhos(group), key=lambda r: abs(r - RATE_RHO))
        seeds = runs.seeds(group)
        for name, arm, radius in (("SGD", "usam", 0.0), ("USAM", "usam", rho), ("SAM", "sam", rho)):
            steps = runs.run(group, radius, seeds[0]).curve("step")
            curves = [runs.curve(group, radius, seed, arm) for seed in seeds]
            middle = [median(at) for at in zip(*curves, strict=True)]
            lines.append(
                Line(
                    name=f"{name}, {words}",
                    x=steps,
                    y=[value if value > 1e-30 else None for value in middle],
                    mode="lines",
                )
            )
    return Drawing(
        title="Least squares, one example per step: f − f* over the steps",
        x=Axis(title="step"),
        y=Axis(title="f − f*", log=True),
        lines=lines,
        note=f"d = {FITS} and {LACKS} features, 40 examples, ρ = {rho:g}; medians over seeds.",
    )


def _rates(runs: Runs) -> Drawing:
    sizes = [d for d in FEATURES if runs.radii(rate_group(d)) and d > 40]
    if not sizes:
        raise NotMeasuredError("the rates are missing")
    lines = []
    for rho in runs.rhos(rate_group(sizes[0])):
        y: list[float | None] = []
        for d in sizes:
            group = rate_group(d)
            held = [-line(runs.run(group, rho, s), "usam")[0] for s in runs.seeds(group)]
            y.append(max(mean(held), 1e-12))
        name = f"USAM, ρ = {rho:g}" if rho else "SGD"
        lines.append(Line(name=name, x=sizes, y=y, rho=rho))
    return Drawing(
        title="Rate against the number of features",
        x=Axis(title="features, d (40 examples)", log=True),
        y=Axis(title="decades per step", log=True),
        lines=lines,
        note="Slope of log10 of the loss, mean over seeds.",
    )


def _leaving(runs: Runs) -> Drawing:
    seeds = runs.whole_seeds(LEAVING, [0.0])
    if not seeds:
        raise NotMeasuredError("the stability runs are missing")
    places, values = [], []
    for f in FACTORS:
        for seed in seeds:
            held = runs.run(LEAVING, 0.0, seed).history.get(f"grown/{f:g}", [None])[-1]
            if held is not None:
                places.append(f)
                values.append(held)
    return Drawing(
        title="USAM next to minima of SGD: comes back or leaves",
        x=Axis(title="ρ over the critical ρ of the condition", log=True),
        y=Axis(title="log10 of the distance after over before"),
        lines=[Line(name="a seed", x=places, y=values, mode="markers")],
        note="Below 1 the condition holds; it is sufficient, so that a mark below 0 beyond 1 is no "
        "contradiction.",
    )


def tables(runs: Runs) -> list[Sheet]:
    """Every arm at its level and at the minimum nearby that fits every example."""
    rows: list[list[str | float | int | None]] = []
    for method, group in MINIMA.items():
        for rho in runs.rhos(group):
            at_level = [_mean(runs, group, rho, f"level/{name}") for name in ("loss", *_WORDS)]
            shares = ("excess", "bound/curvature", "bound/spread")
            at_fit = [_mean(runs, group, rho, name) for name in shares]
            least = [_mean(runs, group, rho, f"level/least/{k}") for k in (3, 4)]
            rows.append([method, rho, *at_level, *least, *at_fit])
    head = ["method", "ρ", "loss", *_WORDS.values(), "λ_min, k = 3", "λ_min, k = 4"]
    return [
        Sheet(
            title="The small networks where they reach one loss, and next to their ends",
            head=[*head, "condition − 1", "ηa(1+ρa)/2", "ηs₂"],
            rows=rows,
            note="Means over seeds. M₃ − H³ and M₄ − H⁴ need not be positive semidefinite: their "
            "smallest eigenvalues are beside. The last three are at the minimum nearby that fits "
            "every example, for the η and ρ of the run; the condition is USAM's.",
        )
    ]


def _mean(runs: Runs, group: str, rho: float, column: str) -> float | None:
    values = _values(runs, group, rho, column)
    return mean(values) if values else None
