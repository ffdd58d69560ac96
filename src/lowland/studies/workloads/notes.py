"""What a reader of the study of workloads needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowland.studies.study import Choice
from lowland.studies.workloads.findings import NO_GAMES
from lowland.studies.workloads.kinds import Sweep

if TYPE_CHECKING:
    from lowland.data import ImageData
    from lowland.train import Recipe

_COMMON = (
    "ρ is never chosen on test data. For the gap it is chosen for each width on the validation "
    "error of the other seeds; for the slope of the best ρ each seed has its own best.",
    "A run that diverged has no error: a claim that needs it cannot be told.",
    f"Atari: {NO_GAMES}.",
)


def notes(choice: Choice, sweeps: Sequence[Sweep]) -> tuple[str, ...]:
    """Of the stacks."""
    from lowland.studies.workloads.tasks import HELD_OUT

    does = "; ".join(f"{s.workload.title}: {s.workload.does}" for s in sweeps)
    rates = ", ".join(f"{s.workload.title} {s.workload.lr:g}" for s in sweeps)
    decays = sorted({s.workload.weight_decay for s in sweeps})
    kept = (
        "Data: captions; no image is in two splits, and the vocabulary is that of the training "
        "captions. A word out of the vocabulary is read and never asked for."
        if choice.data.startswith("captions:")
        else f"Data: {choice.data}; {HELD_OUT:.0%} of what is not test is validation, so that "
        "there is little to train on and errors have fine steps. One fixed split for all seeds, "
        "so intervals speak about the randomness of training, not about the choice of examples."
    )
    return (
        f"{does}.",
        kept,
        "All networks of a width are trained side by side (lowland.train.stack), so none has "
        f"BatchNorm or dropout. SGD with momentum 0.9, weight decay {decays[0]:g}, a cosine "
        f"schedule; learning rates {rates}, chosen on seeds from 1000 on.",
        *_COMMON,
    )


def published_notes(
    data: ImageData, sweeps: Sequence[Sweep], recipes: Sequence[Recipe]
) -> tuple[str, ...]:
    """Of the paper size; one recipe for each sweep."""
    sizes = (
        f"{len(data.train):,} train, {len(data.validation):,} validation, {len(data.test):,} test"
    )
    told = "; ".join(
        f"{sweep.workload.title}: {_told(recipe)}"
        for sweep, recipe in zip(sweeps, recipes, strict=True)
    )
    return (
        f"Data: {data.name}, {sizes} images. {told}.",
        "Published for the ResNet: learning rate 0.1, a tenth from 50% and a hundredth from 75% on "
        "(halves), weight decay 5e-4, 200 epochs. Momentum, batch size and the setting of the ViT "
        "were chosen here.",
        *_COMMON,
    )


def _told(recipe: Recipe) -> str:
    momentum = f", momentum {recipe.momentum:g}" if recipe.base == "sgd" else ""
    return (
        f"{recipe.model}, {recipe.base}{momentum}, learning rate {recipe.lr:g} "
        f"({recipe.schedule}), weight decay {recipe.weight_decay:g}, batches of "
        f"{recipe.batch_size}, {recipe.epochs} epochs"
    )
