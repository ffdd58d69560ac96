"""Every instrument by name, and what it must be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lowland.core.errors import unknown
from lowland.measure.features.active import active_units
from lowland.measure.features.rank import feature_rank
from lowland.measure.surface.loss import mean_loss
from lowland.measure.surface.one_step import one_step_sharpness
from lowland.measure.weights.norm import weight_norm

LooksAt = Literal["features", "labelled features", "weights", "loss"]
LOOKS_AT: tuple[LooksAt, ...] = get_args(LooksAt)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One instrument as the table of them knows it.

    Attributes:
        name: what it is called on the command line and in records.
        words: what it measures, in a line.
        looks_at: what `measure` takes. "features": ``(features, **options)``; "labelled
            features": ``(features, labels, **options)``; "weights": ``(model, parameters=GLOB,
            **options)``; "loss": ``(model, loss_fn, batches, parameters=GLOB, **options)``.
        measure: the function, which returns a `Measurement`.
        by_block: whether it can be asked for one block alone. Instruments of features always can.
        options: what it is given where nobody says otherwise.
        source: where the definition comes from.
    """

    name: str
    words: str
    looks_at: LooksAt
    measure: Callable[..., Any]
    by_block: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    source: str = ""


INSTRUMENTS: dict[str, Instrument] = {
    instrument.name: instrument
    for instrument in (
        Instrument(
            name="rank",
            words="principal components that hold 99% of the variance of the features",
            looks_at="features",
            measure=feature_rank,
            source="arXiv 2305.16292",
        ),
        Instrument(
            name="active",
            words="units above 5% of the largest value on at least one example",
            looks_at="features",
            measure=active_units,
            source="arXiv 2305.16292",
        ),
        Instrument(
            name="weight-norm",
            words="Euclidean norm of the parameters",
            looks_at="weights",
            measure=weight_norm,
        ),
        Instrument(
            name="loss",
            words="mean loss, and the share of examples misclassified",
            looks_at="loss",
            measure=mean_loss,
            by_block=False,
        ),
        Instrument(
            name="sharpness",
            words="rise of the loss one step of length rho up the gradient",
            looks_at="loss",
            measure=one_step_sharpness,
            options=(("rho", 0.05),),
            source="arXiv 2010.01412",
        ),
    )
}
"""Name -> instrument, in the order in which they are shown."""

_GIVEN = {"features", "labels", "model", "loss_fn", "batches", "parameters"}


def find_instrument(name: str) -> Instrument:
    """The instrument of that name, or an `InputError` that gives the nearest one."""
    if name not in INSTRUMENTS:
        raise unknown("instrument", name, INSTRUMENTS)
    return INSTRUMENTS[name]


def check_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `InputError` for an instrument, or an option of one, that does not exist."""
    for name, chosen in options.items():
        measure = find_instrument(name).measure
        known = [key for key in inspect.signature(measure).parameters if key not in _GIVEN]
        for option in chosen:
            if option not in known:
                raise unknown(f"option of {name}", option, known)
