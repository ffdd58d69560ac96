"""The two experiments of the study: what is there, and the ranks of one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from torch import nn

from lowland.core.errors import InputError
from lowland.studies.blocks import number_after
from lowland.studies.checkpoints.columns import DEPTHS, PUBLISHED, rank
from lowland.studies.checkpoints.published import SHARES

if TYPE_CHECKING:
    from lowland.data import Examples
    from lowland.inspection import Subject
    from lowland.train import Row

VARIANCES = (0.99, 0.95, 0.999)


def inventory(*, seed: int, rho: float, checkpoints: int, images: int) -> Iterator[Row]:
    """One row: how many checkpoints and images there are to measure."""
    yield {"checkpoints": checkpoints, "images": images}


def ranks(
    *,
    seed: int,
    rho: float,
    checkpoint: str,
    stamp: str,
    data: str,
    pictures: str,
    examples: int,
    batch_size: int,
    device: str = "cpu",
) -> Iterator[Row]:
    """One row: ranks of one network after every share of its blocks, and what the network is.

    Args:
        seed: place of the architecture; nothing is drawn.
        rho: taken for the sake of the interface.
        checkpoint: as `lowland inspect` takes it.
        stamp: size and time of its file; part of the run's name, not looked at.
        data: images, as `lowland.data.open_examples` takes them.
        pictures: what says which images those are; like `stamp`.
        examples: how many of them.
        batch_size: images per forward pass.
        device: where the network runs.

    Raises:
        InputError: network or images cannot be read, or it has no block at such a share.
    """
    from lowland.data import open_examples
    from lowland.inspection import How, load_subject

    subject = load_subject(checkpoint, How(device=device))
    names = numbered_blocks(checkpoint, subject.module, subject.blocks)
    places = depths(checkpoint, names)
    images = open_examples(data).first(examples)
    subject.module.to(device)
    row = _facts(subject, names, images)
    for token in ("class",) if subject.tokens == "class" else ("mean", "class"):
        row |= _of_token(subject, images, places, token, batch_size)
    yield row


def numbered_blocks(checkpoint: str, module: nn.Module, glob: str) -> list[str]:
    """Names of the blocks in order.

    Raises:
        InputError: what the glob matches is not numbered.
    """
    from lowland.measure import matching_blocks

    names = matching_blocks(module, glob)
    if not all(re.search(r"\d$", name) for name in names):
        raise InputError(
            f"{checkpoint} has no numbered blocks (it has {', '.join(names[:3])}): give a ViT or a "
            "Mixer"
        )
    return names


def depths(checkpoint: str, names: list[str]) -> dict[Fraction, str]:
    """The block after each share of `DEPTHS`; 1/3 and 2/3 only where there are such.

    Raises:
        InputError: there is no block after 1/2 or 3/4 of them.
    """
    found = {}
    for share in DEPTHS:
        try:
            found[share] = names[number_after(len(names), share) - 1]
        except InputError as error:
            if share in SHARES:
                raise InputError(f"{checkpoint}: {error}") from None
    return found


def _facts(subject: Subject, names: list[str], images: Examples) -> Row:
    """What the network is."""
    size = subject.preprocessing.size if subject.preprocessing is not None else None
    head = [m for m in subject.module.modules() if isinstance(m, nn.Linear)]
    return {
        "images": images.n,
        "size": None if size is None else size[0],
        "blocks": len(names),
        "classes": head[-1].out_features if head else None,
    }


def _of_token(
    subject: Subject, images: Examples, places: dict[Fraction, str], token: str, batch_size: int
) -> Row:
    """Ranks by every convention, from one pass over the images."""
    from lowland.inspection.inputs import Inputs
    from lowland.measure import RANK_PRESETS, capture, feature_rank

    if subject.preprocessing is None:
        raise InputError(
            f"nothing says how images for {subject.name} are made: give a .npz file or timm:NAME"
        )
    inputs: Any = Inputs(subject, images, batch_size)
    features = capture(subject.module, inputs, ",".join(places.values()), tokens=token)
    row: Row = {"width": next(iter(features.values())).shape[1]}
    for share, block in places.items():
        for variance, value in feature_rank(features[block], VARIANCES).ranks.items():
            row[rank(share, token, f"unit/{variance:g}")] = value
        published = feature_rank(features[block], **RANK_PRESETS["low-rank-paper"])
        row[rank(share, token, PUBLISHED)] = published.value
    return row
