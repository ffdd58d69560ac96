"""What a contrastive recipe amounts to on this machine: its data, its device, its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.provenance import source_hash
from lowland.data import Pairs, batch_count, load_pairs
from lowland.train.contrastive.contents import contents
from lowland.train.contrastive.recipe import ContrastiveRecipe
from lowland.train.job import Work
from lowland.train.plan import DETERMINES, device_of


@dataclass(frozen=True, eq=False, kw_only=True)
class ContrastivePlan:
    """A contrastive recipe with everything looked up that it names.

    Attributes:
        recipe: what is asked.
        data: what is trained and tested on.
        device: ``cpu`` or ``cuda``.
        run: name of the run: a hash of what determines it.
    """

    recipe: ContrastiveRecipe
    data: Pairs
    device: str
    run: str

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training pairs."""
        size = self.recipe.batch_size
        return batch_count(len(self.data.train), batch_size=size, drop_last=True)

    @property
    def steps(self) -> int:
        """Updates in the whole run."""
        return self.steps_per_epoch * self.recipe.epochs

    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds from the start."""
        data = self.data
        return {
            "run": self.run,
            "recipe": self.recipe.to_dict(),
            "kind": "contrastive",
            "optimizer": self.recipe.optimizer,
            "device": self.device,
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "data": {
                "name": data.name,
                "shape": list(data.shape),
                "mean": list(data.mean),
                "std": list(data.std),
                "fingerprint": data.fingerprint,
                "source": data.source,
            },
        }

    def start(self) -> Work:
        """Put the data on the device and build what trains and measures there."""
        from lowland.train.contrastive.work import start

        return start(self)


def make_plan(recipe: ContrastiveRecipe) -> ContrastivePlan:
    """Load the data of a recipe and name its run.

    Raises:
        InputError: the data cannot be read, or the recipe does not fit data or machine.
    """
    device = device_of(recipe.device)
    data = load_pairs(
        recipe.data,
        image_column=recipe.image_column,
        caption_column=recipe.caption_column,
        size=recipe.size,
        limit=recipe.limit,
    )
    plan = ContrastivePlan(recipe=recipe, data=data, device=device, run=_name(recipe, data, device))
    _ = plan.steps  # a batch larger than the data is refused before anything is written
    for name, split in data.splits.items():
        if len(split) < recipe.batch_size:
            raise InputError(
                f"{data.name} has {len(split)} {name} pairs, and retrieval is measured in batches "
                f"of {recipe.batch_size}: use batch_size={max(len(split), 2)} or less"
            )
    return plan


def check_recipe(recipe: ContrastiveRecipe) -> None:
    """Read the data, and build towers and optimizer, on the CPU; nothing is written.

    Raises:
        InputError: what a run of this recipe would end with before its first update. That its
            device is there is not looked at: runs may be for other machines.
    """
    from lowland.train.contrastive.trainer import PairTrainer
    from lowland.train.contrastive.work import build

    plan = make_plan(dataclasses.replace(recipe, device="cpu"))
    tower, towers, _ = build(plan, trial=True)
    PairTrainer(plan, towers, tower)


def _name(recipe: ContrastiveRecipe, data: Pairs, device: str) -> str:
    """Hash of what determines a run; where data and encoders lie is left out for what they are."""
    named = {"data": recipe.data.partition(":")[0], "device": device, **contents(recipe)}
    facts = {
        "kind": "contrastive",
        "recipe": {**recipe.to_dict(), **named},
        "data": data.fingerprint,
        "code": source_hash(DETERMINES),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
