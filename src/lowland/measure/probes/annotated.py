"""Feature probing error: which of several annotated features can be read off a representation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.features.labels import whole_labels
from lowland.measure.probes.design import whole_matrix
from lowland.measure.probes.groups import GroupErrors
from lowland.measure.probes.labels import joint_groups
from lowland.measure.probes.linear import DFR_C, MAX_READS, TOLERANCE, LinearProbe, linear_probe
from lowland.measure.probes.objective import Penalty

BALANCE = 10


@dataclass(frozen=True, kw_only=True)
class FeatureProbes(Measurement):
    """Probing errors of several annotated features; the value is their mean.

    Attributes:
        errors: annotation -> its test error, all groups weighed equally.
        uncertainties: annotation -> standard error of that: √(Σ e(1 - e)/n over groups)/groups.
        probes: annotation -> the probe, with errors by joint group.
        groups: how many joint groups there are in training.
    """

    errors: dict[str, float]
    uncertainties: dict[str, float]
    probes: dict[str, LinearProbe]
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, without coefficients."""
        plain = {name: value for name, value in super().to_dict().items() if name != "probes"}
        return plain | {"probes": {name: probe.to_dict() for name, probe in self.probes.items()}}


def feature_probes(
    features: Any,
    annotations: Mapping[str, Any],
    test_features: Any,
    test_annotations: Mapping[str, Any],
    *,
    C: float | Sequence[float] = DFR_C,
    penalty: Penalty = "l1",
    standardize: Literal["train", "none"] = "train",
    validation: float = 0.2,
    balance: int = BALANCE,
    tolerance: float = TOLERANCE,
    max_reads: int = MAX_READS,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FeatureProbes:
    """The probing error of every annotated feature, with the annotations made independent.

    For each annotation a linear probe predicts it from the features. Examples are drawn so that
    every joint group (a combination of values of all annotations) has equally many: a probe of one
    annotation cannot then score through another that goes with it. Coefficients are averaged over
    `balance` draws, and the error weighs all groups of the test examples equally. Defaults are
    those of last-layer retraining: standardised features, L1, seven values of C chosen by the
    worst group of a held-out share (methods of arXiv 2204.02937 and 2405.20439; what the latter
    used in detail is not published).

    Args:
        features: (n, …) training features.
        annotations: name -> (n,) whole numbers, for example ``{"digit": …, "colour": …}``.
        test_features: features to measure the errors on.
        test_annotations: the same names for them.
        C: one value or several.
        penalty: "l1" or "l2".
        standardize: "train" or "none".
        validation: share of every group that C is chosen on, where there are several.
        balance: group-balanced draws, at least 1.
        tolerance: largest certified (F - min F)/F.
        max_reads: reads of the features at most, for each annotation.
        seed: of splits and draws.
        device: where to compute.

    Cost: as `linear_probe` with `balance` refits, for each annotation.

    Raises:
        InputError: an annotation with one value, names that do not match, a combination of values
            without training examples, or no balance.

    >>> x = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] * 8
    >>> notes = {"first": [0, 0, 1, 1] * 8, "second": [0, 1, 0, 1] * 8}
    >>> feature_probes(x, notes, x, notes, C=10.0, balance=1).errors
    {'first': 0.0, 'second': 0.0}
    """
    start = time.perf_counter()
    if balance < 1:
        raise InputError("balance: probes of several annotations need at least 1 balanced draw")
    if not annotations or set(annotations) != set(test_annotations):
        raise InputError(
            f"annotations: {sorted(annotations)} in training and {sorted(test_annotations)} in "
            "test; give the same names, at least one"
        )
    known, asked = whole_matrix(features, "features"), whole_matrix(test_features, "test_features")
    notes = {name: whole_labels(v, len(known), name) for name, v in annotations.items()}
    test_notes = {
        name: whole_labels(test_annotations[name], len(asked), f"test {name}") for name in notes
    }
    groups = _joint(notes, test_notes, len(known))
    several = isinstance(C, Sequence) and len(C) > 1
    probes = {
        name: linear_probe(
            known,
            notes[name],
            asked,
            test_notes[name],
            C=C,
            penalty=penalty,
            standardize=standardize,
            validation=validation if several else None,
            choose="worst group" if several else "error",
            train_groups=groups[: len(known)],
            test_groups=groups[len(known) :],
            balance=balance,
            tolerance=tolerance,
            max_reads=max_reads,
            seed=seed,
            device=device,
        )
        for name in notes
    }
    by_group = {name: _grouped(probe) for name, probe in probes.items()}
    errors = {name: found.averages["groups equally"] for name, found in by_group.items()}
    return FeatureProbes(
        name="feature_probes",
        value=sum(errors.values()) / len(errors),
        definition=(
            f"mean over {len(errors)} annotations of the test error, groups equally, of a linear "
            f"probe on draws with equally many examples of every joint group ({penalty.upper()}, "
            f"mean of {balance} fits)"
        ),
        n=len(asked),
        dtype="float64",
        seconds=time.perf_counter() - start,
        converged=all(probe.converged for probe in probes.values()),
        seed=seed,
        errors=errors,
        uncertainties={name: _spread(found) for name, found in by_group.items()},
        probes=probes,
        groups=len(torch.unique(groups[: len(known)])),
    )


def _grouped(probe: LinearProbe) -> GroupErrors:
    found = probe.chosen.groups
    assert found is not None  # test groups were given
    return found


def _spread(found: GroupErrors) -> float:
    """The binomial standard error of the mean over groups."""
    variance = sum(group.error * (1 - group.error) / group.n for group in found.groups)
    return float(variance**0.5 / len(found.groups))


def _joint(
    notes: Mapping[str, torch.Tensor], test_notes: Mapping[str, torch.Tensor], n: int
) -> torch.Tensor:
    """Joint groups of training and then test examples, numbered alike."""
    for name, values in notes.items():
        if len(torch.unique(values)) < 2:
            raise InputError(
                f"{name}: {int(values[0])} for all {len(values)} training examples; leave the "
                "annotation out, or give examples with another value"
            )
    groups = joint_groups(*(torch.cat([notes[name], test_notes[name]]) for name in notes))
    combinations = 1
    for values in notes.values():
        combinations *= len(torch.unique(values))
    found = len(torch.unique(groups[:n]))
    if found < combinations:
        raise InputError(
            f"annotations: only {found} of {combinations} combinations of values occur in "
            "training, so that they cannot be told apart; give examples of all"
        )
    return groups
