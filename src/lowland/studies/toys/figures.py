"""The figures of the toys: trajectories, cosines, drift, losses, variances, advantages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, HeatMap, Line, Sheet
from lowland.studies.toys.columns import (
    BEALE,
    DRIFT,
    ESCAPE,
    FEATURES,
    HYPERBOLA,
    HYPERBOLA_RHO,
    PL_QUADRATIC,
    PL_SUMS,
    PUBLISHED,
    RIDGE,
    WIDTHS,
    network_group,
)
from lowland.studies.toys.normalisation import CURVATURE
from lowland.studies.toys.saddles import ARMS
from lowland.studies.toys.sensing import FORMS
from lowland.studies.toys.sensing_figures import recovered
from lowland.studies.toys.unified import SHARES

NAMES = {"usam": "USAM (analysed)", "sam": "SAM (normalized)", "sum": "g + g̃ (never zeroed)"}
SHARE_NAMES = {0.0: "USAM (λ = 0)", 0.5: "λ = ½", 1.0: "SAM (λ = 1)"}
LR = 0.4
"""η of the drift, for the bounds in its figure."""

Points = tuple[list[float], list[float]]


def figures(runs: Runs) -> list[Drawing | HeatMap]:
    """Every figure whose runs are there."""
    makers: Sequence[Callable[[Runs], Drawing | HeatMap]] = (
        _hyperbola,
        _cosine,
        _beale,
        _beale_cosine,
        _escape,
        _drift,
        _valley,
        *(partial(recovered, form=form) for form in FORMS),
        *(_losses(decreasing) for decreasing in (False, True)),
        _features,
        _ridge,
        _networks,
    )
    made: list[Drawing | HeatMap] = []
    for make in makers:
        try:
            made.append(make(runs))
        except NotMeasuredError:
            continue
    return made


def _one(runs: Runs, group: str) -> tuple[str, int]:
    """The published start of a group, and its only seed."""
    name = PUBLISHED[group]
    seeds = runs.whole_seeds(name, [0.0])
    if not seeds:
        raise NotMeasuredError(f"the {name} run is missing")
    return name, seeds[0]


def _path(runs: Runs, group: str, rho: float, seed: int, arm: str, most: float) -> Points:
    """The part of a trajectory within ±`most`."""
    run = runs.run(group, rho, seed)
    pairs = zip(run.curve(f"{arm}/x"), run.curve(f"{arm}/y"), strict=True)
    kept = [(x, y) for x, y in pairs if abs(x) <= most and abs(y) <= most]
    return [x for x, _ in kept], [y for _, y in kept]


def _hyperbola(runs: Runs) -> Drawing:
    group, seed = _one(runs, HYPERBOLA)
    rho = min(runs.rhos(group), key=lambda r: abs(r - HYPERBOLA_RHO))
    arms = [("descent", 0.0, "usam"), *((NAMES[arm], rho, arm) for arm in ARMS)]
    lines = []
    for name, radius, arm in arms:
        x, y = _path(runs, group, radius, seed, arm, 4.0)
        lines.append(Line(name=name, x=x, y=y))
    return Drawing(
        title="x² − y² from (−3, −0.01): who leaves the saddle",
        x=Axis(title="x"),
        y=Axis(title="y"),
        lines=lines,
        note=f"ρ = {rho:g}, step size 0.01, 500 steps; what lies beyond ±4 is left out.",
    )


def _cosine(runs: Runs) -> Drawing:
    group, seed = _one(runs, HYPERBOLA)
    rho = min(runs.rhos(group), key=lambda r: abs(r - HYPERBOLA_RHO))
    run = runs.run(group, rho, seed)
    return Drawing(
        title="x² − y²: cosine of the two gradients along the way",
        x=Axis(title="step"),
        y=Axis(title="cosine of g and g̃"),
        lines=[
            Line(name=NAMES[arm], x=run.curve("step"), y=run.curve(f"{arm}/cosine")) for arm in ARMS
        ],
        note=f"ρ = {rho:g}, the published start.",
    )


def _beale(runs: Runs) -> Drawing:
    group, seed = _one(runs, BEALE)
    lines = []
    for rho in runs.rhos(group):
        x, y = _path(runs, group, rho, seed, "sam", 10.0)
        lines.append(Line(name=f"ρ = {rho:g}", x=x, y=y, rho=rho))
    lines.append(Line(name="saddle", x=[0.0], y=[1.0], mode="markers"))
    lines.append(Line(name="minimum", x=[3.0], y=[0.5], mode="markers"))
    return Drawing(
        title="Beale's function from (1, 2): SAM",
        x=Axis(title="x"),
        y=Axis(title="y"),
        lines=lines,
        note="Step size 1e-3/80; ρ = 0 is gradient descent.",
    )


def _beale_cosine(runs: Runs) -> Drawing:
    group, seed = _one(runs, BEALE)
    lines = []
    for rho in runs.rhos(group)[1:]:
        run = runs.run(group, rho, seed)
        pairs = zip(run.curve("step"), run.curve("sam/cosine"), strict=True)
        kept = [(max(step, 0.5), value) for step, value in pairs]
        lines.append(
            Line(name=f"ρ = {rho:g}", x=[x for x, _ in kept], y=[y for _, y in kept], rho=rho)
        )
    return Drawing(
        title="Beale's function: cosine of SAM's two gradients along the way",
        x=Axis(title="step", log=True),
        y=Axis(title="cosine of g and g̃"),
        lines=lines,
        note="The published start; step 0 is drawn at ½.",
    )


def _escape(runs: Runs) -> Drawing:
    seeds = runs.whole_seeds(ESCAPE, [0.0])
    if not seeds:
        raise NotMeasuredError("the escapes are missing")
    held = [runs.run(ESCAPE, 0.0, seed) for seed in seeds]
    places = [1 + run.final("radius") * run.final("lambda") for run in held]
    names = {
        "printed/same": "printed; one batch in both passes",
        "printed/second": "printed; noise in the second pass alone",
        "printed/fresh": "printed; another batch in the second",
        "derived/same": "derived here; one batch",
    }
    return Drawing(
        title="Leaving a saddle by noise: simulated variance over the formula",
        x=Axis(title="1 + ρλ"),
        y=Axis(title="simulated / formula"),
        lines=[
            Line(name=words, x=places, y=[1 + run.final(name) for run in held], mode="markers")
            for name, words in names.items()
        ],
        note="A mark for every draw of λ, ρ and t; 1 is right.",
    )


def _drift(runs: Runs) -> Drawing:
    rhos = runs.rhos(DRIFT)
    seeds = runs.seeds(DRIFT)

    def ends(arm: str) -> list[float | None]:
        values = [mean([abs(runs.final(DRIFT, r, s, f"{arm}/y")) for s in seeds]) for r in rhos]
        return [max(value, 1e-12) for value in values]

    bound = [math.sqrt(_largest_stable(rho)) for rho in rhos]
    return Drawing(
        title="ℓ(xy): where y ends against ρ",
        x=Axis(title="ρ (0 is gradient descent)"),
        y=Axis(title="|y| at the end", log=True),
        lines=[
            Line(name="USAM", x=rhos, y=ends("usam")),
            Line(name="SAM", x=rhos, y=ends("sam")),
            Line(name="largest stable y of USAM", x=rhos, y=bound, mode="lines"),
        ],
        note="Mean over starts.",
    )


def _largest_stable(rho: float) -> float:
    """y² at which ℓ″y²(1 + ρℓ″y²) = 2/η."""
    a = 2 / LR
    curvature = a if rho == 0 else (math.sqrt(1 + 4 * rho * a) - 1) / (2 * rho)
    return curvature / CURVATURE


def _valley(runs: Runs) -> Drawing:
    group, seed = _one(runs, DRIFT)
    rhos = runs.rhos(group)
    rho = min(rhos, key=lambda r: abs(r - 0.1))
    lines = []
    for name, radius, arm in (("descent", 0.0, "usam"), ("USAM", rho, "usam"), ("SAM", rho, "sam")):
        run = runs.run(group, radius, seed)
        steps = [max(step, 0.5) for step in run.curve("step")]
        values: list[float | None] = [max(abs(y), 1e-12) for y in run.curve(f"{arm}/y")]
        lines.append(Line(name=name, x=steps, y=values))
    return Drawing(
        title="ℓ(xy) from (0.5, 3): y over the steps",
        x=Axis(title="step", log=True),
        y=Axis(title="|y|", log=True),
        lines=lines,
        note=f"ρ = {rho:g}, η = {LR:g}; step 0 is drawn at ½.",
    )


def _losses(decreasing: bool) -> Callable[[Runs], Drawing]:
    word = "decreasing" if decreasing else "constant"

    def make(runs: Runs) -> Drawing:
        lines = []
        groups = {
            "quadratic": PL_QUADRATIC[decreasing],
            "fits": PL_SUMS["fits", decreasing],
            "does not fit": PL_SUMS["does-not-fit", decreasing],
        }
        for name, group in groups.items():
            seeds = runs.whole_seeds(group, [0.0])
            if not seeds:
                raise NotMeasuredError(f"the {group} runs are missing")
            steps = runs.run(group, 0.0, seeds[0]).curve("step")
            for share in SHARES:
                curves = [runs.curve(group, 0.0, seed, f"loss/{share:g}") for seed in seeds]
                middle = [median(at) for at in zip(*curves, strict=True)]
                kept = [(s, v) for s, v in zip(steps, middle, strict=True) if v > 1e-40 and s]
                lines.append(
                    Line(
                        name=f"{name}, {SHARE_NAMES[share]}",
                        x=[s for s, _ in kept],
                        y=[v for _, v in kept],
                        mode="lines",
                    )
                )
        return Drawing(
            title=f"PL: f − f* with {word} ρ and η",
            x=Axis(title="step", log=decreasing),
            y=Axis(title="f − f*", log=True),
            lines=lines,
            note="Medians over draws; below 1e-40 nothing is drawn.",
        )

    return make


def _curve(runs: Runs, group: str, key: str, name: str, **where: float) -> Points:
    """Mean over seeds of a column by another one."""
    seeds = runs.whole_seeds(group, [0.0])
    if not seeds:
        raise NotMeasuredError(f"the {group} runs are missing")
    found: dict[float, list[float]] = {}
    for seed in seeds:
        history = runs.run(group, 0.0, seed).history
        for i, place in enumerate(history[key]):
            value = history[name][i]
            if place is None or value is None:
                continue
            if all(history[k][i] == v for k, v in where.items()):
                found.setdefault(place, []).append(value)
    places = sorted(found)
    return places, [mean(found[place]) for place in places]


def _features(runs: Runs) -> Drawing:
    names = {
        "theory": "closed form (p > n + 1)",
        "fixed": "drawn, rule that is fixed",
        "binned": "drawn, by histogram",
        "bias": "what the histogram finds in nothing",
    }
    lines = []
    for name, words in names.items():
        x, y = _curve(runs, FEATURES, "features", name)
        lines.append(Line(name=words, x=x, y=y))
    return Drawing(
        title="Telling a member from one prediction: advantage against parameters",
        x=Axis(title="features fitted, p", log=True),
        y=Axis(title="advantage (TPR − FPR)", percent=True),
        lines=lines,
        note="Least squares of minimum norm; mean over x₀. Not monotone just above p = n.",
    )


def _ridge(runs: Runs) -> Drawing:
    seeds = runs.whole_seeds(RIDGE, [0.0])
    if not seeds:
        raise NotMeasuredError("the ridge runs are missing")
    places = sorted(set(runs.run(RIDGE, 0.0, seeds[0]).curve("features")))
    lines = []
    for p in places:
        x, y = _curve(runs, RIDGE, "ridge", "normal", features=p)
        lines.append(Line(name=f"p = {p:g}", x=x, y=y))
    return Drawing(
        title="Telling a member: advantage against ridge regularization",
        x=Axis(title="nλ"),
        y=Axis(title="advantage (TPR − FPR)", percent=True),
        lines=lines,
        note="Mean over x₀.",
    )


def _networks(runs: Runs) -> Drawing:
    groups = [network_group(w) for w in WIDTHS if runs.whole_seeds(network_group(w), [0.0])]
    if not groups:
        raise NotMeasuredError("the networks are missing")
    lines = []
    for rho in runs.rhos(groups[0]):
        points = []
        for group in groups:
            seeds = runs.seeds(group)
            size = runs.final(group, rho, seeds[0], "parameters")
            points.append((size, mean([runs.final(group, rho, s, "advantage") for s in seeds])))
        lines.append(
            Line(name=f"ρ = {rho:g}", x=[x for x, _ in points], y=[y for _, y in points], rho=rho)
        )
    return Drawing(
        title="Networks: what the loss tells about membership, against parameters",
        x=Axis(title="parameters", log=True),
        y=Axis(title="advantage (TPR − FPR)", percent=True),
        lines=lines,
        note="Threshold on the loss; mean over draws.",
    )


def tables(runs: Runs) -> list[Sheet]:
    """The ends of the published starts."""
    rows: list[list[str | float | int | None]] = []
    for group, name in PUBLISHED.items():
        arms = {HYPERBOLA: ARMS, BEALE: ("sam", "sum"), DRIFT: ("usam", "sam")}[group]
        for rho in runs.radii(name):
            for seed in runs.whole_seeds(name, [rho]):
                for arm in arms:
                    run = runs.run(name, rho, seed)
                    rows.append([group, arm, rho, run.final(f"{arm}/x"), run.final(f"{arm}/y")])
    return [
        Sheet(
            title="Where the published starts end",
            head=["toy", "form", "ρ", "x", "y"],
            rows=rows,
            note="One start is no result; the claims are judged over random starts. ρ = 0 is "
            "gradient descent in every form.",
        )
    ]
