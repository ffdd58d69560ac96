"""One run for every public checkpoint that the user has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowland.core.errors import InputError
from lowland.studies.checkpoints.claims import claims
from lowland.studies.checkpoints.columns import INVENTORY, PLACE
from lowland.studies.checkpoints.published import ARCHITECTURES, EXAMPLES
from lowland.studies.checkpoints.sheets import tables
from lowland.studies.checkpoints.sources import Asked, asked, stamp
from lowland.studies.study import Choice, Plan, Planned

if TYPE_CHECKING:
    from lowland.data import Examples
    from lowland.train import Experiment

NO_DATA = "none"
"""The data of a study that measures nothing, and prints what was published."""

_SIZES: Mapping[str, Mapping[str, int]] = {
    "smoke": {"examples": 64, "batch_size": 16, "threads": 1},
    "default": {"examples": 1280, "batch_size": 16, "threads": 1},
    "paper": {"examples": EXAMPLES, "batch_size": 64, "threads": 1},
}


def plan(choice: Choice) -> Plan:
    """Lay out a run for every checkpoint, and one that counts them.

    Raises:
        InputError: settings that are none of the study's, a missing folder, checkpoints without
            images, or images that cannot be opened.
    """
    what = asked(choice.overrides, _SIZES[choice.size])
    images = None if choice.data == NO_DATA else _opened(choice.data)
    if what.checkpoints and images is None:
        raise InputError("checkpoints are measured on images: give --data imagefolder:PATH")
    used = 0 if images is None else min(images.n, what.numbers["examples"])
    pictures = "" if images is None else _fingerprint(images)
    runs = [Planned(group=INVENTORY, recipe=_inventory(len(what.checkpoints), used))]
    for (training, place), checkpoint in sorted(what.checkpoints.items()):
        recipe = _ranks(choice, what, place, training, checkpoint, pictures)
        runs.append(Planned(group=training, recipe=recipe))
    return Plan(
        runs=tuple(runs),
        claims=claims(),
        panels=(),
        fingerprint=pictures,
        notes=_notes(what, images, used),
        tables=tables,
    )


def _opened(data: str) -> Examples:
    from lowland.data import open_examples

    return open_examples(data)


def _fingerprint(images: Examples) -> str:
    return hashlib.sha256(json.dumps(images.to_dict(), sort_keys=True).encode()).hexdigest()


def _inventory(checkpoints: int, images: int) -> Experiment:
    from lowland.train import Experiment

    return Experiment(
        function="lowland.studies.checkpoints.readings:inventory",
        settings={"checkpoints": checkpoints, "images": images},
    )


def _ranks(
    choice: Choice, what: Asked, place: int, training: str, checkpoint: str, pictures: str
) -> Experiment:
    from lowland.train import Experiment

    seen = stamp(checkpoint)
    return Experiment(
        function="lowland.studies.checkpoints.readings:ranks",
        settings={
            "checkpoint": checkpoint,
            "stamp": seen,
            "data": choice.data,
            "pictures": pictures,
            "examples": what.numbers["examples"],
            "batch_size": what.numbers["batch_size"],
        },
        method=training,
        rho=PLACE,
        seed=place,
        threads=what.numbers["threads"],
        device=what.device,
        files=(*((checkpoint,) if seen else ()), *_places(choice.data)),
    )


def _places(data: str) -> tuple[str, ...]:
    place = data.partition(":")[2]
    return (place,) if place else ()


def _notes(what: Asked, images: Examples | None, used: int) -> tuple[str, ...]:
    numbered = ", ".join(f"{i} is {a.name}" for i, a in enumerate(ARCHITECTURES))
    if images is None:
        where = (
            "Nothing was measured: give the public checkpoints and images, by "
            "--set checkpoints=FOLDER and --data imagefolder:PATH."
        )
    else:
        where = (
            f"Images: the first {used} of {images.n} of {images.name} ({images.order}); the "
            f"published ranks are of {EXAMPLES} of ImageNet's train images. Ranks grow with the "
            "number of images, so that other numbers are not comparable with the published ones."
        )
    missing = len(ARCHITECTURES) * 2 - len(what.checkpoints)
    return (
        where,
        f"{len(what.checkpoints)} of the ten checkpoints are there; {missing} are missing.",
        "The pairs are not matched: the standard ViTs were trained on ImageNet-21k and fine-tuned "
        "on ImageNet-1k at 384 pixels, those with SAM on ImageNet-1k alone at 224. Both Mixers "
        "were trained on ImageNet-1k. So a difference between the ViTs of a pair is not SAM's "
        "alone.",
        f"A seed is an architecture here ({numbered}): there is one public network of each kind, "
        "and intervals are over architectures. ρ, seeds and method are those of their authors; "
        "--rho, --seeds, --seed and --method change nothing.",
        "The rank is the number of principal components that hold 99% of the variance. The "
        "published convention subtracts each image's own mean over features, in float32.",
    )
