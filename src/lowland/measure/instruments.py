"""Every instrument by name, and what it must be given."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lowland.core.errors import unknown
from lowland.measure.curvature import hessian_eigenvalues, hessian_moments, hessian_trace
from lowland.measure.features.active import active_units
from lowland.measure.features.collapse import neural_collapse
from lowland.measure.features.distinct import distinct_units
from lowland.measure.features.rank import feature_rank
from lowland.measure.features.ranks import (
    effective_rank,
    mean_energy,
    numerical_rank,
    participation_ratio,
    rankme,
    stable_rank,
)
from lowland.measure.probes.linear import linear_probe
from lowland.measure.surface.average import average_sharpness
from lowland.measure.surface.loss import mean_loss
from lowland.measure.surface.one_step import one_step_sharpness
from lowland.measure.surface.worst import worst_sharpness
from lowland.measure.weights.norm import weight_norm
from lowland.measure.weights.rank import weight_ranks

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
        least_dimensions: it has nothing to say of a block whose parameters all have fewer.
        options: what it is given where nobody says otherwise.
        source: where the definition comes from.
    """

    name: str
    words: str
    looks_at: LooksAt
    measure: Callable[..., Any]
    by_block: bool = True
    least_dimensions: int = 1
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
            name="effective-rank",
            words="exponential of the entropy of the singular values of the features",
            looks_at="features",
            measure=effective_rank,
            source="Roy and Vetterli 2007",
        ),
        Instrument(
            name="rankme",
            words="the same by the convention of RankMe",
            looks_at="features",
            measure=rankme,
            source="arXiv 2210.02885",
        ),
        Instrument(
            name="stable-rank",
            words="energy of the features over the largest squared singular value",
            looks_at="features",
            measure=stable_rank,
            source="Rudelson and Vershynin 2007",
        ),
        Instrument(
            name="participation-ratio",
            words="squared trace of the covariance over the trace of its square",
            looks_at="features",
            measure=participation_ratio,
        ),
        Instrument(
            name="numerical-rank",
            words="singular values above rounding noise",
            looks_at="features",
            measure=numerical_rank,
        ),
        Instrument(
            name="mean-energy",
            words="share of the energy of the features that their mean holds",
            looks_at="features",
            measure=mean_energy,
        ),
        Instrument(
            name="active",
            words="units above 5% of the largest value on at least one example",
            looks_at="features",
            measure=active_units,
            source="arXiv 2305.16292",
        ),
        Instrument(
            name="distinct",
            words="units that are left when one of every two that are alike goes",
            looks_at="features",
            measure=distinct_units,
            source="arXiv 2305.16292",
        ),
        Instrument(
            name="collapse",
            words="scatter within classes over scatter between them (NC1), and NC2 to NC4",
            looks_at="labelled features",
            measure=neural_collapse,
            source="arXiv 2008.08186",
        ),
        Instrument(
            name="probe",
            words="error of a linear classifier of the features on examples held out",
            looks_at="labelled features",
            measure=linear_probe,
        ),
        Instrument(
            name="weight-norm",
            words="Euclidean norm of the parameters",
            looks_at="weights",
            measure=weight_norm,
        ),
        Instrument(
            name="weight-rank",
            words="share of full rank that 99% of the energy of the weight matrices needs",
            looks_at="weights",
            measure=weight_ranks,
            least_dimensions=2,
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
        Instrument(
            name="average-sharpness",
            words="mean rise of the loss under Gaussian noise of size rho on the weights",
            looks_at="loss",
            measure=average_sharpness,
            options=(("rho", 0.01),),
            source="arXiv 2302.07011",
        ),
        Instrument(
            name="worst-sharpness",
            words="largest rise of the loss that an ascent within rho finds",
            looks_at="loss",
            measure=worst_sharpness,
            options=(("rho", 0.05),),
            source="arXiv 2302.07011",
        ),
        Instrument(
            name="eigenvalue",
            words="largest eigenvalue of the Hessian",
            looks_at="loss",
            measure=hessian_eigenvalues,
            options=(("k", 1),),
        ),
        Instrument(
            name="trace",
            words="trace of the Hessian",
            looks_at="loss",
            measure=hessian_trace,
            source="arXiv 2010.09649",
        ),
        Instrument(
            name="hessian-moments",
            words="largest eigenvalue of M_2 - H²: how unlike the examples' Hessians are",
            looks_at="loss",
            measure=hessian_moments,
            options=(("orders", (2,)),),
            source="arXiv 2311.17539",
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
        known = option_names(find_instrument(name))
        for option in chosen:
            if option not in known:
                raise unknown(f"option of {name}", option, known)


def option_names(instrument: Instrument) -> list[str]:
    """The options that an instrument has, in order."""
    found: list[str] = []
    hints = typing.get_type_hints(instrument.measure)
    for name, parameter in inspect.signature(instrument.measure).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:  # Unpack[a typed dictionary]
            found += typing.get_args(hints[name])[0].__annotations__
        elif name not in _GIVEN:
            found.append(name)
    return found
