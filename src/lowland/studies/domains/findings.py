"""Effects per seed: errors of plain training minus those of SAM, over the domains left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lowland.studies.domains import columns
from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import Tuned, differences

Of = Callable[[Tuned], Effects]

MATCHED = "at matched train loss"


def gain(runs: Runs, groups: Sequence[str], column: str) -> Finding:
    """The gain in a column, mean over the domains left out; at matched loss and inside beside."""
    tuned = _tuned(runs, groups)
    beside = {
        "on the training domains": _mean(tuned, lambda t: _fall(t, columns.INSIDE)),
        "with ρ chosen on the domain left out (oracle)": _mean(
            _tuned(runs, groups, by=columns.OUTSIDE), lambda t: _fall(t, column)
        ),
    }
    if column == columns.OUTSIDE:
        beside[MATCHED] = _mean(tuned, lambda t: _at_equal_loss(t, column))
    return Finding(
        effects=_mean(tuned, lambda t: _fall(t, column)),
        detail=f"{_errors(tuned, column)}{_choices(tuned)}",
        beside=beside,
    )


def more_outside(runs: Runs, groups: Sequence[str]) -> Finding:
    """The gain on the domain left out minus that on the training domains."""
    tuned = _tuned(runs, groups)

    def difference(one: Tuned) -> Effects:
        outside, inside = (_fall(one, c) for c in (columns.OUTSIDE, columns.INSIDE))
        return {s: outside[s] - inside[s] for s in outside}

    def matched(one: Tuned) -> Effects:
        return differences(*(_at_equal_loss(one, c) for c in (columns.OUTSIDE, columns.INSIDE)))

    return Finding(
        effects=_mean(tuned, difference),
        detail=_errors(tuned, columns.INSIDE),
        beside={MATCHED: _mean(tuned, matched)},
    )


def retraining(runs: Runs, groups: Sequence[str]) -> Finding:
    """What training the last layer again gains over plain training, and with SAM beside."""
    tuned = _tuned(runs, groups)

    def plain(one: Tuned) -> Effects:
        before, after = (one.plain(c) for c in (columns.OUTSIDE, columns.RETRAINED))
        return {s: before[s] - after[s] for s in before}

    def with_sam(one: Tuned) -> Effects:
        before, after = (one.values(c) for c in (columns.OUTSIDE, columns.RETRAINED))
        return {s: before[s] - after[s] for s in before}

    return Finding(
        effects=_mean(tuned, plain),
        detail=_errors(tuned, columns.RETRAINED),
        beside={"on SAM's features": _mean(tuned, with_sam)},
    )


def _tuned(runs: Runs, groups: Sequence[str], by: str = columns.INSIDE) -> dict[str, Tuned]:
    if not groups:
        raise NotMeasuredError("the data have no such domains")
    return {group: Tuned.of(runs, group, by=by) for group in groups}


def _mean(tuned: Mapping[str, Tuned], of: Of) -> Effects:
    """Mean by seed over the domains left out, each with its own ρ."""
    each = [of(one) for one in tuned.values()]
    seeds = [s for s in each[0] if all(s in other for other in each)]
    return {s: mean([effects[s] for effects in each]) for s in seeds}


def _fall(tuned: Tuned, column: str) -> Effects:
    before, after = tuned.plain(column), tuned.values(column)
    return {s: before[s] - after[s] for s in before}


def _at_equal_loss(tuned: Tuned, column: str) -> Effects:
    """The gain where both first reach the lowest train loss that both reach; NaN without one."""
    return tuned.gain_at_equal_loss(column, loss=columns.TRAIN_LOSS)


def _choices(tuned: Mapping[str, Tuned]) -> str:
    """What was chosen, over all domains left out and seeds, as a sentence to append."""
    every = [rho for one in tuned.values() for rho in one.chosen.values()]
    counts = {rho: every.count(rho) for rho in sorted(set(every))}
    words = ", ".join(f"{rho:g} ({n} of {len(every)} choices)" for rho, n in counts.items())
    return (
        f" Chosen for each domain left out on the training domains of the other seeds: ρ = {words}."
    )


def _errors(tuned: Mapping[str, Tuned], column: str) -> str:
    words = []
    for group, one in tuned.items():
        plain, sam = (mean(list(v.values())) for v in (one.plain(column), one.values(column)))
        words.append(f"{group} {plain:.1%} and {sam:.1%}")
    return f"Errors of plain training and SAM, by domain left out: {', '.join(words)}."
