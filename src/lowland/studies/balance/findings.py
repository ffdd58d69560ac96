"""Effects of the study, one per seed, in shares of one: errors of probes and of groups.

"At equal train loss" is where either run first has the lowest train loss that both reach
(interpolated in log loss); everything else is at the end, after equally many updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from lowland.studies.balance import columns
from lowland.studies.balance.columns import Setting, Setup, group_of
from lowland.studies.balance.paired import (
    Pairs,
    at_rho,
    by_oracle,
    by_validation,
    means_at_equal_losses,
    or_none,
    values_at_equal_loss,
    without_empty,
)
from lowland.studies.effects import kendall, mean
from lowland.studies.runs import NotMeasuredError, Run, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import differences

GROUPS = 4
"""Joint values of two features, each of two values."""


def falls(runs: Runs, setup: Setup, network: str, setting: Setting) -> Finding:
    """Hard-feature probe error of plain training on both features minus that on the hard alone."""
    if setup.alone is None:
        raise NotMeasuredError(
            f"{setup.kind} cannot be had with the hard feature alone: use dominoes"
        )
    both, alone = group_of(network, setting), group_of(network, setup.alone)
    seeds = sorted(set(runs.whole_seeds(both, [0.0])) & set(runs.whole_seeds(alone, [0.0])))
    pairs = {s: (runs.run(both, 0.0, s), runs.run(alone, 0.0, s)) for s in seeds}
    if not pairs:
        raise NotMeasuredError("no seed was trained on both features and on the hard one alone")

    def more(of: Callable[[Run], float]) -> Effects:
        return {seed: of(one) - of(other) for seed, (one, other) in pairs.items()}

    def matched() -> Effects:
        found = {}
        for seed, (one, other) in pairs.items():
            values = values_at_equal_loss(one, other, columns.HARD)
            found[seed] = math.nan if values is None else values[0] - values[1]
        return found

    means = [mean([pair[k].final(columns.HARD) for pair in pairs.values()]) for k in (0, 1)]
    return Finding(
        effects=more(lambda run: run.final(columns.HARD)),
        detail=f"Mean probe error {means[0]:.1%} with both features, {means[1]:.1%} with the hard "
        "one alone.",
        resolution=1 / setup.test_images,
        beside=without_empty(
            {
                "at equal train loss": or_none(matched),
                "before training, by the inputs alone": or_none(
                    lambda: more(lambda run: run.start(columns.HARD))
                ),
            }
        ),
    )


def improves(runs: Runs, setup: Setup, network: str, setting: Setting) -> Finding:
    """Hard-feature probe error of plain training minus SAM's, at the ρ that validation chooses."""
    group = group_of(network, setting)
    pairs = by_validation(runs, group)
    beside = {
        "at equal train loss": or_none(lambda: pairs.fall_at_equal_loss(columns.HARD)),
        "the simple feature": pairs.fall(columns.EASY),
        "the simple feature, at equal train loss": or_none(
            lambda: pairs.fall_at_equal_loss(columns.EASY)
        ),
        "by a probe with C = 0.01 in place of 1": or_none(lambda: pairs.fall(columns.HARD_STRONG)),
        "by last-layer retraining's probe": or_none(lambda: pairs.fall(columns.HARD_DFR)),
        "at the ρ of an oracle, chosen on balanced validation data": or_none(
            lambda: by_oracle(runs, group, columns.ORACLE_PROBE).fall(columns.HARD)
        ),
        **_every_rho(runs, group, columns.HARD),
    }
    means = [mean([f(s).final(columns.HARD) for s in pairs.seeds]) for f in _arms(pairs)]
    return Finding(
        effects=pairs.fall(columns.HARD),
        detail=f"Mean probe error of the hard feature {means[0]:.1%} in plain training, "
        f"{means[1]:.1%} with SAM.{pairs.how}",
        resolution=1 / setup.test_images,
        beside=without_empty(beside),
    )


def worst_group(runs: Runs, setup: Setup, network: str, setting: Setting) -> Finding:
    """Worst-group test error of plain training minus SAM's, at the ρ that validation chooses."""
    group = group_of(network, setting)
    pairs = by_validation(runs, group)
    beside = {
        "at equal train loss": or_none(lambda: pairs.fall_at_equal_loss(columns.WORST)),
        "all test images" if setting.name == columns.GIVEN else "the mean over groups": pairs.fall(
            columns.TEST
        ),
        "at the ρ of an oracle, chosen on balanced validation data": or_none(
            lambda: by_oracle(runs, group, columns.ORACLE_WORST).fall(columns.WORST)
        ),
        **_every_rho(runs, group, columns.WORST),
    }
    means = [mean([f(s).final(columns.WORST) for s in pairs.seeds]) for f in _arms(pairs)]
    return Finding(
        effects=pairs.fall(columns.WORST),
        detail=f"Mean worst-group error {means[0]:.1%} in plain training, {means[1]:.1%} with "
        f"SAM.{pairs.how}",
        resolution=GROUPS / setup.test_images,
        beside=without_empty(beside),
    )


def suppresses(runs: Runs, setup: Setup, network: str, setting: Setting) -> Finding:
    """Share of the hard feature in the gradient: SAM's minus plain training's, at equal losses."""
    _over_time(setup)
    group = group_of(network, setting)
    pairs = by_validation(runs, group)
    shares = [
        mean([mean(run(s).curve(columns.SHARE)[1:]) for s in pairs.seeds]) for run in _arms(pairs)
    ]
    largest = at_rho(runs, group, runs.rhos(group)[-1])
    return Finding(
        effects=_share_gains(pairs),
        detail=f"Mean share of the hard feature over all evaluations after the first "
        f"{shares[0]:.1%} in plain training, {shares[1]:.1%} with SAM.{pairs.how}",
        beside=without_empty(
            {
                "at the same weights, w + ε against w": _at_same_weights(pairs),
                "at the same weights, largest ρ": _at_same_weights(largest),
                "at equal losses, largest ρ": _share_gains(largest),
            }
        ),
    )


def _over_time(setup: Setup) -> None:
    if not setup.over_time:
        raise NotMeasuredError(
            "gradients are taken apart over training in small networks alone: give digit-dominoes"
        )


def _share_gains(pairs: Pairs) -> Effects:
    """SAM's minus plain training's at equal losses; NaN where no loss is reached by both."""
    found = {}
    for seed in pairs.seeds:
        values = means_at_equal_losses(pairs.plain(seed), pairs.sam(seed), columns.SHARE)
        found[seed] = math.nan if values is None else values[1] - values[0]
    return found


def _at_same_weights(pairs: Pairs) -> Effects:
    return {seed: mean(_shifts(pairs.sam(seed))) for seed in pairs.seeds}


def _shifts(run: Run) -> list[float]:
    """What w + ε in place of w does to the share of the hard feature, after the first time."""
    there, here = (run.curve(column) for column in (columns.SHARE, columns.SHARE_HERE))
    return [b - a for a, b in zip(here, there, strict=True)][1:]


def adaptive(runs: Runs, setup: Setup, network: str) -> Finding:
    """Kendall's τ over training of how well the simple feature is used and how far it is held back.

    The mean over settings, at the largest ρ.
    """

    def tau(run: Run) -> float:
        return kendall(run.curve(columns.EASY_EFFECT)[1:], _shifts(run))

    _over_time(setup)
    groups = [group_of(network, setting) for setting in setup.settings]
    by_group = {
        group: {s: tau(runs.run(group, runs.rhos(group)[-1], s)) for s in runs.seeds(group)}
        for group in groups
    }
    return _mean_over(by_group, "τ")


def balances(runs: Runs, setup: Setup, network: str) -> Finding:
    """Fall of the gap between the probe errors of both features, the mean over settings."""
    tuned = {g: by_validation(runs, g) for g in (group_of(network, s) for s in setup.settings)}

    def gaps(fall: Callable[[Pairs, str], Effects]) -> dict[str, Effects]:
        return {
            group: differences(fall(pairs, columns.HARD), fall(pairs, columns.EASY))
            for group, pairs in tuned.items()
        }

    def matched() -> Effects:
        return _mean_by_seed(gaps(Pairs.fall_at_equal_loss))

    found = _mean_over(gaps(Pairs.fall), "fall of the gap")
    beside = {"at equal train loss": or_none(matched), **found.beside}
    return Finding(effects=found.effects, beside=without_empty(beside))


def _mean_over(by_group: Mapping[str, Effects], word: str) -> Finding:
    """The mean over groups as the effect, each group beside."""
    return Finding(
        effects=_mean_by_seed(by_group),
        beside={f"{word}: {group}": effects for group, effects in by_group.items()}
        if len(by_group) > 1
        else {},
    )


def _mean_by_seed(by_group: Mapping[str, Effects]) -> Effects:
    seeds = sorted(set.intersection(*(set(effects) for effects in by_group.values())))
    return {s: mean([effects[s] for effects in by_group.values()]) for s in seeds}


def published_data(runs: Runs, setup: Setup, kind: str, place: str) -> Finding:
    """`improves` on the data that the paper names, where they are what the study runs on."""
    if setup.kind != kind:
        raise NotMeasuredError(f"not on {setup.kind}: give --data {place}")
    return improves(runs, setup, next(iter(setup.networks)), setup.settings[0])


def _every_rho(runs: Runs, group: str, column: str) -> dict[str, Effects]:
    return {f"ρ = {rho:g}": at_rho(runs, group, rho).fall(column) for rho in runs.rhos(group)[1:]}


def _arms(pairs: Pairs) -> tuple[Callable[[int], Run], Callable[[int], Run]]:
    return pairs.plain, pairs.sam
