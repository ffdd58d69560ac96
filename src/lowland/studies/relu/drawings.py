"""A figure per block like the paper's Fig. 6, a table of its numbers, and panels."""

from __future__ import annotations

from collections.abc import Callable

from lowland.report.intervals import t_interval
from lowland.studies.effects import mean
from lowland.studies.relu import columns
from lowland.studies.relu.columns import EXAMPLES, MAIN, TEST_ERROR, TRAIN_LOSS, Setup
from lowland.studies.runs import Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet


def panels(setup: Setup) -> tuple[Panel, ...]:
    """Ranks over training, and the confound."""
    return (
        *(
            Panel(
                title=f"Feature rank, {block}",
                column=columns.rank(block),
                group=MAIN,
                note="components that hold 99% of the variance, train images",
            )
            for block in setup.blocks
        ),
        Panel(
            title="Train loss",
            column=TRAIN_LOSS,
            group=MAIN,
            log=True,
            note="the confound: large ρ may underfit",
        ),
        Panel(title="Test error", column=TEST_ERROR, group=MAIN, percent=True),
    )


def figures(runs: Runs, setup: Setup) -> list[Drawing]:
    """For every block: active share, and rank over the mean rank of plain training, against ρ."""
    return [_of_block(runs, block) for block in setup.blocks]


def _of_block(runs: Runs, block: str) -> Drawing:
    seeds = runs.seeds(MAIN)
    plain = mean([runs.final(MAIN, 0.0, seed, columns.rank(block)) for seed in seeds])

    def active(rho: float, seed: int) -> float:
        return runs.final(MAIN, rho, seed, columns.active(block))

    def rank(rho: float, seed: int) -> float:
        return runs.final(MAIN, rho, seed, columns.rank(block)) / max(plain, 1.0)

    return Drawing(
        title=f"{block}: active ReLUs and feature rank (Fig. 6)",
        note=(
            f"rank as a share of the mean in plain training, {plain:.1f}; mean and 95% interval "
            "over seeds"
        ),
        x=Axis(title="ρ"),
        y=Axis(title="share", percent=True),
        lines=[
            _line(runs, "active ReLUs", active),
            _line(runs, "feature rank", rank),
        ],
    )


def _line(runs: Runs, name: str, value: Callable[[float, int], float]) -> Line:
    rhos, seeds = runs.rhos(MAIN), runs.seeds(MAIN)
    by_rho = [[value(rho, seed) for seed in seeds] for rho in rhos]
    intervals = [t_interval(values) for values in by_rho]
    return Line(
        name=name,
        x=rhos,
        y=[mean(values) for values in by_rho],
        low=[None if i is None else i.low for i in intervals],
        high=[None if i is None else i.high for i in intervals],
    )


def tables(runs: Runs, setup: Setup) -> list[Sheet]:
    """The numbers of every block, by every definition of an active unit."""
    rows: list[list[str | float | None]] = []
    for block in setup.blocks:
        for rho in runs.rhos(MAIN):
            shares = [columns.active(block, share) for share in EXAMPLES]
            rows.append(
                [
                    block,
                    rho,
                    _mean(runs, rho, columns.rank(block)),
                    _mean(runs, rho, columns.rank(block, center="example")),
                    *(
                        f"{_mean(runs, rho, column):.1%}"
                        for column in (*shares, columns.channels(block), columns.values(block))
                    ),
                ]
            )
    return [
        Sheet(
            title="Rank and active ReLUs at every block (Fig. 6)",
            head=[
                "block",
                "ρ",
                "rank",
                "published",
                "active",
                *(f"> {share:.0%}" for share in EXAMPLES[1:]),
                "channels",
                "values",
            ],
            rows=rows,
            note=(
                "Means over seeds. Published: the rank by the published centring. Active: units "
                "above 5% of the block's largest value on an image, on more than 1, 5 and 10% of "
                "the images; channels with such a unit; values above."
            ),
        )
    ]


def _mean(runs: Runs, rho: float, column: str) -> float:
    return mean([runs.final(MAIN, rho, seed, column) for seed in runs.seeds(MAIN)])
