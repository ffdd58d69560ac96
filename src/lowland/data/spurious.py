"""Images that are found in two classes and two places, chosen so that the place tells the class."""

from __future__ import annotations

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator

TESTED = PROBED = 0.2
"""Share of the rarest joint value that is test, and that is for fitting probes."""

HELD_OUT = 0.2


def spurious_rows(
    where: str, labels: Tensor, places: Tensor, correlation: float, *, seed: int
) -> dict[str, Tensor]:
    """Rows of train, validation and test, and of ``probing``, each ascending.

    Test has every joint value (label, place) equally often: 20% of the rarest. So does probing,
    with others: validation, where some joint values are as rare as in train, is too small to fit
    probes to. Of what is left, train and validation (20% of the two) have as many images of either
    label as can be had such that round(correlation · n) of n have the place of the same number. The
    rest is left out.

    Args:
        where: the source, for messages.
        labels, places: 0 or 1, int64, (n,).
        correlation: 0.5 to 1.
        seed: of who is chosen.

    Raises:
        InputError: a joint value without images, or too few for that correlation.
    """
    draws = generator("cpu", "spurious", seed)
    groups: dict[tuple[int, int], Tensor] = {}
    for label in (0, 1):
        for place in (0, 1):
            rows = ((labels == label) & (places == place)).nonzero().flatten()
            if len(rows) < 3:
                raise InputError(
                    f"{where} has {len(rows)} images with label {label} and domain {place}: three "
                    "or more are needed; add some"
                )
            groups[label, place] = rows[torch.randperm(len(rows), generator=draws)]
    rarest = min(map(len, groups.values()))
    chosen: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": [], "probing": []}
    for split, share in (("test", TESTED), ("probing", PROBED)):
        taken = max(1, round(share * rarest))
        for key, rows in groups.items():
            chosen[split].append(rows[:taken])
            groups[key] = rows[taken:]
    counts = _counts(where, groups, correlation)
    for label in (0, 1):
        for place in (0, 1):
            rows, agrees = groups[label, place], label == place
            for split, (n, agreeing) in counts.items():
                take = agreeing if agrees else n - agreeing
                chosen[split].append(rows[:take])
                rows = rows[take:]
    return {split: torch.cat(parts).sort().values for split, parts in chosen.items()}


def _counts(
    where: str, groups: dict[tuple[int, int], Tensor], correlation: float
) -> dict[str, tuple[int, int]]:
    """For train and validation the images of either label, and how many of them agree."""
    most = min(len(groups[label, label]) for label in (0, 1))
    few = min(len(groups[label, 1 - label]) for label in (0, 1))
    for n in range(most + few, 1, -1):
        held = max(1, round(HELD_OUT * n))
        sizes = {"train": n - held, "validation": held}
        counts = {split: (size, round(correlation * size)) for split, size in sizes.items()}
        agreeing = sum(agree for _, agree in counts.values())
        if agreeing <= most and n - agreeing <= few:
            if correlation < 1 and any(size == agree for size, agree in counts.values()):
                break
            return counts
    raise InputError(
        f"{where}: {most} images of a label with the domain that goes with it and {few} with the "
        f"other are too few for correlation {correlation:g} in train and validation: use more "
        "images or a smaller correlation"
    )
