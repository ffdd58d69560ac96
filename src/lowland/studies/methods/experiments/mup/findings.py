"""Where the optima are at each width, and how far ε reaches: effects, one per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowland.studies.effects import mean
from lowland.studies.methods.experiments.effects import told_by_others
from lowland.studies.methods.experiments.mup.sweep import FACTOR, LAYERS, RHO, TIMES
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding

STANDARD, MUP2 = "sam", "mup2"
WIDTHS = {"smoke": (64, 80), "default": (64, 192, 512), "paper": (64, 128, 256, 512, 1024)}


def group(kind: str, width: int) -> str:
    """Where the runs of one width stand."""
    return f"mup/{kind}/{width}"


def transfer(runs: Runs) -> Finding:
    """The larger movement of the two optima under muP²."""
    moved = _movements(runs, MUP2)
    return Finding(
        effects=told_by_others(moved, size=abs),
        detail=_optima(runs, MUP2),
        resolution=_resolution(runs, MUP2),
        beside=moved,
    )


def no_transfer(runs: Runs) -> Finding:
    """The larger of: fall of the best learning rate, rise of the best ρ, under SAM."""
    moved = _movements(runs, STANDARD)
    directed = {
        "learning rate": {seed: -value for seed, value in moved["learning rate"].items()},
        "ρ": moved["ρ"],
    }
    return Finding(
        effects=told_by_others(directed),
        detail=_optima(runs, STANDARD),
        resolution=_resolution(runs, STANDARD),
        beside=directed,
    )


def vanishing(runs: Runs) -> Finding:
    """Fall of ε's effect on the hidden layers beside that on the last one, under SAM."""

    def fall(layer: str, times: Sequence[str]) -> Effects:
        own, last = (_growth(runs, STANDARD, name, times) for name in (layer, LAYERS[-1]))
        return {seed: 1 - own[seed] / last[seed] for seed in own}

    growths = {layer: _growth(runs, STANDARD, layer, TIMES) for layer in LAYERS}
    words = ", ".join(f"{layer} {mean(list(g.values())):.2f}" for layer, g in growths.items())
    falls = {layer: fall(layer, TIMES) for layer in LAYERS[:-1]}
    return Finding(
        effects=told_by_others(falls, largest=False),
        detail=f"By itself ε's effect is multiplied by: {words}.",
        beside={**falls, **_by_time(fall, LAYERS[:-1])},
    )


def lasting(runs: Runs) -> Finding:
    """Largest relative change of ε's effect over all layers under muP²."""

    def change(layer: str, times: Sequence[str]) -> Effects:
        return {seed: g - 1 for seed, g in _growth(runs, MUP2, layer, times).items()}

    changes = {layer: change(layer, TIMES) for layer in LAYERS}
    return Finding(
        effects=told_by_others(changes, size=abs),
        beside={**changes, **_by_time(change, LAYERS)},
    )


def _by_time(
    effect: Callable[[str, Sequence[str]], Effects], layers: Sequence[str]
) -> dict[str, Effects]:
    return {f"{layer}, {time}": effect(layer, [time]) for layer in layers for time in TIMES[::2]}


def _groups(runs: Runs, kind: str) -> tuple[list[str], list[int]]:
    """Groups by ascending width, and the seeds of all.

    Raises:
        NotMeasuredError: fewer than two widths ran.
    """
    widths = sorted({w for sizes in WIDTHS.values() for w in sizes})
    groups = [group(kind, w) for w in widths if runs.radii(group(kind, w))]
    if len(groups) < 2:
        raise NotMeasuredError(f"{kind} ran at fewer than two widths")
    return groups, sorted(set.intersection(*(set(runs.whole_seeds(g, [RHO])) for g in groups)))


def _movements(runs: Runs, kind: str) -> dict[str, Effects]:
    """log₂ of the ratio of optima, largest over smallest width."""
    groups, seeds = _groups(runs, kind)
    return {
        label: {
            seed: _best(runs, groups[-1], seed, axis) - _best(runs, groups[0], seed, axis)
            for seed in seeds
        }
        for label, axis in (("learning rate", "lr"), ("ρ", "rho"))
    }


def _resolution(runs: Runs, kind: str) -> float:
    """One step where an optimum lies at an end of its grid, in between they are continuous."""
    groups, seeds = _groups(runs, kind)
    arms = [_arm(runs, g, s, axis)[0] for g in groups for s in seeds for axis in ("lr", "rho")]
    optima = [_best(runs, g, s, axis) for g in groups for s in seeds for axis in ("lr", "rho")]
    ends = (best in (x[0], x[-1]) for x, best in zip(arms, optima, strict=True))
    return 1.0 if any(ends) else 0.0


def _best(runs: Runs, name: str, seed: int, axis: str) -> float:
    """Where the validation loss is lowest along one arm of the cross, in steps of the grid."""
    return lowest(*_arm(runs, name, seed, axis))


def _arm(runs: Runs, name: str, seed: int, axis: str) -> tuple[list[float], list[float]]:
    """The places along one arm of the cross, in steps of the grid, and the losses there."""
    columns = [runs.curve(name, RHO, seed, column) for column in ("lr", "rho", "validation/loss")]
    places = list(zip(*columns, strict=True))
    middle = places[-1]
    other = 1 if axis == "lr" else 0
    arm = sorted(place for place in places if place[other] == middle[other])
    x = [math.log(place[1 - other], FACTOR) for place in arm]
    return x, [place[2] for place in arm]


def lowest(x: Sequence[float], y: Sequence[float]) -> float:
    """Minimum of the parabola through the lowest of equally spaced points and its neighbours.

    At an end of the grid it is that end.

    >>> lowest([0.0, 1.0, 2.0, 3.0], [2.25, 0.25, 0.25, 2.25])
    1.5
    """
    i = min(range(len(y)), key=lambda k: y[k])
    if i in (0, len(y) - 1):
        return x[i]
    left, right = y[i - 1] - y[i], y[i + 1] - y[i]
    bend = left + right
    return x[i] + (x[i + 1] - x[i]) * (left - right) / (2 * bend) if bend else x[i]


def _growth(runs: Runs, kind: str, layer: str, times: Sequence[str]) -> Effects:
    """ε's effect on a layer's own output at the largest width over that at the smallest.

    The geometric mean over times in training.
    """
    groups, seeds = _groups(runs, kind)

    def reach(name: str, seed: int) -> float:
        values = [runs.final(name, RHO, seed, f"change/{time}/{layer}") for time in times]
        return mean([math.log(value) if value > 0 else math.nan for value in values])

    return {seed: math.exp(reach(groups[-1], seed) - reach(groups[0], seed)) for seed in seeds}


def _optima(runs: Runs, kind: str) -> str:
    """Geometric means over seeds of the optima at each width, in words."""
    groups, seeds = _groups(runs, kind)
    words = []
    for label, axis in (("learning rate", "lr"), ("ρ", "rho")):
        found = [FACTOR ** mean([_best(runs, g, s, axis) for s in seeds]) for g in groups]
        words.append(f"{label} {', '.join(f'{value:.3g}' for value in found)}")
    widths = [name.rpartition("/")[2] for name in groups]
    return f"Optima at width {', '.join(widths)}: {'; '.join(words)}."
