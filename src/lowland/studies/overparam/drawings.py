"""What the report of the study draws and lists."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.drawing import Axis, Cell, Drawing, HeatMap, Line, Sheet
from lowland.studies.effects import mean
from lowland.studies.overparam import columns, space
from lowland.studies.overparam.arms import MASKS, Arm, Measured, shown
from lowland.studies.overparam.findings import Places, best_radii
from lowland.studies.overparam.gains import early_stopped
from lowland.studies.overparam.slopes import interquartile
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Panel
from lowland.studies.tuned import Read, Tuned, at_end

_HEAD = ("hidden", "weights", "loss", "SGD", "SAM", "gain", "test", "early", "ρ*")
_PARAMETERS = Axis(title="parameters", log=True)
_GAIN = Axis(title="gain in validation error", percent=True)
_INTERVALS = "means over seeds with 95% intervals"


def panels(what: Measured) -> tuple[Panel, ...]:
    """Training of the largest network, without and with the most label noise."""
    groups = [
        (noise, Arm(hidden=what.widest, noise=noise).group)
        for noise in (what.noises[0], what.noises[-1])
    ]
    return tuple(
        Panel(
            title=f"{title}, {shown(what.widest)}, {noise:.0%} wrong labels",
            column=column,
            group=group,
            percent=percent,
            log=not percent,
        )
        for noise, group in groups
        for title, column, percent in (
            ("Validation error", columns.VALIDATION, True),
            ("Train loss", columns.TRAIN_LOSS, False),
        )
    )


def figures(runs: Runs, what: Measured) -> list[Drawing | HeatMap]:
    """Those for which there are runs."""
    makers: Sequence[Callable[[Runs, Measured], Iterator[Drawing | HeatMap]]] = (
        _gains,
        _maps,
        _radii,
        _sparse,
        _regularised,
        _solutions,
        _bias,
    )
    found: list[Drawing | HeatMap] = []
    for make in makers:
        with contextlib.suppress(NotMeasuredError):
            found += [drawing for drawing in make(runs, what) if _shows(drawing)]
    return found


def _shows(drawing: Drawing | HeatMap) -> bool:
    if isinstance(drawing, HeatMap):
        return True
    return any(value is not None for line in drawing.lines for value in line.y)


def _line(name: str, places: Sequence[tuple[float, Effects]], *, power: bool = False) -> Line:
    """Means and intervals; of logarithms to base 10 shown as what they are of, if `power`.

    Where some effect is not finite there is no point: a mean over the others would be one of
    survivors.
    """
    back: Callable[[float], float] = (lambda v: 10**v) if power else (lambda v: v)
    rows: list[tuple[float, float | None, float | None, float | None]] = []
    for x, effects in places:
        values = list(effects.values())
        if not all(map(math.isfinite, values)):
            rows.append((x, None, None, None))
        elif values:
            interval = t_interval(values)
            ends = (None, None) if interval is None else (back(interval.low), back(interval.high))
            rows.append((x, back(mean(values)), *ends))
    return Line(
        name=name,
        x=[row[0] for row in rows],
        y=[row[1] for row in rows],
        low=[row[2] for row in rows],
        high=[row[3] for row in rows],
    )


def _present(runs: Runs, places: Places) -> Places:
    return [place for place in places if runs.radii(place[1])]


def _gain_line(runs: Runs, name: str, places: Places, read: Read = at_end) -> Line:
    found = [(float(n), Tuned.of(runs, g, read).gain()) for n, g in _present(runs, places)]
    return _line(name, found)


def _gains(runs: Runs, what: Measured) -> Iterator[Drawing]:
    for when, read in (("at the end", at_end), ("with early stopping", early_stopped)):
        yield Drawing(
            title=f"Gain of SAM over SGD against parameters, {when}",
            x=_PARAMETERS,
            y=_GAIN,
            lines=[
                _gain_line(runs, f"{noise:.0%} wrong labels", what.dense(noise), read)
                for noise in what.noises
            ],
            note=f"ρ chosen at each size on other seeds; {_INTERVALS}",
        )


def gaps(runs: Runs, what: Measured, noise: float) -> tuple[list[float], dict[str, list[float]]]:
    """Every ρ, and by network the mean of SGD's validation error minus that of each ρ."""
    radii: list[float] = []
    rows = {}
    for hidden in what.sizes:
        group = Arm(hidden=hidden, noise=noise).group
        if not runs.radii(group):
            continue
        radii, seeds = runs.rhos(group)[1:], runs.seeds(group)
        rows[shown(hidden)] = [
            mean(
                [
                    runs.final(group, 0.0, s, columns.VALIDATION)
                    - runs.final(group, rho, s, columns.VALIDATION)
                    for s in seeds
                ]
            )
            for rho in radii
        ]
    if not rows:
        raise NotMeasuredError("nothing was run")
    return radii, rows


def _maps(runs: Runs, what: Measured) -> Iterator[HeatMap]:
    for noise in what.noises:
        radii, rows = gaps(runs, what, noise)
        yield HeatMap(
            title=f"Gain by size and ρ, {noise:.0%} wrong labels",
            columns=[f"{rho:g}" for rho in radii],
            rows=list(rows),
            column_title="ρ",
            row_title="hidden layers",
            values=[[v if math.isfinite(v) else None for v in row] for row in rows.values()],
            value_title="gain in validation error",
            percent=True,
            signed=True,
            note="mean over seeds at the end of training; ρ that do not train lose up to 90 points",
        )


def _radii(runs: Runs, what: Measured) -> Iterator[Drawing]:
    yield Drawing(
        title="Best ρ against parameters",
        x=_PARAMETERS,
        y=Axis(title="ρ*", log=True),
        lines=[
            _line(
                f"{noise:.0%} wrong labels",
                [(float(n), best_radii(runs, g)) for n, g in _present(runs, what.dense(noise))],
                power=True,
            )
            for noise in what.noises
        ],
        note=f"geometric {_INTERVALS}; where SGD was best, half the smallest ρ",
    )


def _sparse(runs: Runs, what: Measured) -> Iterator[Drawing]:
    lines = [_gain_line(runs, "dense", what.dense(0.0))]
    for mask, words in MASKS.items():
        places = [
            (what.active(s), Arm(hidden=what.widest, mask=mask, sparsity=s).group)
            for s in sorted(what.sparsities, reverse=True)
        ]
        lines.append(_gain_line(runs, f"{shown(what.widest)} with {words}", places))
    yield Drawing(
        title="Gain against active parameters, dense and sparse",
        x=Axis(title="active parameters", log=True),
        y=_GAIN,
        lines=lines,
        note=f"clean labels; {_INTERVALS}",
    )


def _regularised(runs: Runs, what: Measured) -> Iterator[Drawing]:
    noise = what.noises[-1]
    chosen = {what.count(h) for h in what.regularised}
    lines = []
    for words, decay in (("no weight decay", False), ("weight decay", True)):
        for when, read in (("at the end", at_end), ("early stopping", early_stopped)):
            places = [p for p in what.dense(noise, decay=decay) if p[0] in chosen]
            lines.append(_gain_line(runs, f"{words}, {when}", places, read))
    yield Drawing(
        title=f"Gain by regularisation, {noise:.0%} wrong labels",
        x=_PARAMETERS,
        y=_GAIN,
        lines=lines,
        note=f"no weight decay: the usual small one; {_INTERVALS}",
    )


def _solutions(runs: Runs, what: Measured) -> Iterator[Drawing]:
    points: list[tuple[float, float]] = []
    spread: list[tuple[float, float]] = []
    for hidden in what.sizes:
        values = list(space.log_sharpness(runs, what, hidden).values())
        if len(values) > 1:
            count = float(what.count(hidden))
            points += [(count, math.exp(value)) for value in values]
            spread.append((count, interquartile(values)))
    if not points:
        raise NotMeasuredError("no solution is at the level")
    for title, axis, mode, shown_points in (
        ("λ_max of SGD solutions", Axis(title="λ_max", log=True), "markers", points),
        ("Spread of λ_max", Axis(title="quartile distance of ln λ_max"), "lines+markers", spread),
    ):
        yield Drawing(
            title=f"{title} at one train loss",
            x=_PARAMETERS,
            y=axis,
            lines=[
                Line(
                    name="SGD",
                    x=[x for x, _ in shown_points],
                    y=[y for _, y in shown_points],
                    mode="markers" if mode == "markers" else "lines+markers",
                )
            ],
            note="sizes whose every solution is at that loss",
        )


def _bias(runs: Runs, what: Measured) -> Iterator[Drawing]:
    places = _present(runs, what.dense(0.0))

    def distances(group: str, rho: float) -> Effects:
        return {s: space.relative_distance(runs.run(group, rho, s)) for s in runs.seeds(group)}

    def ratios(group: str, rho: float) -> Effects:
        return {
            s: math.log10(plain / sam) if plain > 0 and sam > 0 else math.nan
            for s in runs.seeds(group)
            for plain, sam in [
                [runs.final(group, r, s, columns.LAMBDA) for r in (0.0, rho)],
            ]
        }

    for title, axis, of, power in (
        ("Distance between the ends of SAM and SGD", "over SGD's way", distances, False),
        ("SGD's λ_max over SAM's", "ratio", ratios, True),
    ):
        yield Drawing(
            title=f"{title}, by ρ",
            x=_PARAMETERS,
            y=Axis(title=axis, log=power),
            lines=[
                _coloured(
                    _line(f"ρ = {rho:g}", [(float(n), of(g, rho)) for n, g in places], power=power),
                    rho,
                )
                for rho in what.radii
            ],
            note=f"clean labels, at the end; {_INTERVALS}",
        )


def _coloured(line: Line, rho: float) -> Line:
    """The line in the colour of its ρ."""
    return Line(name=line.name, x=line.x, y=line.y, low=line.low, high=line.high, rho=rho)


def tables(runs: Runs, what: Measured) -> list[Sheet]:
    """Every size: errors, gains and ρ* by noise; and the spread of λ_max."""
    found = []
    for noise in what.noises:
        rows = []
        for hidden in what.sizes:
            with contextlib.suppress(NotMeasuredError):
                rows.append(_row(runs, what, Arm(hidden=hidden, noise=noise)))
        if rows:
            found.append(
                Sheet(
                    title=f"Every size, {noise:.0%} wrong labels",
                    head=_HEAD,
                    rows=rows,
                    note="train loss of SGD; validation errors of SGD and of SAM at the chosen ρ; "
                    "gains at the end, the same on test images, and with early stopping",
                )
            )
    return found


def _row(runs: Runs, what: Measured, arm: Arm) -> list[Cell]:
    ends, stopped = (Tuned.of(runs, arm.group, read) for read in (at_end, early_stopped))
    best = [v for v in best_radii(runs, arm.group).values() if math.isfinite(v)]
    errors = (
        ends.plain(columns.VALIDATION),
        ends.values(columns.VALIDATION),
        ends.gain(),
        ends.gain(columns.TEST),
        stopped.gain(),
    )
    return [
        shown(arm.hidden),
        what.count(arm.hidden),
        _cell(_mean(ends.plain(columns.TRAIN_LOSS)), "{:.3g}"),
        *(_cell(_mean(values), "{:.2%}") for values in errors),
        _cell(10 ** statistics.mean(best), "{:.2g}") if best else None,
    ]


def _mean(effects: Mapping[int, float]) -> float:
    return mean(list(effects.values()))


def _cell(value: float, form: str) -> Cell:
    return form.format(value) if math.isfinite(value) else None
