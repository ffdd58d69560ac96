"""Probing error of each feature, over training and at its end.

Over training: one L2 probe at one C, thousands of times; the examples that it is fitted to have
every joint value of the features equally often, so that no balancing is needed and a probe of one
feature gains nothing by the other. At the end also the probe of last-layer retraining: L1, the C
of seven that is best for the worst group of a held-out fifth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowland.measure import linear_probe
from lowland.measure.probes.linear import DFR_C, LinearProbe
from lowland.studies.effects import mean

C = 1.0
"""The largest value of last-layer retraining, on standardised features. Of 1, 0.1, 0.01 and 0.001
it has the lowest errors, and those nearest to the best of seven with L1: within a point, where that
takes forty times as long and more (on seeds from 1000 on)."""

STRONG_C = 0.01
"""The smallest: a strong penalty, under which only what is large in the features is found."""

TOLERANCE = 1e-3
"""A certified 0.1% of the objective changes errors by less than one test example."""

DFR_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Probed:
    """Features of some examples, and what the examples show.

    Attributes:
        features: (n, d).
        notes: feature -> (n,).
        groups: (n,) joint values.
    """

    features: Tensor
    notes: Mapping[str, Tensor]
    groups: Tensor

    def select(self, rows: Tensor) -> Probed:
        """These examples."""
        notes = {name: values[rows] for name, values in self.notes.items()}
        return Probed(self.features[rows], notes, self.groups[rows])


def probing_errors(
    feature: str, fitted: Probed, *asked: Probed, weight: float = C, equally: bool = False
) -> list[float]:
    """The error of an L2 probe of a feature on each of several sets of examples.

    Args:
        feature: which.
        fitted: examples with every joint value equally often.
        asked: where errors are measured.
        weight: C, of the loss against the penalty.
        equally: the mean over the groups of what is asked, however often they are, in place of the
            mean over examples: where features go together in a test set, the latter has little
            of the groups in which they disagree.

    Cost: about 20 ms at n = 1,700, d = 64.
    """
    first = asked[0]
    probe = linear_probe(
        fitted.features,
        fitted.notes[feature],
        first.features,
        first.notes[feature],
        C=weight,
        tolerance=TOLERANCE,
    )
    if not equally:
        return [probe.value, *(_error(probe, part, feature) for part in asked[1:])]
    return [
        mean(
            [
                _error(probe, part.select(part.groups == g), feature)
                for g in set(part.groups.tolist())
            ]
        )
        for part in asked
    ]


def _error(probe: LinearProbe, part: Probed, feature: str) -> float:
    wrong = probe.predict(part.features) != part.notes[feature].cpu()
    return float(wrong.double().mean())


def dfr_error(feature: str, fitted: Probed, asked: Probed) -> float:
    """The error of the probe of last-layer retraining of a feature, from one balanced draw.

    Cost: about 0.8 s at n = 1,700, d = 64.
    """
    found = linear_probe(
        fitted.features,
        fitted.notes[feature],
        asked.features,
        asked.notes[feature],
        C=DFR_C,
        penalty="l1",
        validation=0.2,
        choose="worst group",
        train_groups=fitted.groups,
        test_groups=asked.groups,
        balance=1,
        tolerance=DFR_TOLERANCE,
    ).chosen.groups
    assert found is not None  # test groups were given
    return found.averages["groups equally"]
