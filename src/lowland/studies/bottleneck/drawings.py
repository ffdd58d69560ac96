"""Figure 8 of the paper: errors and ranks against the bottleneck's width, and against ρ."""

from __future__ import annotations

from functools import partial

from lowland.studies.bottleneck.columns import SAM, bottleneck
from lowland.studies.bottleneck.findings import Setup, of_bottleneck, whole_seeds
from lowland.studies.contrastive import columns
from lowland.studies.contrastive.columns import TOWERS, TRAIN_LOSS, WAYS
from lowland.studies.contrastive.drawings import drawn_line, line_of, mean_final, sheets
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet


def panels(setup: Setup) -> tuple[Panel, ...]:
    """The runs with SAM over training, and the train loss at every width."""
    return (
        *(
            Panel(
                title=f"{way.capitalize()} retrieval error, SAM",
                column=columns.error(column),
                group=SAM,
                percent=True,
                note=f"test pairs, inside batches of {setup.what.batch}",
            )
            for way, column in WAYS.items()
        ),
        Panel(title="Train loss, SAM", column=TRAIN_LOSS, group=SAM, log=True),
    )


def figures(runs: Runs, setup: Setup) -> list[Drawing]:
    """Four figures: errors and ranks against h, with plain training at its end, and against ρ."""
    errors = {way: columns.error(column) for way, column in WAYS.items()}
    ranks = {tower: columns.rank(tower) for tower in TOWERS}
    found = []
    for title, unit, names in (
        ("Retrieval error", True, errors),
        ("Feature rank", False, ranks),
    ):
        note = "test pairs; mean and 95% interval over seeds"
        against_width = [_by_width(runs, setup, name, column) for name, column in names.items()]
        places = [*setup.widths, 2 * setup.widths[-1]]
        ticks = [*((float(h), str(h)) for h in setup.widths), (float(places[-1]), "none")]
        found.append(
            Drawing(
                title=f"{title} against the bottleneck's width (Fig. 8)",
                note=note,
                x=Axis(title="h", log=True, ticks=ticks),
                y=Axis(title=title.lower(), percent=unit),
                lines=[line for line in against_width if line is not None],
            )
        )
        against_rho = [line_of(runs, SAM, name, column) for name, column in names.items()]
        found.append(
            Drawing(
                title=f"{title} against ρ (Fig. 8)",
                note=note,
                x=Axis(title="ρ"),
                y=Axis(title=title.lower(), percent=unit),
                lines=[line for line in against_rho if line is not None],
            )
        )
    return found


def _by_width(runs: Runs, setup: Setup, name: str, column: str) -> Line | None:
    try:
        seeds = whole_seeds(runs, setup)
        values = [[of_bottleneck(runs, h, s).final(column) for s in seeds] for h in setup.widths]
        values.append([runs.final(SAM, 0.0, seed, column) for seed in seeds])
    except NotMeasuredError:
        return None
    return drawn_line(name, [*setup.widths, 2 * setup.widths[-1]], values)


def tables(runs: Runs, setup: Setup) -> list[Sheet]:
    """The numbers at the end of training, of every arm."""
    arms = [(f"h = {h}", bottleneck(h), 0.0) for h in setup.widths]
    arms += [("plain" if rho == 0 else f"SAM, ρ = {rho:g}", SAM, rho) for rho in runs.radii(SAM)]

    named = []
    for name, group, rho in arms:
        seeds = runs.whole_seeds(group, [rho])
        if seeds:
            named.append((name, partial(mean_final, runs, group, rho, seeds)))
    return sheets("arm", named, setup.what)
