"""Recall against components, reconstruction and bits against ρ, and tables of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.effects import mean
from lowland.studies.retrieval import columns
from lowland.studies.retrieval.columns import ERRORS, MAIN, RECALLS, TRANSFER, Setup
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet

Value = Callable[[float, int], float]


def panels(setup: Setup) -> tuple[Panel, ...]:
    """Rank over training, its confound, and the errors."""
    return (
        Panel(
            title=f"Feature rank, {setup.block}",
            column=columns.training_rank(setup.block),
            group=MAIN,
            note="components that hold 99% of the variance, train images",
        ),
        Panel(
            title="Train loss",
            column=columns.TRAIN_LOSS,
            group=MAIN,
            log=True,
            note="the confound: large ρ may underfit",
        ),
        Panel(title="Test error", column="test/error", group=MAIN, percent=True),
    )


def figures(runs: Runs, setup: Setup) -> list[Drawing]:
    """Recall against components at every ρ; what is needed against ρ."""
    found = [_recall(runs, metric) for metric in columns.METRICS]
    found.append(
        _against_rho(
            runs,
            "Bits of a vector for a recall",
            "components × bits at the best quantizer",
            {f"recall@10 = {r:g}": columns.bits(r) for r in RECALLS},
        )
    )
    found.append(
        _against_rho(
            runs,
            "Components × bits for an error of reconstruction",
            "on test images, at the best number of bits",
            {f"{e:.0%} of the variance lost": columns.tokens(e) for e in ERRORS},
        )
    )
    return found


def _recall(runs: Runs, metric: str) -> Drawing:
    """Means over seeds at the numbers of components that every run has."""
    rhos, seeds = runs.rhos(MAIN), runs.seeds(MAIN)
    known = [set(runs.run(MAIN, rho, seed).history) for rho in rhos for seed in seeds]
    start = columns.curve(0, metric)[:-1]
    every = set.intersection(*known) if known else set()
    grid = sorted(int(name[len(start) :]) for name in every if name.startswith(start))
    lines = []
    for rho in rhos:
        by_k = [_over_seeds(runs, rho, columns.curve(k, metric)) for k in grid]
        lines.append(_line(f"ρ = {rho:g}", [float(k) for k in grid], by_k, rho))
    words = "cosine" if metric == "cosine" else "squared distance, centred"
    return Drawing(
        title=f"Recall of the true neighbours against components ({words})",
        note="exact search for the 10 nearest; mean and 95% interval over seeds",
        x=Axis(title="components", log=True),
        y=Axis(title="recall@10", percent=True),
        lines=lines,
    )


def _against_rho(runs: Runs, title: str, note: str, named: dict[str, str]) -> Drawing:
    rhos = runs.rhos(MAIN)
    lines = []
    for name, column in named.items():
        try:
            by_rho = [_over_seeds(runs, rho, column) for rho in rhos]
        except NotMeasuredError:
            continue
        lines.append(_line(name, rhos, by_rho))
    return Drawing(
        title=title,
        note=f"{note}; mean and 95% interval over seeds",
        x=Axis(title="ρ"),
        y=Axis(title="bits", log=True),
        lines=lines,
    )


def _over_seeds(runs: Runs, rho: float, column: str) -> list[float]:
    return [runs.final(MAIN, rho, seed, column) for seed in runs.seeds(MAIN)]


def _line(
    name: str, x: Sequence[float], values: Sequence[Sequence[float]], rho: float | None = None
) -> Line:
    intervals = [t_interval(of_seeds) for of_seeds in values]
    return Line(
        name=name,
        x=x,
        y=[mean(of_seeds) for of_seeds in values],
        low=[None if i is None else i.low for i in intervals],
        high=[None if i is None else i.high for i in intervals],
        rho=rho,
    )


def tables(runs: Runs, setup: Setup) -> list[Sheet]:
    """What a search needs at every ρ."""
    parts: list[tuple[str, str, str]] = [
        *((f"components, recall {r:g}", MAIN, columns.dimensions(r)) for r in RECALLS),
        *((f"bits, recall {r:g}", MAIN, columns.bits(r)) for r in RECALLS),
        ("multiply-adds", MAIN, columns.operations()),
        *((f"components, {e:.0%} error", MAIN, columns.components(e)) for e in ERRORS),
        *((f"× bits, {e:.0%} error", MAIN, columns.tokens(e)) for e in ERRORS),
        ("kNN error, unseen classes", TRANSFER, columns.knn()),
        ("by 99% of the variance", TRANSFER, columns.knn(dims="rank")),
    ]
    rows = [
        [f"{rho:g}", *(_cell(runs, group, rho, column) for _, group, column in parts)]
        for rho in runs.rhos(MAIN)
    ]
    return [
        Sheet(
            title="What a search needs",
            head=["ρ", *(name for name, _, _ in parts)],
            rows=rows,
            note=(
                f"Means over seeds; {setup.database} vectors, {setup.queries} queries, cosine. "
                "Bits are components × bits of the best quantizer, without its codebook; 8 bits "
                "are a byte. Errors of reconstruction are on test images."
            ),
        )
    ]


def _cell(runs: Runs, group: str, rho: float, column: str) -> str | None:
    try:
        found = mean([runs.final(group, rho, seed, column) for seed in runs.seeds(group)])
    except NotMeasuredError:
        return None
    return f"{found:.2%}" if column.startswith("knn") else f"{found:,.1f}"
