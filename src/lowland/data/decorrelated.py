"""Examples in which annotations say nothing of each other, to fit probes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.seeds import generator
from lowland.data.annotations import joint_rows
from lowland.data.dominoes import MADE, balanced, halves_of
from lowland.data.images import ImageData, Split


def decorrelated(data: ImageData, *, seed: int = 0) -> Split:
    """Images with every joint value of the core and the spurious annotation equally often.

    A probe for one annotation that is fitted where the two go together reads off either. These
    are for fitting; the probe is then tested on ``data.test``.

    - Dominoes are made anew of the halves of the train images: each of m hard pictures of either
      label below an easy 0 and below an easy 1, 4m images of parts that were all trained on.
    - Where images are kept for this (``data.probing``), those.
    - Of other images that were found, not made, whatever the validation split has: of each of the
      joint values as many as the rarest one has, drawn without replacement, in the order of the
      split. This is what last-layer retraining is fitted on (Deep Feature Reweighting, arXiv
      2204.02937). They were not trained on; but whoever chooses by validation error uses them
      twice.

    Rows of made images are counted from 0; they are no rows of `data`.

    Args:
        data: a set whose ``source`` names a ``core`` and a ``spurious`` annotation.
        seed: of the draw.

    Raises:
        InputError: the data name no such annotations, or a joint value has no images.
    """
    if "spurious" not in data.source:
        raise InputError(
            f"{data.name} names no core and spurious annotation: use data made or read with both, "
            "such as digit-dominoes or waterbirds:FOLDER"
        )
    draws = generator("cpu", "decorrelated", seed)
    if data.source.get("made") == MADE:
        return balanced(halves_of(data.train.to("cpu")), draws).to(data.train.labels.device)
    counts = {
        name: data.annotations[name] for name in (data.source["core"], data.source["spurious"])
    }
    word, split = ("validation", data.validation)
    if data.probing is not None:
        word, split = ("what is kept for probes", data.probing)
    rows = equal_groups(f"{data.name}: {word}", split, counts, draws)
    return split.select(rows.to(split.labels.device))


def equal_groups(
    where: str, split: Split, counts: Mapping[str, int], draws: torch.Generator
) -> Tensor:
    """Rows, ascending, with every joint value of annotations as often as the rarest one.

    Args:
        where: the split, for the message.
        split: what to draw from.
        counts: the annotations, and how many values each has.
        draws: decides which rows.

    Raises:
        InputError: a joint value has no rows.
    """
    groups = joint_rows(where, split, counts)
    m = min(len(rows) for rows in groups)
    drawn = [rows[torch.randperm(len(rows), generator=draws)[:m]] for rows in groups]
    return torch.cat(drawn).sort().values
