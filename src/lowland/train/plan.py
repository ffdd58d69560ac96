"""What a recipe amounts to on this machine: its data, its device, and the name of its run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.provenance import source_hash
from lowland.data import ImageData, batch_count, load
from lowland.train.job import Work
from lowland.train.recipe import Recipe

DETERMINES = ("core", "data", "measure", "models", "optim", "train")
"""The parts of lowland whose code determines a run: what it trains and what it measures."""

NEIGHBORS = 10
"""Nearest neighbours in the evaluations of a run; there must be as many training images."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """A recipe with everything looked up that it names.

    Attributes:
        recipe: what is asked.
        data: what is trained and tested on.
        transfer: the classes left out, or None; normalised with the statistics of `data`.
        device: ``cpu`` or ``cuda``.
        run: name of the run: a hash of what determines it.
    """

    recipe: Recipe
    data: ImageData
    transfer: ImageData | None
    device: str
    run: str

    @property
    def steps_per_epoch(self) -> int:
        """Updates in one pass over the training images."""
        return batch_count(len(self.data.train), batch_size=self.recipe.batch_size, drop_last=True)

    @property
    def steps(self) -> int:
        """Updates in the whole run."""
        return self.steps_per_epoch * self.recipe.epochs

    def on_device(self) -> Plan:
        """The same plan with its images where the network is."""
        transfer = self.transfer and self.transfer.to(self.device)
        return dataclasses.replace(self, data=self.data.to(self.device), transfer=transfer)

    def start(self) -> Work:
        """Put the data on the device and build what trains and measures there."""
        from lowland.train.classification import start

        return start(self)

    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds from the start."""
        data = self.data
        return {
            "run": self.run,
            "recipe": self.recipe.to_dict(),
            "optimizer": self.recipe.optimizer,
            "device": self.device,
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "data": {
                "name": data.name,
                "shape": list(data.shape),
                "classes": data.classes,
                "mean": list(data.mean),
                "std": list(data.std),
                "fingerprint": data.fingerprint,
                "source": data.source,
                "transfer_fingerprint": self.transfer and self.transfer.fingerprint,
            },
        }


def make_plan(recipe: Recipe) -> Plan:
    """Load the data of a recipe and name its run.

    Raises:
        InputError: the data cannot be read, or the recipe does not fit data or machine.
    """
    device = device_of(recipe.device)
    data = load(recipe.data, labels=recipe.labels, limit=recipe.limit)
    transfer = None
    if recipe.transfer_labels is not None:
        transfer = load(recipe.data, labels=recipe.transfer_labels)
    _check_neighbors(recipe, data, transfer)
    fingerprints = [part.fingerprint for part in (data, transfer) if part is not None]
    run = run_id(recipe, fingerprints=fingerprints, device=device)
    plan = Plan(recipe=recipe, data=data, transfer=transfer, device=device, run=run)
    _ = plan.steps  # a batch larger than the data is refused before anything is written
    return plan


def run_id(recipe: Recipe, *, fingerprints: Sequence[str], device: str) -> str:
    """Hash of what determines a run: recipe, data, device, lowland's code, and torch's version.

    Where the data lies is left out: its fingerprint says what it is.
    """
    facts = {
        "recipe": {**recipe.to_dict(), "data": recipe.data.partition(":")[0], "device": device},
        "data": list(fingerprints),
        "code": source_hash(DETERMINES),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _check_neighbors(recipe: Recipe, data: ImageData, transfer: ImageData | None) -> None:
    """The last evaluation would fail, after all the training."""
    images = {
        f"rank_examples={recipe.rank_examples} training images": recipe.rank_examples,
        f"{len(data.train)} training images": len(data.train),
    }
    if transfer is not None:
        images[f"{len(transfer.train)} training images of transfer_labels"] = len(transfer.train)
    for words, number in images.items():
        if number < NEIGHBORS:
            raise InputError(
                f"{words} are too few: evaluations look for nearest neighbours among them, and "
                f"need {NEIGHBORS}"
            )


def device_of(name: str) -> str:
    """``cpu`` or ``cuda``, from a recipe's word for it.

    Raises:
        InputError: there is no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device cuda is not there: use device=cpu or device=auto")
    return ("cuda" if available else "cpu") if name == "auto" else name
