"""Effects that several experiments are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lowland.studies.effects import mean
from lowland.studies.runs import NotMeasuredError
from lowland.studies.study import Effects


def told_by_others(
    by_label: Mapping[str, Effects],
    *,
    size: Callable[[float], float] = float,
    largest: bool = True,
) -> Effects:
    """Per seed, the effect of the label that is extreme in the mean over the *other* seeds.

    The extreme of a seed's own effects would be extreme by luck alone.

    Args:
        by_label: effects by label and seed.
        size: what is compared of a mean.
        largest: the largest, or the smallest.

    Raises:
        NotMeasuredError: there are no two seeds that all labels have.
    """
    choose = max if largest else min
    seeds = sorted(set.intersection(*(set(effects) for effects in by_label.values())))
    if len(seeds) < 2:
        raise NotMeasuredError("one seed cannot tell which is extreme")
    found = {}
    for seed in seeds:
        means = {
            label: size(mean([value for s, value in effects.items() if s != seed]))
            for label, effects in by_label.items()
        }
        found[seed] = by_label[choose(means, key=lambda label: means[label])][seed]
    return found
