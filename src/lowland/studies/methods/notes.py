"""What a reader of the methods study has to know, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lowland.studies.methods.columns import Setup

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe


def notes(setup: Setup, data: ImageData, recipe: Recipe) -> tuple[str, ...]:
    """How the runs were made, measured and chosen, and where an arm is not what it looks like."""
    return (*_protocol(setup, data, recipe), *_measures(setup, recipe), *_arms(setup))


def _protocol(setup: Setup, data: ImageData, recipe: Recipe) -> Iterator[str]:
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    augmented = "" if recipe.augment else " Images are not augmented."
    yield (
        f"Data: {data.name}, {sizes} images; one fixed split for all seeds, so intervals speak "
        f"about the randomness of training, not about the choice of images.{augmented}"
    )
    yield (
        f"Equal epochs: {setup.epochs} for every arm. Equal compute: as many forward and backward "
        f"passes as SAM has in {setup.epochs} epochs, so that plain training has "
        f"{2 * setup.epochs}; a forward alone counts a third. Arms of two passes have the same "
        "runs in both."
    )
    yield (
        "Every arm is tuned over the same grid, SAM's radii times the arm's own scale, and judged "
        "at the ρ with the lowest validation error over the other seeds."
    )
    own = ", ".join(arm.name for arm in setup.arms if arm.own)
    yield "Learning rate, momentum and weight decay are those of plain training for all" + (
        f", but for {own}: they bring their own base optimizer, or do what momentum and decay do, "
        "and have a learning rate of their own."
        if own
        else "."
    )


def _measures(setup: Setup, recipe: Recipe) -> Iterator[str]:
    yield (
        "Time: seconds of training per step over those of plain training with the same seed, "
        "median and quartiles over all runs of an arm, while other runs work beside; on a small "
        "network what an optimizer does itself weighs more than on a large one."
    )
    yield (
        "Memory: the most bytes of tensors alive in a step, over plain training's, on a CPU; the "
        "same in every seed."
    )
    yield f"Rank and active units: of {setup.block}, {recipe.rank_examples} training images."


def _arms(setup: Setup) -> Iterator[str]:
    if any(arm.method == "m-sam" for arm in setup.arms):
        yield (
            "m-SAM runs every m examples through the network by themselves, so that normalization "
            "layers see m examples, too: what small m does to them is part of its effect here, as "
            "it is on devices with m examples each."
        )
    if "mup2" in setup.names:
        yield (
            "muP² has the network and step sizes of all others here, with half the width as base; "
            "what it is for, radii that carry over between widths, is an experiment of its own."
        )
    if "balanced-sam" in setup.names:
        yield (
            "Balanced SAM weighs labels by their number; where classes have about the same number "
            "of images, as digits have, it is SAM."
        )
