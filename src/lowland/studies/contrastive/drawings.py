"""Figures 4, 11 and 15 of the paper, and a table of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.contrastive import columns
from lowland.studies.contrastive.columns import FROZEN, TOWERS, TRAIN_LOSS, TUNED, WAYS, Measured
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet


def panels(what: Measured) -> tuple[Panel, ...]:
    """Over training: errors both ways, ranks of both towers, train loss, for both groups."""
    found = []
    for group, words in ((TUNED, ""), (FROZEN, ", frozen text encoder")):
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
    groups = (TUNED, FROZEN)
    final = [
        line_of(runs, group, f"{tower}, text encoder {group}", columns.rank(tower))
        for group in groups
        for tower in TOWERS
    ]
    sides = {"features": "before the head", "projected": "behind the head"}
    around = [
        line_of(runs, group, f"{group}, {words}", columns.rank("text", place=place))
        for group in groups
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
    for group in (TUNED, FROZEN):
        try:
            rhos, seeds = runs.rhos(group), runs.seeds(group)
        except NotMeasuredError:
            continue

        def final(column: str, rho: float, group: str = group, seeds: list[int] = seeds) -> float:
            return mean([runs.final(group, rho, seed, column) for seed in seeds])

        rows = [row_of(f"{rho:g}", lambda column, rho=rho: final(column, rho)) for rho in rhos]  # type: ignore[misc]
        found.append(
            Sheet(
                title=f"End of training, text encoder {group}",
                head=["ρ", *HEAD],
                rows=rows,
                note=table_note(what),
            )
        )
    return found


HEAD = (
    "train loss",
    "imagewise error",
    "textwise error",
    "imagewise, among all",
    "textwise, among all",
    *(f"rank, {tower}, {place}" for tower in TOWERS for place in ("encoder", "head", "normalised")),
    *(f"rank, {tower}, published centring" for tower in TOWERS),
)


def table_note(what: Measured) -> str:
    """How to read the table."""
    return (
        f"Means over seeds. Errors on test pairs, inside batches of {what.batch} and among all; "
        "ranks at 99% of the variance on test pairs, where not said otherwise about the mean."
    )


def row_of(name: str, value: Callable[[str], float]) -> list[str | float | None]:
    """One row of the table: `value` gives a column's number."""
    errors = [
        columns.error(way, among_all=among_all)
        for among_all in (False, True)
        for way in WAYS.values()
    ]
    ranks = [
        columns.rank(tower, place=place)
        for tower in TOWERS
        for place in ("features", "projected", "normalised")
    ]
    ranks += [columns.rank(tower, center="example") for tower in TOWERS]
    return [
        name,
        round(value(TRAIN_LOSS), 3),
        *(f"{value(column):.1%}" for column in errors),
        *(round(value(column), 1) for column in ranks),
    ]
