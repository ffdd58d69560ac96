"""What a reader of the low-rank study needs to know beside its claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowland.studies.low_rank.columns import DECAY, GROUPS, MAIN, TRANSFER, Measured
from lowland.studies.study import Choice

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

_PUBLISHED_TRANSFER = {
    10: "CIFAR-100, by the paper's sentence and in the released experiments",
    100: (
        "CIFAR-10 in the released experiments; the paper's sentence says CIFAR-100, which these "
        "networks were trained on"
    ),
    200: "CIFAR-10 in the released experiments, CIFAR-100 by the paper's sentence",
}


def notes(
    choice: Choice, data: ImageData, groups: Mapping[str, Recipe], what: Measured
) -> tuple[str, ...]:
    """Data, measurements, groups, and at paper size where the published protocol is left."""
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    plain = "plain training"
    main = groups[MAIN]
    if main.brings_base:
        plain = f"the base optimizer that {choice.method} brings, alone"
    found = [
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds, so intervals speak "
        "about the randomness of training, not about the choice of images.",
        _examples(main.rank_examples, data),
        f"ρ = 0 is {plain}; every other ρ is {choice.method}.",
        _transfer(groups, what),
    ]
    beside = [f"{name}: {GROUPS[name]}" for name in groups if name not in (MAIN, TRANSFER)]
    if beside:
        found.append(
            f"Further groups, with ρ = 0 and the largest ρ alone: {'; '.join(beside)}. "
            "Augmentation and weight decay with a fully connected network are in low-rank/causes."
        )
    if DECAY in groups:
        decay = groups[DECAY].weight_decay
        found.append(
            f"Weight decay alone is {decay:.2g}: learning rate times weight decay times updates is "
            "what it is in 200 epochs of CIFAR at the published 0.05 and 5e-4."
        )
    if choice.size == "paper":
        found += _departures(data)
    return tuple(note for note in found if note)


def _examples(n: int, data: ImageData) -> str:
    if n <= len(data.test):
        return (
            f"Every rank, on train and on test, is that of the same number of examples, {n}, since "
            "the rank depends on it."
        )
    return (
        f"Ranks on train are those of the first {n} images, without augmentation. Where they are "
        f"compared with ranks on test, they are those of the first {len(data.test)}, as many as "
        "there are test images, since the rank depends on it."
    )


def _transfer(groups: Mapping[str, Recipe], what: Measured) -> str:
    if what.transfer == MAIN:
        names = ", ".join(groups[MAIN].transfer_data)
        return (
            f"Transfer: neighbours among the first train images of {names}, for its test images, "
            "at their own size and normalised as the images trained on; the first one is judged."
        )
    if TRANSFER not in groups:
        return ""
    recipe = groups[TRANSFER]
    named = [", ".join(map(str, part or ())) for part in (recipe.labels, recipe.transfer_labels)]
    return (
        f"Transfer: networks trained on classes {named[0]} alone; reference and query images "
        f"of classes {named[1]}."
    )


def _departures(data: ImageData) -> list[str]:
    """Where the published protocol and this one differ, and what gives the published one."""
    published = _PUBLISHED_TRANSFER.get(data.classes)
    found = [
        "Published protocol: 200 epochs, batches of 256 without the last incomplete one, 0.1% of "
        f"train held out, which is {len(data.validation)} images here: too few to choose ρ well. "
        "--set held_out=0.02 chooses better.",
        "Ranks are of features centred per unit. The released experiments subtract each example's "
        "own mean instead, which leaves the mean example in: that is beside, as published "
        "centring, at the end of training.",
        "Running statistics of BatchNorm see each batch once. In the released experiments the "
        "pass at w+ε updates them too: --set method_options=bn_second=update.",
        "Images are normalised with their own training set's statistics; the released experiments "
        "use those of CIFAR-10 for CIFAR-100 too.",
    ]
    if published:
        found.append(
            f"Published transfer set: {published}. --set transfer_data=cifar:FOLDER takes it, or "
            "several, in place of classes left out, and then no second grid is trained."
        )
    return found
