"""Figures like the paper's Figs. 7 and 14, tables like its Table 1, and panels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowland.report.intervals import t_interval
from lowland.studies.effects import mean, relative_fall
from lowland.studies.runs import Runs
from lowland.studies.study import Axis, Drawing, Line, Panel, Sheet
from lowland.studies.vit_blocks import columns
from lowland.studies.vit_blocks.columns import (
    BRANCHES,
    GELU_SHARES,
    MATRICES,
    MIXER,
    OTHER_TOKENS,
    POOL_RANK,
    SHARES,
    STREAMS,
    TEST_ERROR,
    TOKENS,
    TRAIN_LOSS,
    VIT,
    Setup,
)
from lowland.studies.vit_blocks.inside import ATTENTION, MLP, parts

Value = Callable[[float, int], list[float]]
"""(ρ, seed) -> a number per block."""

_PLACES = {
    "before-attention": "before attention",
    "after-attention": "after attention",
    "after-mlp": "after the MLP",
    "attention-branch": "after attention",
    "before-activation": "before the GELUs",
    "after-activation": "after the GELUs",
    "mlp-branch": "after the MLP",
}

_CENTERED = {"unit": "mean example", "example": "own mean (published)"}


def panels() -> tuple[Panel, ...]:
    """What training did: the rank of what the head is given, and the confound."""
    return tuple(
        panel
        for group, name in ((VIT, "ViT"), (MIXER, "Mixer"))
        for panel in (
            Panel(
                title=f"{name}: rank before the head",
                column=POOL_RANK,
                group=group,
                note="after the final LayerNorm; 99% of the variance, train images",
            ),
            Panel(
                title=f"{name}: train loss",
                column=TRAIN_LOSS,
                group=group,
                log=True,
                note="the confound: large ρ may underfit",
            ),
            Panel(title=f"{name}: test error", column=TEST_ERROR, group=group, percent=True),
        )
    )


def figures(runs: Runs, setup: Setup) -> list[Drawing]:
    """Figs. 7 and 14 for the ViT, and the Mixer's blocks."""
    return [*_figure_7(runs, setup), *_figure_14(runs, setup), _mixer(runs, setup)]


def _figure_7(runs: Runs, setup: Setup) -> list[Drawing]:
    def difference(across: tuple[str, str]) -> Value:
        part = parts(setup, across)
        return lambda rho, seed: part(runs, rho, seed)

    gelus = [columns.active(b, "class", GELU_SHARES[0]) for b in setup.blocks[VIT]]
    rank = "difference of ranks"
    return [
        _drawing(runs, setup, VIT, "Across attention (Fig. 7, left)", rank, difference(ATTENTION)),
        _drawing(runs, setup, VIT, "Across the MLP (Fig. 7, middle)", rank, difference(MLP)),
        _drawing(
            runs,
            setup,
            VIT,
            "Active GELUs (Fig. 7, right)",
            "active GELUs",
            _of_columns(runs, VIT, gelus),
            percent=True,
        ),
    ]


def _figure_14(runs: Runs, setup: Setup) -> list[Drawing]:
    found = []
    for places, where in ((STREAMS, "residual stream"), (BRANCHES, "branch")):
        for place in places:
            names = [columns.rank(b, place, TOKENS[VIT]) for b in setup.blocks[VIT]]
            title = f"Rank in the {where}, {_PLACES[place]} (Fig. 14)"
            found.append(
                _drawing(runs, setup, VIT, title, "feature rank", _of_columns(runs, VIT, names))
            )
    return found


def _mixer(runs: Runs, setup: Setup) -> Drawing:
    names = [columns.rank(b, "after-mlp", TOKENS[MIXER]) for b in setup.blocks[MIXER]]
    value = _of_columns(runs, MIXER, names)
    return _drawing(runs, setup, MIXER, "Mixer: rank of the mean token", "feature rank", value)


def _of_columns(runs: Runs, group: str, names: Sequence[str]) -> Value:
    return lambda rho, seed: [runs.final(group, rho, seed, name) for name in names]


def _drawing(
    runs: Runs,
    setup: Setup,
    group: str,
    title: str,
    y: str,
    value: Value,
    *,
    percent: bool = False,
) -> Drawing:
    """One line per ρ against the number of the block, with intervals over seeds."""
    numbers = [float(i + 1) for i in range(len(setup.blocks[group]))]
    lines = []
    for rho in runs.rhos(group):
        by_block = list(zip(*(value(rho, s) for s in runs.seeds(group)), strict=True))
        intervals = [t_interval(list(values)) for values in by_block]
        lines.append(
            Line(
                name=f"ρ = {rho:g}",
                x=numbers,
                y=[mean(list(values)) for values in by_block],
                low=[None if i is None else i.low for i in intervals],
                high=[None if i is None else i.high for i in intervals],
                rho=rho,
            )
        )
    token = "class token" if group == VIT else "mean token"
    return Drawing(
        title=title,
        note=f"{token}, train images; mean and 95% interval over seeds",
        x=Axis(title="block", ticks=[(x, f"{x:g}") for x in numbers]),
        y=Axis(title=y, percent=percent),
        lines=lines,
    )


def tables(runs: Runs, setup: Setup) -> list[Sheet]:
    """Ranks as in Table 1, and ranks of the weight matrices."""
    return [_ranks(runs, setup), _weights(runs, setup)]


def _ranks(runs: Runs, setup: Setup) -> Sheet:
    rows: list[list[str | float | None]] = []
    for group, name in ((VIT, "ViT"), (MIXER, "Mixer")):
        top = runs.rhos(group)[-1]
        for words, share in SHARES.items():
            for token in (TOKENS[group], OTHER_TOKENS[group]):
                for center in columns.CENTERS:
                    block = setup.after(group, share)
                    column = columns.rank(block, "after-mlp", token, center=center)
                    plain, sam = (_mean(runs, group, rho, column) for rho in (0.0, top))
                    rows.append(
                        [
                            name,
                            "last" if share == 1 else words.removesuffix(" of"),
                            "first token" if token == "class" else "mean token",
                            _CENTERED[center],
                            plain,
                            sam,
                            f"{-relative_fall(plain, sam) or 0.0:+.0%}",
                        ]
                    )
    return Sheet(
        title="Ranks after the last, 3/4 and 1/2 of the blocks (Table 1)",
        head=["network", "after", "features", "centring", "ρ = 0", "largest ρ", "change"],
        rows=rows,
        note=(
            "Means over seeds. Centring is what is subtracted. Published with the class token of "
            "ViTs, the mean token of Mixers."
        ),
    )


def _weights(runs: Runs, setup: Setup) -> Sheet:
    rows: list[list[str | float | None]] = []
    for group, name in ((VIT, "ViT"), (MIXER, "Mixer")):
        rhos = runs.rhos(group)
        for block in setup.blocks[group]:
            for part in MATRICES[group]:
                for what in ("threshold", "stable"):
                    column = columns.weights(block, part, what)
                    start = columns.weights(block, part, what, of="start")
                    rows.append(
                        [
                            name,
                            f"{block}.{part}",
                            "99% of Σσ²" if what == "threshold" else "Σσ²/σ₁²",
                            *(
                                f"{_mean(runs, group, rho, c):.3f}"
                                for rho, c in ((0.0, start), (0.0, column), (rhos[-1], column))
                            ),
                        ]
                    )
    return Sheet(
        title="Ranks of weight matrices, as shares of full rank",
        head=["network", "matrices of", "rank", "at initialisation", "ρ = 0", "largest ρ"],
        rows=rows,
        note="Means over matrices and seeds. The paper's claims are about features, not weights.",
    )


def _mean(runs: Runs, group: str, rho: float, column: str) -> float:
    return mean([runs.final(group, rho, seed, column) for seed in runs.seeds(group)])
