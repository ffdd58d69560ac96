"""What each size of the study trains, chosen on seeds from 1000 on and then fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowland.core.errors import InputError
from lowland.studies.overparam.arms import Hidden, scaled

SMALL = 64
SOLUTIONS = 30
"""Plain solutions of a size whose λ_max is looked at."""
DIGITS = (6, 12, 27, 46, 74, 133, 200)
"""Widths; about a factor of two apart in parameters. 27, 74 and 133 have as many kernel entries as
masks of 95%, 80% and 50% leave of 200."""
FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of the study.

    Attributes:
        sizes: dense networks, ascending.
        noises: shares of wrong labels.
        few: the networks that are trained at noises between none and the most, the others not.
        regularised: networks with more weight decay too.
        decay: that weight decay.
        sparsities: of masks on the largest network.
        radii: ρ > 0 of the dense networks on clean labels.
        noisy_radii: those of all with wrong labels.
        sparse_radii: those of the masked networks, and of the dense ones that they are held
            against.
        seeds: how many.
        together: seeds in one stack, of networks with more than `SMALL` units in a layer; twice as
            many of others.
        solutions: plain solutions of every dense network.
        products, level: of the eigenvalues (`sweep`).
        training: settings of the training.
        device: where the stacks run.
    """

    sizes: Sequence[Hidden]
    noises: Sequence[float]
    few: Sequence[Hidden]
    regularised: Sequence[Hidden]
    decay: float
    sparsities: Sequence[float]
    radii: Sequence[float]
    noisy_radii: Sequence[float]
    sparse_radii: Sequence[float]
    seeds: int
    together: int
    solutions: int
    products: int
    level: float
    training: Mapping[str, Any]
    device: str = "cpu"


def _square(*widths: int) -> list[Hidden]:
    return [(width, width) for width in widths]


_PUBLISHED = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 128}

SIZES: Mapping[str, Size] = {
    "smoke": Size(
        sizes=_square(4, 8, 16),
        noises=(0.0, 0.4),
        few=(),
        regularised=_square(4, 16),
        decay=5e-3,
        sparsities=(0.8,),
        radii=(0.1, 0.2),
        noisy_radii=(0.1, 0.2),
        sparse_radii=(0.1, 0.2),
        seeds=2,
        together=2,
        solutions=3,
        products=3,
        level=2.25,
        training={
            **_PUBLISHED,
            "batch_size": 32,
            "epochs": 2,
            "schedule": "cosine",
            "held_out": None,
            "limit": 300,
            "evaluations": 2,
        },
    ),
    "default": Size(
        sizes=_square(*DIGITS),
        noises=(0.0, 0.2, 0.4),
        few=_square(12, 46, 200),
        regularised=_square(12, 46, 200),
        decay=5e-3,
        sparsities=(0.5, 0.8, 0.95),
        radii=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        noisy_radii=(0.05, 0.1, 0.2, 0.4, 0.8),
        sparse_radii=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
        seeds=10,
        together=5,
        solutions=SOLUTIONS,
        products=10,
        level=0.05,
        training={
            **_PUBLISHED,
            "epochs": 50,
            "schedule": "cosine",
            "held_out": 0.55,
            "limit": None,
            "evaluations": 10,
        },
    ),
    "paper": Size(
        sizes=[scaled((300, 100), factor) for factor in FACTORS],
        noises=(0.0, 0.2, 0.4),
        few=[scaled((300, 100), factor) for factor in FACTORS],
        regularised=[scaled((300, 100), factor) for factor in (1 / 16, 1 / 2, 4)],
        decay=1e-3,
        sparsities=(0.5, 0.8, 0.9, 0.95),
        radii=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        noisy_radii=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        sparse_radii=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
        seeds=10,
        together=5,
        solutions=SOLUTIONS,
        products=20,
        level=0.05,
        training={
            **_PUBLISHED,
            "epochs": 100,
            "schedule": "quarters",
            "held_out": None,
            "limit": None,
            "evaluations": 20,
        },
        device="auto",
    ),
}


def hidden_layers(text: str) -> list[Hidden]:
    """Networks of ``--set hidden=``, ascending.

    Raises:
        InputError: not whole numbers, fewer than two networks, or not all of one depth.

    >>> hidden_layers("75-25,19-6")
    [(19, 6), (75, 25)]
    """
    asked = f"--set hidden={text}"
    found = set()
    for network in text.split(","):
        units = [part.strip() for part in network.split("-")]
        if not all(part.isdecimal() and int(part) for part in units):
            raise InputError(f"{asked}: write units of each hidden layer, as hidden=19-6,75-25")
        found.add(tuple(map(int, units)))
    if len(found) < 2:
        raise InputError(f"{asked}: a slope needs two networks or more, as hidden=19-6,75-25")
    if len({len(hidden) for hidden in found}) > 1:
        raise InputError(f"{asked}: networks must have equally many hidden layers")
    return sorted(found)


def resized(size: Size, hidden: Sequence[Hidden]) -> Size:
    """A size with other dense networks; where some of them are taken, both ends and the middle."""
    some = list(dict.fromkeys((hidden[0], hidden[len(hidden) // 2], hidden[-1])))
    few = hidden if len(size.few) == len(size.sizes) else some if size.few else ()
    return dataclasses.replace(size, sizes=hidden, few=few, regularised=some)
