"""Every claim about transformer blocks on runs whose effects are known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from made_runs import make_runs

from lowland.studies.runs import Run, Runs
from lowland.studies.study import Finding, assess
from lowland.studies.verdict import Verdict
from lowland.studies.vit_blocks import columns
from lowland.studies.vit_blocks.claims import claims
from lowland.studies.vit_blocks.columns import MIXER, POOL_RANK, TRAIN_LOSS, VIT, Setup
from lowland.studies.vit_blocks.drawings import figures, tables

BLOCKS = ("block1", "block2", "block3", "block4")
SETUP = Setup(blocks={VIT: BLOCKS, MIXER: BLOCKS}, width=50)
CLAIMS = {claim.name: claim for claim in claims(SETUP)}
ENDS = ("rank-after-last", "rank-after-three-quarters", "rank-after-half")

Rank = Callable[[float, int, str], float]
"""(ρ, place in BLOCKS, place in the block) -> rank."""


def measured(name: str, runs: list[Run]) -> tuple[Finding, Verdict]:
    return assess(CLAIMS[name], Runs(runs), family=len(CLAIMS))


def of_ranks(rank: Rank, group: str = VIT, **facts: float) -> list[Run]:
    """Runs whose last row has these ranks of the judged token, by the usual centring."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        row = {TRAIN_LOSS: 1.0}
        if step < 3:
            return row
        for i, block in enumerate(BLOCKS):
            for place in (*columns.STREAMS, *columns.BRANCHES):
                for token in ("class", "mean"):
                    for center in columns.CENTERS:
                        name = columns.rank(block, place, token, center=center)
                        row[name] = rank(rho, i, place)
            row[columns.rank(block, "after-mlp", columns.TOKENS[group], of="test")] = 7.0
        return row | facts

    return make_runs(values, group=group)


def growing(rho: float, block: int, place: str) -> float:
    """Attention adds 10 - 10ρ in each block; the MLP adds 2 in even blocks, takes 1 in odd ones."""
    attention, mlp = 10 - 10 * rho, (2, -1)
    before = block * attention + sum(mlp[i % 2] for i in range(block))
    at = {"before-attention": 0.0, "after-attention": attention}
    return before + at.get(place, attention + mlp[block % 2])


def test_names_and_thresholds_are_what_they_were_when_the_study_was_fixed() -> None:
    found = {name: dataclasses.astuple(claim.rule)[0] for name, claim in CLAIMS.items()}
    assert found == {
        **{f"vit-{name}": 0.05 for name in ENDS},
        **{f"mixer-{name}": 0.05 for name in ENDS},
        "vit-larger-rho-lower-rank": 0.05,
        "vit-rank-at-matched-loss": 0.05,
        "mixer-rank-at-matched-loss": 0.05,
        "vit-test-error": 0.0025,
        "mixer-test-error": 0.0025,
        "attention-raises-rank": 0.8,
        "attention-raises-less": 0.05,
        "mlp-goes-both-ways": 0.1,
        "mlp-difference-larger": 0.05,
        "reduction-by-attention": 0.05,
        "rank-grows-over-blocks": 0.8,
        "rank-starts-small": 0.5,
        "class-token-starts-alike": 0.5,
        "no-sparse-coordinates": 0.05,
        "gelus-stay-active": 0.0,
        "no-trend-after-attention": 0.05,
        "no-trend-after-gelus": 0.05,
    }


@pytest.mark.parametrize(("name", "block"), [*zip(ENDS, (3, 2, 1), strict=True)])
@pytest.mark.parametrize("group", [VIT, MIXER])
def test_the_rank_after_a_share_of_the_blocks(group: str, name: str, block: int) -> None:
    def rank(rho: float, i: int, place: str) -> float:
        return 100 * (1 - rho) if (i, place) == (block, "after-mlp") else math.nan

    finding, verdict = measured(f"{group}-{name}", of_ranks(rank, group))
    sign = -1 if (group, block) == (MIXER, 2) else 1  # the exception: there it is to rise
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), sign * 0.4))
    assert verdict.word == ("holds" if sign > 0 else "does not hold")
    assert finding.beside["published centring"][0] == pytest.approx(sign * 0.4)
    assert finding.beside["on test images"][0] == 0
    assert finding.beside["at ρ = 0.1"][0] == pytest.approx(sign * 0.1)
    assert f"block{block + 1}" in finding.detail


def test_a_larger_rho_lowers_more() -> None:
    finding, _ = measured("vit-larger-rho-lower-rank", of_ranks(lambda rho, i, p: 100 * (1 - rho)))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.4 - 0.1))
    two = [run for run in of_ranks(lambda rho, i, p: 1.0) if run.rho != 0.1]
    assert measured("vit-larger-rho-lower-rank", two)[1].word == "no data here"


@pytest.mark.parametrize("group", [VIT, MIXER])
def test_matched_loss(group: str) -> None:
    """The loss alone decides the rank, and ρ how far it gets."""

    def values(rho: float, seed: int, step: int) -> dict[str, float]:
        loss = 2.0 ** -(step * (1 if rho else 2))
        return {TRAIN_LOSS: loss, POOL_RANK: 100 + 10 * math.log2(loss)}

    finding, _ = measured(f"{group}-rank-at-matched-loss", make_runs(values, group=group))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))
    assert finding.beside["at equal steps"][0] == pytest.approx(1 - 70 / 40)
    lost = make_runs(values, group=group, diverged=True)
    assert all(map(math.isnan, measured(f"{group}-rank-at-matched-loss", lost)[0].effects.values()))


def test_errors_at_a_chosen_rho_unless_the_grid_begins_too_high() -> None:
    def errors(best: float) -> list[Run]:
        def values(rho: float, seed: int, step: int) -> dict[str, float]:
            validation = 0.1 if rho == best else 0.2 + rho / 10
            return {TRAIN_LOSS: 2.0**-step, "validation/error": validation, "test/error": 0.5 - rho}

        return make_runs(values, group=MIXER)

    finding, _ = measured("mixer-test-error", errors(0.1))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.1))
    assert finding.beside["at ρ = 0.4"][0] == pytest.approx(0.4)
    # plain training is best, and the smallest ρ next: a smaller one might help
    _, verdict = measured("mixer-test-error", errors(0.0))
    assert verdict.word == "no data here"
    assert "the smallest ρ, 0.1, which does harm" in verdict.reason


def test_parts_of_sub_blocks() -> None:
    runs = of_ranks(growing)
    last = 4 * 10 + 2 * (2 - 1)  # after the last block in plain training
    expected = {
        "attention-raises-rank": 1.0,
        "attention-raises-less": 4 * 4 / last,
        "mlp-goes-both-ways": 0.5,
        "mlp-difference-larger": 0.0,
        "reduction-by-attention": 4 * 4 / last,
        "rank-grows-over-blocks": 1.0,
        "rank-starts-small": sum(
            1 - (12 - 10 * rho) / (42 - 40 * rho) for rho in (0.0, 0.1, 0.4)
        ) / 3,
    }  # fmt: skip
    for name, effect in expected.items():
        finding, _ = measured(name, runs)
        assert finding.effects == pytest.approx(dict.fromkeys(range(3), effect)), name
    assert "16.0 dimensions" in measured("reduction-by-attention", runs)[0].detail
    assert "10.0, 10.0, 10.0, 10.0 at ρ = 0" in measured("attention-raises-rank", runs)[0].detail


def test_a_reduction_by_the_mlps_is_not_attentions() -> None:
    def rank(rho: float, block: int, place: str) -> float:
        return 10 * block + (0 if place == "before-attention" else 5) + (
            5 - 5 * rho if place == "after-mlp" and block == 3 else 0
        )  # fmt: skip

    finding, verdict = measured("reduction-by-attention", of_ranks(rank))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), -2 / 40))
    assert verdict.word == "does not hold"


def test_no_reduction_is_none_of_attentions() -> None:
    """Attention adds less at larger ρ and the MLPs make up for it: R(last) stays."""

    def rank(rho: float, block: int, place: str) -> float:
        return 10 * (block + (place == "after-mlp")) + (10 - 10 * rho) * (
            place == "after-attention"
        )

    finding, _ = measured("reduction-by-attention", of_ranks(rank))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.0))
    less, _ = measured("attention-raises-less", of_ranks(rank))
    assert less.effects == pytest.approx(dict.fromkeys(range(3), 4 * 4 / 40))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("no-trend-after-attention", "attention-branch"),
        ("no-trend-after-gelus", "after-activation"),
    ],
)
def test_branches(name: str, place: str) -> None:
    def rank(rho: float, block: int, where: str) -> float:
        return 10 * (1 - rho * (block == 0)) if where == place else math.nan

    finding, verdict = measured(name, of_ranks(rank))
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.4 / 4))
    assert verdict.word == "does not hold"


def with_columns(values: dict[str, dict[float, float]]) -> list[Run]:
    """Runs whose columns depend on ρ alone."""
    return make_runs(lambda rho, seed, step: {c: v[rho] for c, v in values.items()}, group=VIT)


def rising(at_zero: float, at_top: float) -> dict[float, float]:
    return {0.0: at_zero, 0.1: (at_zero + at_top) / 2, 0.4: at_top}


def test_sparse_coordinates() -> None:
    runs = with_columns(
        {
            columns.sparse(block, place, against=against): rising(0.0, top)
            for block in BLOCKS
            for place, top in (("after-attention", 0.2), ("after-mlp", 0.4))
            for against in ("largest", "median")
        }
    )
    finding, verdict = measured("no-sparse-coordinates", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.3))
    assert verdict.word == "does not hold"
    assert finding.beside["in plain training"][0] == 0.0
    assert finding.resolution == 1 / (50 * 8)


@pytest.mark.parametrize(("top", "word"), [(1.0, "holds"), (0.6, "holds"), (0.2, "does not hold")])
def test_gelus_may_rise_but_not_fall(top: float, word: str) -> None:
    runs = with_columns(
        {
            columns.active(block, tokens, share): rising(0.6, top)
            for block in BLOCKS
            for tokens, share in (("class", 0.1), ("class", 0.05), ("rows", 0.1))
        }
    )
    finding, verdict = measured("gelus-stay-active", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.05 - (0.6 - top)))
    assert verdict.word == word


def test_the_start_is_alike() -> None:
    runs = with_columns(
        {
            columns.mean_energy("block1", "after-mlp", "class"): rising(0.9, 0.7),
            columns.mean_energy("block4", "after-mlp", "class"): rising(0.1, 0.1),
        }
    )
    finding, _ = measured("class-token-starts-alike", runs)
    assert finding.effects == pytest.approx(dict.fromkeys(range(3), 0.8))
    assert finding.beside["after the last block"][0] == pytest.approx(0.1)


def test_nothing_measured_is_no_data() -> None:
    runs = make_runs(lambda rho, seed, step: {}, group=VIT)
    assert {measured(name, runs)[1].word for name in CLAIMS} == {"no data here"}


def test_diverged_runs_are_never_dropped() -> None:
    rows = of_ranks(growing)
    for name in ("vit-rank-after-last", "attention-raises-rank", "reduction-by-attention"):
        runs = [
            dataclasses.replace(run, history={TRAIN_LOSS: [None]}, diverged=True)
            if (run.rho, run.seed) == (0.4, 1)
            else run
            for run in rows
        ]
        _, verdict = measured(name, runs)
        assert verdict.word == "cannot tell"
        assert "no finite effect" in verdict.reason


def both() -> Runs:
    extra = {
        **{columns.active(b, "class", 0.1): 0.5 for b in BLOCKS},
        **{
            columns.weights(b, part, what, of=of): 0.9
            for b in BLOCKS
            for part in ("attention", "mlp", "tokens", "channels")
            for what in ("threshold", "stable")
            for of in ("start", "end")
        },
    }
    return Runs([*of_ranks(growing, VIT, **extra), *of_ranks(growing, MIXER, **extra)])


def test_figures_have_a_line_per_rho_against_the_block() -> None:
    drawn = figures(both(), SETUP)
    assert [d.title.partition(" (")[2][:6] for d in drawn] == [
        *["Fig. 7"] * 3, *["Fig. 1"] * 7, ""
    ]  # fmt: skip
    first = drawn[0]
    assert [line.rho for line in first.lines] == [0.0, 0.1, 0.4]
    assert list(first.lines[2].y) == pytest.approx([6.0] * 4)
    assert list(drawn[1].lines[0].y) == pytest.approx([2, -1, 2, -1])
    assert list(drawn[5].lines[0].y) == pytest.approx([12, 21, 33, 42])


def test_tables_have_every_place_token_and_centring() -> None:
    ranks, weights = tables(both(), SETUP)
    assert len(ranks.rows) == 2 * 3 * 2 * 2
    assert {len(row) for row in ranks.rows} == {len(ranks.head)}
    assert ranks.rows[0][-3:] == [42.0, 26.0, "-38%"]
    assert {len(row) for row in weights.rows} == {len(weights.head)}
    assert len(weights.rows) == 2 * 4 * 2 * 2
