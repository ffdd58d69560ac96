"""What the image-text studies train at each size and in each setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowland.studies.contrastive.columns import VARIANCES, Measured
from lowland.studies.recipes import base_of, keys
from lowland.studies.study import Choice

if TYPE_CHECKING:
    from lowland.data import Pairs
    from lowland.train import ContrastiveRecipe

SETTINGS = {
    "corrected": "Adam with its state, the encoders' own pixels and tokens, padding left out",
    "published": "as released: Adam without state, pixels in [0, 1], mean over padding too, b'...'",
}

SIZES_OF_TRAINING: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "image": "mlp",
        "image_options": {"width": 16},
        "text_options": {"width": 16, "depth": 1, "heads": 2},
        "pretraining": 5,
        "pool": "mean",
        "dimension": 16,
        "limit": 128,
        "batch_size": 32,
        "lr": 4e-3,
        "epochs": 4,
        "evaluations": 2,
    },
    "default": {
        "image": "mlp",
        "image_options": {"width": 128},
        "text_options": {"width": 48, "depth": 1, "heads": 2},
        "pretraining": 300,
        "pool": "mean",
        "dimension": 64,
        "lr": 4e-3,
        "epochs": 40,
        "evaluations": 10,
    },
    "paper": {
        "image": "timm:vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k",
        "size": 384,
        "text": "hf:bert-base-cased",
        "dimension": 768,
        "lr": 1e-4,
        "epochs": 25,
        "evaluations": 50,
        "threads": 8,
    },
}

_PUBLISHED = {
    "base": "published-adam",
    "schedule": "constant",
    "pixels": "unit",
    "pool": "positions",
    "captions": "published",
}

FIXED = ("freeze_text", "bottleneck", "centers", "variances")


def recipe_of(choice: Choice, *, overrides: Sequence[str] | None = None) -> ContrastiveRecipe:
    """What all runs have in common: the size's and the setting's values with the caller's changes.

    An encoder that the caller names comes without the options of the one that it replaces.

    Args:
        choice: what the caller chose.
        overrides: the changes, if not all of the choice's.

    Raises:
        InputError: unknown names or unusable values.
    """
    from lowland.train import ContrastiveRecipe

    values = dict(SIZES_OF_TRAINING[choice.size])
    asked = keys(choice)
    if "image" in asked:
        values.pop("image_options", None)
    if any(override.replace(" ", "").startswith("text=hf:") for override in choice.overrides):
        for name in ("text_options", "pretraining"):
            values.pop(name, None)
    if choice.setting == "published":
        values |= _PUBLISHED
    values["variances"] = VARIANCES
    return base_of(ContrastiveRecipe, choice, values, fixed=FIXED, overrides=overrides)


def pairs_of(recipe: ContrastiveRecipe) -> Pairs:
    """The data of a recipe.

    Raises:
        InputError: they cannot be read, or are fewer than a batch.
    """
    from lowland.train.contrastive.plan import make_plan

    return make_plan(recipe).data


def measured(recipe: ContrastiveRecipe, data: Pairs) -> Measured:
    """What is measured on these data."""
    size = recipe.batch_size
    ranked = min(len(data.train), len(data.test), recipe.rank_examples)
    return Measured(batch=size, queries=len(data.test) // size * size, ranked=ranked)


def notes(choice: Choice, recipe: ContrastiveRecipe, data: Pairs) -> tuple[str, ...]:
    """Sentences that a reader of the report needs."""
    what = measured(recipe, data)
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    found = [
        f"Data: {data.name}, {sizes} pairs; one fixed split for all seeds, so intervals speak "
        "about the randomness of training, not about the choice of images.",
        f"Encoders: {recipe.image} and {recipe.text}, pool {recipe.pool}; {recipe.dimension} "
        f"dimensions, T = {recipe.temperature:g}, batches of {recipe.batch_size}, {recipe.base} "
        f"at {recipe.lr:g} ({recipe.schedule}).",
        f"Retrieval errors are inside batches of {what.batch}, {what.queries} test pairs; beside "
        f"them among all. Every rank is that of {what.ranked} pairs, first captions, about the "
        "mean; the published convention leaves most of the mean in.",
        f"ρ = 0 is the base optimizer alone; every other ρ is {choice.method}.",
    ]
    if repeated := _repeated_words(data, what.batch):
        found.append(repeated)
    if data.name == "digits-captions":
        found.append(
            "The captions are defined data: made by templates from label and pixels, not written "
            "by people."
        )
    if recipe.pretraining:
        found.append(
            f"The text encoder has first guessed masked words of the training captions in "
            f"{recipe.pretraining} updates; all runs start from that one encoder."
        )
    return tuple(found)


def _repeated_words(data: Pairs, batch: int) -> str:
    """How many test texts no encoder can tell apart; nothing where all differ."""
    texts = [of_image[0] for of_image in data.test.captions]
    whole = len(texts) // batch * batch
    parts = [texts[i : i + batch] for i in range(0, whole, batch)]
    inside, anywhere = sum(map(repeated, parts)), repeated(texts)
    if not anywhere:
        return ""
    return (
        f"Of {whole} test texts in whole batches {inside} stand with another image of their batch "
        f"too, of all {len(texts)} {anywhere} with another image: nothing can tell these apart. In "
        "training, images with one text in a batch count against each other likewise."
    )


def repeated(texts: Sequence[str]) -> int:
    """How many of the texts are there more than once.

    >>> repeated(["a", "b", "a", "a"])
    3
    """
    return sum(count for count in Counter(texts).values() if count > 1)
