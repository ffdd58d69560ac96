"""The grid: networks, settings and ρ on dominoes of digits, or trained recipes on other data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from lowland.core.errors import InputError, unknown
from lowland.studies.balance.claims import claims
from lowland.studies.balance.columns import ALONE, REDUNDANT, Setting, Setup, group_of
from lowland.studies.balance.drawings import figures, panels, tables
from lowland.studies.balance.experiment import RUNS
from lowland.studies.balance.names import with_settings
from lowland.studies.balance.recipes import recipe_plan
from lowland.studies.recipes import all_rhos
from lowland.studies.study import Choice, Plan, Planned
from lowland.train import Experiment

DATA = "digit-dominoes"
SETTINGS = {REDUNDANT: 1.0, "spurious 0.99": 0.99, "spurious 0.95": 0.95}
"""Correlation of the simple feature with the label."""

NETWORKS = {"mlp": "fully connected network", "cnn": "convolutional network"}
TOGETHER = {"mlp": 4, "cnn": 2}
"""Seeds that are trained as one: as many as take half a minute."""

_SEEDS = {"smoke": 2, "default": 12, "paper": 30}
_RHOS = {"smoke": (0.1,), "default": (0.02, 0.05, 0.1, 0.2), "paper": (0.01, 0.02, 0.05, 0.1, 0.2)}
_SIZES: Mapping[str, Mapping[str, Any]] = {
    "smoke": {"epochs": 2, "evaluations": 2, "width": 8},
    "default": {"epochs": 50, "evaluations": 8, "width": 32},
    "paper": {"epochs": 100, "evaluations": 12, "width": 128},
}
"""Epochs and learning rate are such that plain training fits every train image in every setting:
with fewer updates SAM, which is slower, has learned less of everything."""

_COMMON = {"lr": 0.2, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 64}


def plan(choice: Choice) -> Plan:
    """Lay out the grid on the data that was chosen.

    Raises:
        InputError: unknown names or unusable values, or data that do not fit.
    """
    if choice.data.partition(":")[0] != DATA:
        return recipe_plan(choice)
    if choice.method != "sam":
        raise InputError(
            f"the small networks are trained with sam, not with {choice.method}: leave --method "
            "out, or give --data of another kind, whose networks are trained by recipes"
        )
    from lowland.data import load

    sizes = changed({**_COMMON, **_SIZES[choice.size]}, choice.overrides)
    data = load(with_settings(choice.data, correlation="1"))
    setup = digit_setup(choice.data, len(data.test))
    return Plan(
        runs=tuple(_runs(choice, setup, sizes)),
        claims=claims(setup),
        panels=panels(setup),
        fingerprint=data.fingerprint,
        notes=_notes(sizes, len(data.train), len(data.validation), len(data.test)),
        figures=partial(figures, setup=setup),
        tables=partial(tables, setup=setup),
    )


def digit_setup(data: str, test_images: int) -> Setup:
    """The settings on dominoes of digits, whose further settings are kept.

    Raises:
        InputError: the data name what the study sets itself.
    """
    return Setup(
        kind=DATA,
        networks=NETWORKS,
        settings=tuple(
            Setting(name, with_settings(data, correlation=f"{share:g}"))
            for name, share in SETTINGS.items()
        ),
        alone=Setting(ALONE, with_settings(data, correlation="1", easy="none")),
        over_time=True,
        test_images=test_images,
    )


def changed(sizes: Mapping[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Numbers with ``key=value`` applied; whole ones stay whole.

    Raises:
        InputError: an unknown key, or a value that is no number of its kind.
    """
    found = dict(sizes)
    for override in overrides:
        key, _, text = (part.strip() for part in override.partition("="))
        if key not in sizes:
            raise unknown("setting of small networks", key, sizes)
        kind = type(sizes[key])
        try:
            found[key] = kind(text)
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise InputError(f"--set {override}: give {words}, as {key}={sizes[key]}") from None
        if found[key] < (1 if kind is int else 0):
            raise InputError(
                f"--set {override}: give 1 or more"
                if kind is int
                else f"--set {override}: give 0 or more"
            )
    return found


def _runs(choice: Choice, setup: Setup, sizes: Mapping[str, Any]) -> Iterator[Planned]:
    """Some seeds after the others, so that a study that stops early has whole seeds."""
    rhos = all_rhos(choice, _RHOS[choice.size])
    seeds = choice.seed_range(_SEEDS[choice.size])
    assert setup.alone is not None  # dominoes have it
    for network, count in TOGETHER.items():
        for first in range(seeds.start, seeds.stop, count):
            for setting in (*setup.settings, setup.alone):
                settings = {
                    "count": min(count, seeds.stop - first),
                    "radii": [0.0] if setting is setup.alone else rhos,
                    "data": setting.data,
                    "balanced": _balanced(setting.data),
                    "network": network,
                    "dfr": choice.size != "smoke" and setting.name == REDUNDANT,
                    **sizes,
                }
                yield Planned(
                    group=group_of(network, setting),
                    recipe=Experiment(function=RUNS, settings=settings, seed=first, method="sam"),
                    many=True,
                )


def _balanced(data: str) -> str:
    """The same data with all joint values of the features equally often."""
    kind, _, rest = data.partition(":")
    parts = [part for part in rest.split(",") if not part.startswith("correlation=")]
    return f"{kind}:{','.join([*parts, 'correlation=0.5'])}"


def _notes(sizes: Mapping[str, Any], train: int, validation: int, test: int) -> tuple[str, ...]:
    return (
        f"Data: dominoes of scikit-learn's digits, a 0 or 1 above another digit, the label told by "
        f"the latter; {train} train, {validation} validation, {test} test images, one fixed split "
        "for all seeds, so intervals speak about the randomness of training.",
        f"SGD at a constant learning rate {sizes['lr']:g}, momentum {sizes['momentum']:g}, weight "
        f"decay {sizes['weight_decay']:g}, batches of {sizes['batch_size']}, {sizes['epochs']} "
        "epochs; a seed is an initialisation and an order of the examples, the same at every ρ.",
        "Probes: L2 logistic regression (C = 1, standardised penultimate features) on "
        "examples made of train halves in which the features say nothing of each other, tested "
        "on test images with all joint values equally often. The probe of last-layer retraining "
        "(L1, seven C) stands beside in the redundant setting.",
        "ρ is chosen by the validation error on the other seeds, on data distributed as those of "
        "training; equal errors, as all are where the simple feature tells the label, are "
        "decided by the validation loss. An oracle that has balanced validation data stands "
        "beside.",
        "Share of the hard feature in a gradient u: r_hard / (|r_hard| + |r_simple|), r the rate "
        "at which a step along u changes the feature's main effect on the logit difference "
        "over examples in which the features are independent. It does not see interactions, "
        "features that the head does not use, or anything of second order.",
        "Hyperparameters of the published experiments are not known; these were chosen on seeds "
        "from 1000 on.",
    )
