"""Figures of the low-rank study that are no curves: ranks on train and test images (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence

from lowland.report.intervals import t_interval
from lowland.studies.drawing import Axis, Drawing, Line
from lowland.studies.low_rank.columns import MAIN, POST, Measured, rank_column
from lowland.studies.low_rank.ranks import of_as_many
from lowland.studies.runs import NotMeasuredError, Runs


def figures(runs: Runs, what: Measured) -> Sequence[Drawing]:
    """Rank on train and on test images against ρ, for either network that was run."""
    found = []
    for group, network in ((MAIN, "pre-activation"), (POST, "post-activation")):
        try:
            lines = [
                _line(runs, group, what, split, words)
                for split, words in (("train", "train images"), ("test", "test images"))
            ]
        except NotMeasuredError:
            continue
        found.append(
            Drawing(
                title=f"Feature rank on train and test images, {network} network, {what.block}",
                x=Axis(title="ρ"),
                y=Axis(title="feature rank"),
                lines=lines,
                note="last evaluation, mean over seeds with 95% intervals; after Fig. 9",
            )
        )
    return found


def _line(runs: Runs, group: str, what: Measured, split: str, words: str) -> Line:
    rhos, seeds = runs.rhos(group), runs.seeds(group)
    if len(seeds) < 2:
        raise NotMeasuredError("one seed is never a result")
    column = rank_column(what.block, split=split)
    if split == "train":
        column = of_as_many(runs, group, seeds[0], column)
    intervals = [
        t_interval([runs.final(group, rho, seed, column) for seed in seeds]) for rho in rhos
    ]
    return Line(
        name=words,
        x=rhos,
        y=[None if each is None else each.mean for each in intervals],
        low=[None if each is None else each.low for each in intervals],
        high=[None if each is None else each.high for each in intervals],
    )
