"""Looking at the loss in many places, with the data read once or for every place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from lowland.core.restore import preserved_randomness
from lowland.measure.averages import batch_number
from lowland.measure.evaluation import (
    Batches,
    Loss,
    SameDivisor,
    labelled,
    losses,
    outputs_of,
    refuse_shuffled,
)
from lowland.measure.surface.batch_statistics import batch_norms, reestimate
from lowland.measure.surface.loss import classifies, misclassified

BATCH_NORM = ("keep", "reestimated")
READS = ("once", "every point")

Place = TypeVar("Place")


@dataclass(frozen=True, eq=False)
class Survey:
    """What is looked at, and how.

    Attributes:
        model: in eval mode.
        loss_fn: losses (b,) or their mean.
        batches: pairs (inputs, targets).
        batch_norm: one of `BATCH_NORM`; nothing is re-estimated without BatchNorm.
        reads: one of `READS`.
    """

    model: nn.Module
    loss_fn: Loss
    batches: Batches
    batch_norm: str = "keep"
    reads: str = "once"


@dataclass(frozen=True)
class Seen:
    """Mean losses and shares of errors, place by place; and the number of examples."""

    losses: list[float]
    errors: list[float] | None
    n: int


def survey(asked: Survey, places: Sequence[Place], stand: Callable[[Place], bool]) -> Seen:
    """The mean loss and the error at every place.

    Args:
        asked: the model and the data.
        places: where to look.
        stand: puts the weights (and buffers) there, always from the same start; whether BatchNorm
            is to be re-estimated there, if it is anywhere.
    """
    model = asked.model
    anew = asked.batch_norm == "reestimated" and bool(batch_norms(model))
    if anew:
        refuse_shuffled(asked.batches)
        return _by_place(asked, places, stand, anew)
    if asked.reads == "every point":
        refuse_shuffled(asked.batches)
        return _by_place(asked, places, stand, anew)
    totals = [_Total(SameDivisor(asked.loss_fn)) for _ in places]
    for inputs, targets in labelled(model, asked.batches):
        for place, total in zip(places, totals, strict=True):
            stand(place)
            with preserved_randomness():
                total.add(asked, inputs, targets)
    return _seen(totals)


def _by_place(
    asked: Survey, places: Sequence[Place], stand: Callable[[Place], bool], anew: bool
) -> Seen:
    totals = []
    for place in places:
        wanted = stand(place)
        total = _Total(SameDivisor(asked.loss_fn))
        with preserved_randomness():
            if anew and wanted:
                reestimate(asked.model, asked.batches)
        with preserved_randomness():
            for inputs, targets in labelled(asked.model, asked.batches):
                total.add(asked, inputs, targets)
        totals.append(total)
    return _seen(totals)


class _Total:
    def __init__(self, divisor: SameDivisor) -> None:
        self._divisor = divisor
        self.loss = 0.0
        self.wrong: int | None = 0
        self.n = 0

    def add(self, asked: Survey, inputs: object, targets: Tensor) -> None:
        self._divisor.see(targets)
        outputs = outputs_of(asked.model, inputs)
        size = len(targets)
        self.loss += batch_number(losses(asked.loss_fn, outputs, targets)) * size
        self.n += size
        if self.wrong is not None and classifies(outputs, targets):
            self.wrong += misclassified(outputs, targets)
        else:
            self.wrong = None


def _seen(totals: Sequence[_Total]) -> Seen:
    errors = [t.wrong / t.n for t in totals if t.wrong is not None]
    return Seen(
        [t.loss / t.n for t in totals],
        errors if len(errors) == len(totals) else None,
        totals[0].n,
    )
