"""Figures 4, 11 and 15 of the paper, and a table of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lowland.report.intervals import t_interval
from lowland.studies.contrastive import columns
from lowland.studies.contrastive.columns import FROZEN, GROUPS, TOWERS, TRAIN_LOSS, WAYS, Measured
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet

Value = Callable[[str], float]
"""A column's number at the end of an arm."""


def panels(what: Measured, groups: Sequence[str] = GROUPS) -> tuple[Panel, ...]:
    """Over training: errors both ways, ranks of both towers, train loss, for these groups."""
    found = []
    for group in groups:
        words = ", frozen text encoder" if group == FROZEN else ""
        for way, column in WAYS.items():
            found.append(
                Panel(
                    title=f"{way.capitalize()} retrieval error{words}",
                    column=columns.error(column),
                    group=group,
                    percent=True,
                    note=f"test pairs, inside batches of {what.batch}",
                )
            )
        for tower in TOWERS:
            found.append(
                Panel(
                    title=f"Feature rank, {tower} embeddings{words}",
                    column=columns.rank(tower, split="train"),
                    group=group,
                    note="normalised, components that hold 99% of the variance, train pairs",
                )
            )
        found.append(
            Panel(
                title=f"Train loss{words}",
                column=TRAIN_LOSS,
                group=group,
                log=True,
                note="the confound: large ρ may underfit",
            )
        )
    return tuple(found)


def figures(runs: Runs) -> list[Drawing]:
    """Against ρ, on test pairs: ranks of both towers (Figs. 4, 11), and text features on both sides
    of the head (Fig. 15)."""
    final = [
        line_of(runs, group, f"{tower}, text encoder {group}", columns.rank(tower))
        for group in GROUPS
        for tower in TOWERS
    ]
    sides = {"features": "before the head", "projected": "behind the head"}
    around = [
        line_of(runs, group, f"{group}, {words}", columns.rank("text", place=place))
        for group in GROUPS
        for place, words in sides.items()
    ]
    return [
        Drawing(
            title=title,
            note="test pairs, 99% of the variance; mean and 95% interval over seeds",
            x=Axis(title="ρ"),
            y=Axis(title="feature rank"),
            lines=[line for line in lines if line is not None],
        )
        for title, lines in (
            ("Rank of normalised embeddings (Figs. 4 and 11, bottom)", final),
            ("Rank of text features at the last layer (Fig. 15)", around),
        )
    ]


def line_of(runs: Runs, group: str, name: str, column: str) -> Line | None:
    """A column at the end against ρ; None where it was not measured."""
    try:
        rhos, seeds = runs.rhos(group), runs.seeds(group)
        values = [[runs.final(group, rho, seed, column) for seed in seeds] for rho in rhos]
    except NotMeasuredError:
        return None
    return drawn_line(name, rhos, values)


def drawn_line(name: str, x: Sequence[float], values: Sequence[Sequence[float]]) -> Line:
    """Means with 95% intervals over seeds.

    Args:
        name: for the legend.
        x: places.
        values: for each place one value per seed.
    """
    intervals = [t_interval(list(of_seeds)) for of_seeds in values]
    return Line(
        name=name,
        x=list(x),
        y=[mean(of_seeds) for of_seeds in values],
        low=[None if i is None else i.low for i in intervals],
        high=[None if i is None else i.high for i in intervals],
    )


def tables(runs: Runs, what: Measured) -> list[Sheet]:
    """The numbers at the end of training."""
    found = []
    for group in GROUPS:
        rhos = runs.radii(group)
        seeds = runs.whole_seeds(group, rhos)
        if not (rhos and seeds):
            continue

        arms = [(f"{rho:g}", partial(mean_final, runs, group, rho, seeds)) for rho in rhos]
        found += sheets("ρ", arms, what, f"text encoder {group}")
    return found


def mean_final(runs: Runs, group: str, rho: float, seeds: Sequence[int], column: str) -> float:
    """The mean over seeds of a column at the end."""
    return mean([runs.final(group, rho, seed, column) for seed in seeds])


def sheets(
    head: str, arms: Sequence[tuple[str, Value]], what: Measured, words: str = ""
) -> list[Sheet]:
    """Two tables of the end of training: loss and errors, and ranks.

    Args:
        head: what the arms are.
        arms: name of each, and the number that it has in a column.
        what: batches and pairs.
        words: what is added to the titles.
    """
    errors = {
        **{f"{name} error": columns.error(way) for name, way in WAYS.items()},
        **{f"{name}, among all": columns.error(way, among_all=True) for name, way in WAYS.items()},
    }
    places = {"encoder": "features", "head": "projected", "normalised": "normalised"}
    ranks = {
        **{f"{t}, {word}": columns.rank(t, place=p) for t in TOWERS for word, p in places.items()},
        **{f"{t}, published centring": columns.rank(t, center="example") for t in TOWERS},
    }
    of = f", {words}" if words else ""
    return [
        Sheet(
            title=f"Errors at the end of training{of}",
            head=[head, "train loss", *errors],
            rows=[
                [name, round(value(TRAIN_LOSS), 3), *(f"{value(c):.1%}" for c in errors.values())]
                for name, value in arms
            ],
            note=f"Means over seeds; test pairs, inside batches of {what.batch} and among all.",
        ),
        Sheet(
            title=f"Ranks at the end of training{of}",
            head=[head, *ranks],
            rows=[[name, *(round(value(c), 1) for c in ranks.values())] for name, value in arms],
            note=(
                f"Means over seeds; 99% of the variance, {what.ranked} test pairs, about the mean "
                "where not said otherwise. Encoder and head: what they give, before normalisation."
            ),
        ),
    ]
