"""Effects per seed of the claims on size, label noise, sparsity and regularisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowland.studies.effects import mean
from lowland.studies.overparam.arms import Arm, Measured, shown
from lowland.studies.overparam.columns import TEST, VALIDATION
from lowland.studies.overparam.gains import average, early_stopped, slopes
from lowland.studies.overparam.slopes import STEP, best_radius, largest_weight
from lowland.studies.runs import NotMeasuredError, Runs
from lowland.studies.study import Effects, Finding
from lowland.studies.tuned import Read, Tuned, at_end, differences

MATCHED = "at matched train loss"

Places = Sequence[tuple[int, str]]
"""Parameters and group of networks, ascending."""


def ran(runs: Runs, places: Places) -> Places:
    """Those that have runs.

    Raises:
        NotMeasuredError: fewer than two sizes.
    """
    found = [place for place in places if runs.radii(place[1])]
    if len(found) < 2:
        raise NotMeasuredError("fewer than two sizes ran")
    return found


def growth(runs: Runs, places: Places, of: Callable[[str], Effects]) -> Effects:
    """Per seed the slope of an effect of a group on log₁₀ of the number of parameters."""
    found = ran(runs, places)
    return slopes([math.log10(n) for n, _ in found], [of(group) for _, group in found])


def smallest_step(runs: Runs, places: Places, value: float) -> float:
    """The smallest step of a slope on size whose values move in steps of `value`."""
    x = [math.log10(n) for n, _ in ran(runs, places)]
    return value * largest_weight(x)


def gain_growth(
    runs: Runs,
    places: Places,
    read: Read = at_end,
    column: str = VALIDATION,
    *,
    or_none: bool = False,
) -> Effects:
    """Growth of the gain at the ρ that is chosen at each size."""
    return growth(runs, places, lambda g: Tuned.of(runs, g, read, or_none=or_none).gain(column))


def matched_growth(runs: Runs, places: Places) -> Effects:
    """Growth of the gain where SGD and SAM first reach the lowest train loss that both reach."""
    return growth(runs, places, lambda g: Tuned.of(runs, g).gain_at_equal_loss())


def gain_grows(runs: Runs, what: Measured) -> Finding:
    """The gain on clean labels; other noises, times and choices beside."""
    clean = what.dense(0.0)

    def relative(group: str) -> Effects:
        tuned = Tuned.of(runs, group)
        plain, gain = tuned.plain(VALIDATION), tuned.gain()
        return {s: gain[s] / plain[s] if plain[s] else math.nan for s in gain}

    return Finding(
        effects=gain_growth(runs, clean),
        detail=f"Gain in points by hidden layers: {_gains(runs, clean)}.{_edge(runs, clean)}",
        resolution=smallest_step(runs, clean, 1 / what.validation),
        beside={
            "on test images": gain_growth(runs, clean, column=TEST),
            "with early stopping": gain_growth(runs, clean, early_stopped),
            MATCHED: matched_growth(runs, clean),
            "relative to SGD's error": growth(runs, clean, relative),
            "ρ = 0 may be chosen too": gain_growth(runs, clean, or_none=True),
            **{
                f"label noise {noise:.0%}": gain_growth(runs, what.dense(noise))
                for noise in what.noises[1:]
            },
        },
    )


def _gains(runs: Runs, places: Places, read: Read = at_end) -> str:
    words = []
    for _, group in ran(runs, places):
        gain = Tuned.of(runs, group, read).gain()
        words.append(f"{_hidden(group)} {100 * mean(list(gain.values())):.2f}")
    return ", ".join(words)


def _edge(
    runs: Runs, places: Places, among: Sequence[float] | None = None, of: str = "the grid"
) -> str:
    """How often the choice was the largest ρ there is: a gain there may be too small."""
    tuned = [Tuned.of(runs, group, among=among) for _, group in places if runs.radii(group)]
    if not tuned:
        return ""
    most, cases = sum(one.at_edge for one in tuned), sum(len(one.chosen) for one in tuned)
    beyond = "; a larger one may gain more" if most else ""
    return f" The largest ρ of {of}, {tuned[0].largest:g}, was chosen in {most} of {cases}{beyond}."


def _hidden(group: str) -> str:
    return group.partition(",")[0].removeprefix("mlp ")


def radius_growth(runs: Runs, places: Places, read: Read = at_end) -> Effects:
    """Per seed the slope of log₁₀ ρ* on log₁₀ of the number of parameters."""
    return growth(runs, places, lambda group: best_radii(runs, group, read))


def best_radii(runs: Runs, group: str, read: Read = at_end) -> Effects:
    """log₁₀ ρ* of every seed's own validation errors."""
    rhos = runs.rhos(group)
    return {
        s: best_radius({rho: read(runs.run(group, rho, s), VALIDATION) for rho in rhos})
        for s in runs.seeds(group)
    }


def radius_grows(runs: Runs, what: Measured) -> Finding:
    """The best ρ on clean labels, other noises and early stopping beside."""
    clean = what.dense(0.0)
    if min(len(runs.rhos(group)) for _, group in ran(runs, clean)) < 3:
        raise NotMeasuredError("which ρ is best needs two values above 0")
    words, none, most = [], 0, 0
    for _, group in ran(runs, clean):
        best = list(best_radii(runs, group).values())
        words.append(f"{_hidden(group)} {10 ** mean(best):.2g}")
        none += sum(_plain_is_best(runs, group, s) for s in runs.seeds(group))
        most += sum(_largest_is_best(runs, group, s) for s in runs.seeds(group))
    return Finding(
        effects=radius_growth(runs, clean),
        detail=(
            f"Geometric means of ρ* by hidden layers: {', '.join(words)}. Plain training was best "
            f"in {none} cases, which count as half the smallest ρ; the largest ρ was in {most}, "
            "where a larger one may be better."
        ),
        resolution=smallest_step(runs, clean, math.log10(STEP)),
        beside={
            "with early stopping": radius_growth(runs, clean, early_stopped),
            **{
                f"label noise {noise:.0%}": radius_growth(runs, what.dense(noise))
                for noise in what.noises[1:]
            },
        },
    )


def _plain_is_best(runs: Runs, group: str, seed: int) -> bool:
    errors = [runs.final(group, rho, seed, VALIDATION) for rho in runs.rhos(group)]
    return errors[0] < min(errors[1:])


def _largest_is_best(runs: Runs, group: str, seed: int) -> bool:
    errors = [runs.final(group, rho, seed, VALIDATION) for rho in runs.rhos(group)]
    return errors[-1] < min(errors[:-1])


def noise_gain(runs: Runs, what: Measured) -> Finding:
    """Gain of the largest network with the most label noise minus the gain without."""

    def of(noise: float, read: Read = at_end, column: str = VALIDATION) -> Effects:
        return Tuned.of(runs, Arm(hidden=what.widest, noise=noise).group, read).gain(column)

    def matched(noise: float) -> Effects:
        return Tuned.of(runs, Arm(hidden=what.widest, noise=noise).group).gain_at_equal_loss()

    most = what.noises[-1]
    return Finding(
        effects=differences(of(most), of(0.0)),
        detail=f"Gain in points with {most:.0%} wrong labels, by hidden layers: "
        f"{_gains(runs, what.dense(most))}.{_edge(runs, what.dense(most))}",
        resolution=1 / what.validation,
        beside={
            "on test images": differences(of(most, column=TEST), of(0.0, column=TEST)),
            "with early stopping": differences(of(most, early_stopped), of(0.0, early_stopped)),
            MATCHED: differences(matched(most), matched(0.0)),
            **{
                f"label noise {noise:.0%}": differences(of(noise), of(0.0))
                for noise in what.noises[1:-1]
                if runs.radii(Arm(hidden=what.widest, noise=noise).group)
            },
        },
    )


def noise_growth(runs: Runs, what: Measured) -> Finding:
    """Slope of the gain on size with the most label noise minus the slope without."""

    def of(noise: float, read: Read = at_end, column: str = VALIDATION) -> Effects:
        return gain_growth(runs, what.dense(noise), read, column)

    most = what.noises[-1]
    return Finding(
        effects=differences(of(most), of(0.0)),
        resolution=smallest_step(runs, what.dense(0.0), 1 / what.validation),
        beside={
            "on test images": differences(of(most, column=TEST), of(0.0, column=TEST)),
            "with early stopping": differences(of(most, early_stopped), of(0.0, early_stopped)),
            MATCHED: differences(
                matched_growth(runs, what.dense(most)), matched_growth(runs, what.dense(0.0))
            ),
        },
    )


def sparse_gain(runs: Runs, what: Measured, mask: str) -> Finding:
    """Gain of masked large networks minus that of dense ones with as many active weights."""

    def both(sparsity: float, read: Read = at_end) -> tuple[Tuned, Tuned]:
        arm = Arm(hidden=what.widest, mask=mask, sparsity=sparsity)
        groups = (arm.group, Arm(hidden=what.twin(sparsity)).group)
        masked, dense = (Tuned.of(runs, g, read, among=what.sparse_radii) for g in groups)
        return masked, dense

    def of(sparsity: float, read: Read = at_end, column: str = VALIDATION) -> Effects:
        return differences(*(one.gain(column) for one in both(sparsity, read)))

    def matched(sparsity: float) -> Effects:
        return differences(*(one.gain_at_equal_loss() for one in both(sparsity)))

    def over_wide(sparsity: float) -> Effects:
        arm = Arm(hidden=what.widest, mask=mask, sparsity=sparsity)
        wide = Tuned.of(runs, Arm(hidden=what.widest).group, among=what.sparse_radii)
        return differences(Tuned.of(runs, arm.group).gain(), wide.gain())

    every = list(what.sparsities)
    masked = [(0, Arm(hidden=what.widest, mask=mask, sparsity=s).group) for s in every]
    dense = [(0, Arm(hidden=what.twin(s)).group) for s in every]
    twins = ", ".join(f"{s:.0%}: {shown(what.twin(s))}" for s in every)
    return Finding(
        effects=average([of(s) for s in every]),
        detail=f"Dense networks of as many active weights by sparsity: {twins}."
        + _edge(runs, masked, what.sparse_radii, "the masked networks")
        + _edge(runs, dense, what.sparse_radii, "the dense ones"),
        resolution=1 / what.validation / len(every),
        beside={
            **{f"sparsity {s:.0%}": of(s) for s in every},
            "on test images": average([of(s, column=TEST) for s in every]),
            "with early stopping": average([of(s, early_stopped) for s in every]),
            MATCHED: average([matched(s) for s in every]),
            "against the large network, dense": average([over_wide(s) for s in every]),
        },
    )


def _cells(what: Measured) -> dict[str, tuple[bool, Read]]:
    """Weight decay and time of the four ways to regularise, none first."""
    return {
        "neither": (False, at_end),
        "weight decay": (True, at_end),
        "early stopping": (False, early_stopped),
        "both": (True, early_stopped),
    }


def regularised_gain(runs: Runs, what: Measured) -> Finding:
    """Gain of the largest network with either regularisation minus the gain with neither."""
    noise = what.noises[-1]

    def of(cell: str, column: str = VALIDATION) -> Effects:
        decay, read = _cells(what)[cell]
        group = Arm(hidden=what.regularised[-1], noise=noise, decay=decay).group
        return Tuned.of(runs, group, read).gain(column)

    def matched(decay: bool) -> Effects:
        arm = Arm(hidden=what.regularised[-1], noise=noise, decay=decay)
        return Tuned.of(runs, arm.group).gain_at_equal_loss()

    means = ", ".join(f"{cell} {100 * mean(list(of(cell).values())):.2f}" for cell in _cells(what))
    return Finding(
        effects=_either(of),
        detail=f"Gain in points: {means}.",
        resolution=0.5 / what.validation,
        beside=_against_neither(of, matched),
    )


def regularised_growth(runs: Runs, what: Measured) -> Finding:
    """Slope of the gain on size with either regularisation minus the slope with neither."""
    noise = what.noises[-1]
    sizes = [(what.count(h), h) for h in what.regularised]

    def places(decay: bool) -> Places:
        return [(n, Arm(hidden=h, noise=noise, decay=decay).group) for n, h in sizes]

    def of(cell: str, column: str = VALIDATION) -> Effects:
        decay, read = _cells(what)[cell]
        return gain_growth(runs, places(decay), read, column)

    means = ", ".join(f"{cell} {100 * mean(list(of(cell).values())):.2f}" for cell in _cells(what))
    return Finding(
        effects=_either(of),
        detail=f"Slopes in points for ten times the parameters: {means}.",
        resolution=smallest_step(runs, places(False), 0.5 / what.validation),
        beside=_against_neither(of, lambda decay: matched_growth(runs, places(decay))),
    )


def _either(of: Callable[..., Effects]) -> Effects:
    return differences(average([of("weight decay"), of("early stopping")]), of("neither"))


def _against_neither(
    of: Callable[..., Effects], matched: Callable[[bool], Effects]
) -> dict[str, Effects]:
    cells = ("weight decay", "early stopping", "both")
    either = average([of("weight decay", TEST), of("early stopping", TEST)])
    return {
        **{cell: differences(of(cell), of("neither")) for cell in cells},
        "on test images": differences(either, of("neither", TEST)),
        f"weight decay, {MATCHED}": differences(matched(True), matched(False)),
    }
