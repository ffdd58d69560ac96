"""What is measured of all networks of a stack at one time: a row for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lowland.measure import max_eigenvalue
from lowland.measure.evaluation import Batches
from lowland.studies.balance import columns
from lowland.studies.balance.examples import EASY, HARD, Annotated, Part
from lowland.studies.balance.probing import STRONG_C, Probed, dfr_error, probing_errors
from lowland.studies.balance.shares import shares
from lowland.train.stack import Stack

Row = dict[str, float | int | None]

SHARE_EXAMPLES = 256
"""Examples, of train and of those that probes are fitted to, whose gradients are taken apart."""

SHARPNESS_EXAMPLES = 512
LANCZOS_TOLERANCE = 1e-2
"""A hundredth of the eigenvalue: networks of one ρ differ by a tenth and more."""


@dataclass(frozen=True)
class Evaluator:
    """Measures a stack.

    Attributes:
        data: the examples.
        balanced: validation examples with every joint value equally often, for the choice of ρ
            that only an oracle can make.
        rho: radius of each network.
        dfr: whether the end has the probe of last-layer retraining too.
    """

    data: Annotated
    balanced: Part
    rho: Sequence[float]
    dfr: bool

    def __call__(self, stack: Stack, *, end: bool = False) -> list[Row]:
        """One row for each network; `end` adds what is measured at the end alone."""
        found = zip(
            self._losses(stack),
            self._probes(stack, end=end),
            self._shares(stack),
            strict=True,
        )
        rows = [{**losses, **probes, **parts} for losses, probes, parts in found]
        if end:
            for k, row in enumerate(rows):
                row[columns.SHARPNESS] = sharpness(stack.member(k), self.data.train)
        return rows

    def _losses(self, stack: Stack) -> list[Row]:
        data = self.data
        train, train_error = _loss_and_error(stack, data.train)
        validation, validation_error = _loss_and_error(stack, data.validation)
        wrong = stack(data.test.x).argmax(-1) != data.test.y
        wrong_balanced = stack(self.balanced.x).argmax(-1) != self.balanced.y
        named = {
            columns.TRAIN: train,
            columns.TRAIN_ERROR: train_error,
            columns.VALIDATION_LOSS: validation,
            columns.VALIDATION: validation_error,
            columns.TEST: wrong.double().mean(1),
            columns.WORST: worst_groups(wrong, data.test.groups),
            columns.ORACLE_WORST: worst_groups(wrong_balanced, self.balanced.groups),
        }
        return _rows(named, stack.size)

    def _probes(self, stack: Stack, *, end: bool) -> list[Row]:
        parts = (self.data.probing, self.data.test, self.balanced)
        features = [stack(part.x, method="features") for part in parts]
        rows = []
        for k in range(stack.size):
            own = [
                Probed(found[k], part.notes, part.groups)
                for found, part in zip(features, parts, strict=True)
            ]
            rows.append(probe_columns(*own, end=end, dfr=end and self.dfr))
        return rows

    def _shares(self, stack: Stack) -> list[Row]:
        train = self.data.train.select(_evenly(len(self.data.train), SHARE_EXAMPLES))
        probing = _each(self.data.probing, SHARE_EXAMPLES)
        rho = torch.tensor(list(self.rho), device=probing.y.device)
        found = shares(stack, train, probing, rho)
        named = {
            columns.HARD_EFFECT: found.effects[HARD],
            columns.EASY_EFFECT: found.effects[EASY],
            columns.SHARE_HERE: found.here,
            columns.SHARE: found.descended,
        }
        return _rows(named, stack.size)


def probe_columns(
    fitted: Probed,
    tested: Probed,
    balanced: Probed | None,
    *,
    end: bool,
    dfr: bool,
    equally: bool = False,
) -> Row:
    """Probing errors by column; missing where features are not finite.

    Args:
        fitted: examples that probes are fitted to.
        tested: examples that errors are measured on.
        balanced: examples for the choice of ρ by an oracle, none of which is in `fitted`; None
            where there are none.
        end: add the probe with a strong penalty.
        dfr: add that of last-layer retraining.
        equally: errors are means over groups (`probing_errors`).
    """
    asked = [tested] if balanced is None else [tested, balanced]
    if not all(bool(part.features.isfinite().all()) for part in (fitted, *asked)):
        return {}
    hard = probing_errors(HARD, fitted, *asked, equally=equally)
    (easy,) = probing_errors(EASY, fitted, tested, equally=equally)
    row: Row = dict(zip((columns.HARD, columns.ORACLE_PROBE), hard, strict=False))
    row[columns.EASY] = easy
    if end:
        (row[columns.HARD_STRONG],) = probing_errors(
            HARD, fitted, tested, weight=STRONG_C, equally=equally
        )
    if dfr:
        row[columns.HARD_DFR] = dfr_error(HARD, fitted, tested)
    return row


def sharpness(module: nn.Module, part: Part) -> float | None:
    """λ_max of the Hessian of the mean loss of the first examples; None if it is no number."""
    return sharpness_of(module, [(part.x[:SHARPNESS_EXAMPLES], part.y[:SHARPNESS_EXAMPLES])])


def sharpness_of(module: nn.Module, batches: Batches) -> float | None:
    """λ_max of the Hessian of the mean loss over all batches; None if it is no number."""
    found = max_eigenvalue(
        module, cross_entropy, batches, tolerance=LANCZOS_TOLERANCE, look_for_missed=False
    )
    return found.value if math.isfinite(found.value) else None


def worst_groups(wrong: Tensor, groups: Tensor) -> Tensor:
    """(K,) the largest error of a group, of what was misclassified (K, n)."""
    errors = [wrong[:, groups == number].double().mean(1) for number in torch.unique(groups)]
    return torch.stack(errors).amax(0)


def _loss_and_error(stack: Stack, part: Part) -> tuple[Tensor, Tensor]:
    logits = stack(part.x)
    labels = part.y.expand(stack.size, -1)
    flat = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view(labels.shape).mean(1), (logits.argmax(-1) != labels).double().mean(1)


def _rows(named: Mapping[str, Tensor], size: int) -> list[Row]:
    lists = {name: values.tolist() for name, values in named.items()}
    return [{name: values[k] for name, values in lists.items()} for k in range(size)]


def _evenly(n: int, most: int) -> Tensor:
    """At most so many rows, evenly spread."""
    return torch.arange(min(n, most)) * n // min(n, most)


def _each(part: Part, most: int) -> Part:
    """The first examples of every joint value, as many of each."""
    numbers = torch.unique(part.groups)
    each = max(most // len(numbers), 1)
    rows = [(part.groups == number).nonzero().flatten()[:each] for number in numbers]
    return part.select(torch.cat(rows))
