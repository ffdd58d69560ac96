"""Effects inside the blocks of the ViT, one per seed: §5 and App. E of the paper.

R is the rank of the class token in the residual stream: before attention, after attention, after
the MLP of every block. A sub-block's part is the difference of R across it. The class token enters
the first block as the same vector for all images, of rank 0, so that all parts of a network add up
to its rank after the last block: R(last) = Σ attention parts + Σ MLP parts.

Sums of parts are in units of R(last) in plain training, the mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from lowland.studies.effects import mean, relative_fall
from lowland.studies.runs import Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.vit_blocks import columns
from lowland.studies.vit_blocks.columns import GELU_SHARES, TOKENS, VIT, Setup
from lowland.studies.vit_blocks.depths import means_by_rho

Part = Callable[[Runs, float, int], list[float]]
"""(runs, ρ, seed) -> a number per block."""

ATTENTION = ("before-attention", "after-attention")
MLP = ("after-attention", "after-mlp")


def parts(
    setup: Setup, across: tuple[str, str], *, token: str = TOKENS[VIT], center: str = "unit"
) -> Part:
    """The difference of ranks across a sub-block, in every block."""
    before, after = across

    def differences(runs: Runs, rho: float, seed: int) -> list[float]:
        def at(block: str, place: str) -> float:
            column = columns.rank(block, place, token, center=center)
            return runs.final(VIT, rho, seed, column)

        return [at(block, after) - at(block, before) for block in setup.blocks[VIT]]

    return differences


def attention_raises(runs: Runs, setup: Setup) -> Finding:
    """Share of attention sub-blocks, over blocks and ρ, after which the rank is higher."""
    rhos = runs.rhos(VIT)

    def share(part: Part, skip: int = 0) -> Effects:
        return {
            seed: _share([d for rho in rhos for d in part(runs, rho, seed)[skip:]], _above)
            for seed in runs.seeds(VIT)
        }

    return Finding(
        effects=share(parts(setup, ATTENTION)),
        detail=_profile(runs, parts(setup, ATTENTION)),
        resolution=1 / (len(rhos) * len(setup.blocks[VIT])),
        beside={
            "without the first block": share(parts(setup, ATTENTION), 1),
            "published centring": share(parts(setup, ATTENTION, center="example")),
            "mean token": share(parts(setup, ATTENTION, token="mean")),
        },
    )


def mlp_goes_both_ways(runs: Runs, setup: Setup) -> Finding:
    """The smaller of two shares of MLP sub-blocks, over blocks and ρ: rank higher, rank lower."""
    rhos = runs.rhos(VIT)

    def smaller(part: Part) -> Effects:
        found = {}
        for seed in runs.seeds(VIT):
            differences = [d for rho in rhos for d in part(runs, rho, seed)]
            found[seed] = _least(_share(differences, _above), _share(differences, _below))
        return found

    return Finding(
        effects=smaller(parts(setup, MLP)),
        detail=_profile(runs, parts(setup, MLP)),
        resolution=1 / (len(rhos) * len(setup.blocks[VIT])),
        beside={
            "published centring": smaller(parts(setup, MLP, center="example")),
            "mean token": smaller(parts(setup, MLP, token="mean")),
        },
    )


def change_of_sum(runs: Runs, setup: Setup, *, across: tuple[str, str], sign: int) -> Finding:
    """sign · (Σ parts at ρmax - Σ parts at 0) / R(last, 0)."""

    def change(**options: str) -> Effects:
        unit = _last_rank(runs, setup, **options)
        part = parts(setup, across, **options)
        return {seed: sign * c / unit for seed, c in _changes(runs, part).items()}

    return Finding(
        effects=change(),
        detail=_sums(runs, parts(setup, across)),
        resolution=1 / _last_rank(runs, setup),
        beside={
            "published centring": change(center="example"),
            "mean token": change(token="mean"),
        },
    )


def reduction_by_attention(runs: Runs, setup: Setup) -> Finding:
    """The weaker of: R(last) falls, and attention's parts fall by more than the MLPs' do."""

    def effects(**options: str) -> Effects:
        unit = _last_rank(runs, setup, **options)
        by_attention, by_mlp = (
            _changes(runs, parts(setup, across, **options)) for across in (ATTENTION, MLP)
        )
        return {
            seed: _least(
                -(by_attention[seed] + by_mlp[seed]) / unit,
                -(by_attention[seed] - by_mlp[seed]) / unit,
            )
            for seed in by_attention
        }

    falls = [
        mean([-c for c in _changes(runs, parts(setup, across)).values()])
        for across in (ATTENTION, MLP)
    ]
    return Finding(
        effects=effects(),
        detail=(
            f"Of a fall of {math.fsum(falls):.1f} dimensions after the last block, "
            f"{falls[0]:.1f} are attention's and {falls[1]:.1f} the MLPs'."
        ),
        resolution=1 / _last_rank(runs, setup),
        beside={"published centring": effects(center="example")},
    )


def sparse_coordinates(runs: Runs, setup: Setup) -> Finding:
    """Mean over blocks and places of the share of sparse coordinates of the stream at ρmax."""
    top = runs.rhos(VIT)[-1]

    def share(rho: float, against: str = "largest") -> Effects:
        names = [
            columns.sparse(block, place, against=against)
            for block in setup.blocks[VIT]
            for place in ("after-attention", "after-mlp")
        ]
        return {
            seed: mean([runs.final(VIT, rho, seed, name) for name in names])
            for seed in runs.seeds(VIT)
        }

    at_top, at_zero = share(top), share(0.0)
    return Finding(
        effects=at_top,
        resolution=1 / (setup.width * 2 * len(setup.blocks[VIT])),
        detail=means_by_rho(
            runs, VIT, columns.sparse(setup.blocks[VIT][-1], "after-mlp"), percent=True
        )
        + " (after the last block)",
        beside={
            "in plain training": at_zero,
            "more than in plain training": {s: at_top[s] - at_zero[s] for s in at_top},
            "below 5% of the median coordinate": share(top, "median"),
        },
    )


def gelus_stay(runs: Runs, setup: Setup, *, margin: float) -> Finding:
    """margin - (active share at 0 - active share at ρmax), mean over blocks."""
    top = runs.rhos(VIT)[-1]

    def falls(tokens: str, share: float) -> Effects:
        names = [columns.active(block, tokens, share) for block in setup.blocks[VIT]]
        return {
            seed: mean(
                [runs.final(VIT, 0.0, seed, n) - runs.final(VIT, top, seed, n) for n in names]
            )
            for seed in runs.seeds(VIT)
        }

    judged, other = GELU_SHARES
    left = {s: margin - f for s, f in falls("class", judged).items()}
    mine = columns.active(setup.blocks[VIT][-1], "class", judged)
    return Finding(
        effects=left,
        resolution=1 / (4 * setup.width * len(setup.blocks[VIT])),
        detail=f"{means_by_rho(runs, VIT, mine, percent=True)} (last block, class token)",
        beside={
            f"the fall itself, above {judged:.0%}": falls("class", judged),
            f"the fall above {other:.0%}": falls("class", other),
            f"the fall above {judged:.0%}, all tokens": falls("rows", judged),
        },
    )


def fall_in_branch(runs: Runs, setup: Setup, *, place: str) -> Finding:
    """Mean over blocks of 1 - R(ρmax) / R(0) of what a branch holds."""
    top = runs.rhos(VIT)[-1]

    def falls(token: str = TOKENS[VIT], center: str = "unit") -> Effects:
        names = [columns.rank(b, place, token, center=center) for b in setup.blocks[VIT]]
        return {
            seed: mean(
                [
                    relative_fall(runs.final(VIT, 0.0, seed, n), runs.final(VIT, top, seed, n))
                    for n in names
                ]
            )
            for seed in runs.seeds(VIT)
        }

    last = columns.rank(setup.blocks[VIT][-1], place, TOKENS[VIT])
    return Finding(
        effects=falls(),
        detail=f"{means_by_rho(runs, VIT, last)} (last block)",
        beside={"published centring": falls(center="example"), "mean token": falls("mean")},
    )


def grows_over_blocks(runs: Runs, setup: Setup) -> Finding:
    """Share of steps from one block to the next, over ρ, after which the rank is higher."""
    rhos = runs.rhos(VIT)

    def share(**options: str) -> Effects:
        return {
            seed: _share(
                [
                    after - before
                    for rho in rhos
                    for before, after in pairwise(_ends(runs, setup, rho, seed, **options))
                ],
                _above,
            )
            for seed in runs.seeds(VIT)
        }

    return Finding(
        effects=share(),
        detail=_profile(runs, partial(_ends, setup=setup), what="Rank after each block"),
        resolution=1 / (len(rhos) * max(len(setup.blocks[VIT]) - 1, 1)),
        beside={"published centring": share(center="example"), "mean token": share(token="mean")},
    )


def starts_small(runs: Runs, setup: Setup) -> Finding:
    """1 - R(after the first block) / R(after the last), mean over ρ."""
    rhos = runs.rhos(VIT)

    def smaller(**options: str) -> Effects:
        return {
            seed: mean(
                [
                    relative_fall(ends[-1], ends[0])
                    for ends in (_ends(runs, setup, rho, seed, **options) for rho in rhos)
                ]
            )
            for seed in runs.seeds(VIT)
        }

    return Finding(
        effects=smaller(),
        detail=_profile(runs, partial(_ends, setup=setup), what="Rank after each block"),
        beside={"published centring": smaller(center="example")},
    )


def starts_alike(runs: Runs, setup: Setup) -> Finding:
    """Share of the class token's energy after the first block that is the mean over images."""
    rhos = runs.rhos(VIT)

    def shares(block: str) -> Effects:
        column = columns.mean_energy(block, "after-mlp", TOKENS[VIT])
        return {
            seed: mean([runs.final(VIT, rho, seed, column) for rho in rhos])
            for seed in runs.seeds(VIT)
        }

    first, *_, last = setup.blocks[VIT]
    return Finding(effects=shares(first), beside={"after the last block": shares(last)})


def _ends(runs: Runs, setup: Setup, rho: float, seed: int, **options: str) -> list[float]:
    """The rank after every block."""
    token = options.get("token", TOKENS[VIT])
    center = options.get("center", "unit")
    return [
        runs.final(VIT, rho, seed, columns.rank(block, "after-mlp", token, center=center))
        for block in setup.blocks[VIT]
    ]


def _last_rank(runs: Runs, setup: Setup, **options: str) -> float:
    """R(last, 0), mean over seeds, at least 1."""
    ends = [_ends(runs, setup, 0.0, seed, **options)[-1] for seed in runs.seeds(VIT)]
    return max(mean(ends), 1.0)


def _changes(runs: Runs, part: Part) -> Effects:
    """Σ parts at ρmax - Σ parts at 0."""
    top = runs.rhos(VIT)[-1]
    return {
        seed: math.fsum(part(runs, top, seed)) - math.fsum(part(runs, 0.0, seed))
        for seed in runs.seeds(VIT)
    }


def _sums(runs: Runs, part: Part) -> str:
    words = ", ".join(
        f"{mean([math.fsum(part(runs, rho, seed)) for seed in runs.seeds(VIT)]):+.1f} at {rho:g}"
        for rho in runs.rhos(VIT)
    )
    return f"Sum over blocks, mean by ρ: {words}."


def _profile(runs: Runs, part: Callable[..., list[float]], what: str = "Block by block") -> str:
    """Means over seeds at the two ends of the grid."""
    rhos = runs.rhos(VIT)
    words = "; ".join(
        ", ".join(
            f"{mean(list(values)):.1f}"
            for values in zip(
                *(part(runs, rho=rho, seed=seed) for seed in runs.seeds(VIT)), strict=True
            )
        )
        + f" at ρ = {rho:g}"
        for rho in (rhos[0], rhos[-1])
    )
    return f"{what}, mean: {words}."


def _share(values: list[float], counts: Callable[[float], bool]) -> float:
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    return sum(map(counts, values)) / len(values)


def _above(value: float) -> bool:
    return value > 0


def _below(value: float) -> bool:
    return value < 0


def _least(*values: float) -> float:
    return math.nan if any(math.isnan(value) for value in values) else min(values)
