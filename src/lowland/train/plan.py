"""What a recipe amounts to on this machine: its data, its device, and the name of its run."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowland.core.errors import InputError
from lowland.core.provenance import source_hash
from lowland.data import ImageData, batch_count, load
from lowland.models import MODELS
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
        others: the data sets of `transfer_data`, normalised with the statistics of `data`.
        device: ``cpu`` or ``cuda``.
        run: name of the run: a hash of what determines it.
    """

    recipe: Recipe
    data: ImageData
    transfer: ImageData | None
    others: tuple[ImageData, ...] = ()
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
        others = tuple(data.to(self.device) for data in self.others)
        data = self.data.to(self.device)
        return dataclasses.replace(self, data=data, transfer=transfer, others=others)

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
                "transfer_data": [
                    {"name": d.name, "fingerprint": d.fingerprint} for d in self.others
                ],
            },
        }


def make_plan(recipe: Recipe) -> Plan:
    """Load the data of a recipe and name its run.

    Raises:
        InputError: the data cannot be read, or the recipe does not fit data or machine.
    """
    device = device_of(recipe.device)
    if recipe.compile:
        _check_compiler(device)
    held = recipe.held_out
    data = load(recipe.data, labels=recipe.labels, limit=recipe.limit, held_out=held)
    transfer = None
    if recipe.transfer_labels is not None:
        transfer = load(recipe.data, labels=recipe.transfer_labels, held_out=held)
    others = tuple(load(name, held_out=held) for name in recipe.transfer_data)
    _check_neighbors(recipe, data, transfer, others)
    parts = (data, transfer, *others)
    fingerprints = [part.fingerprint for part in parts if part is not None]
    run = run_id(recipe, fingerprints=fingerprints, device=device)
    plan = Plan(recipe=recipe, data=data, transfer=transfer, others=others, device=device, run=run)
    _ = plan.steps  # a batch larger than the data is refused before anything is written
    return plan


def run_id(recipe: Recipe, *, fingerprints: Sequence[str], device: str) -> str:
    """Hash of what determines a run: recipe, data, device, lowland's code, and torch's version.

    Where the data lies is left out: its fingerprint says what it is.
    """
    kinds = [name.partition(":")[0] for name in (recipe.data, *recipe.transfer_data)]
    places = {"data": kinds[0], "transfer_data": kinds[1:]}
    facts = {
        "recipe": {**recipe.to_dict(), **places, "device": device},
        "data": list(fingerprints),
        "code": source_hash(DETERMINES),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _check_neighbors(
    recipe: Recipe, data: ImageData, transfer: ImageData | None, others: Sequence[ImageData]
) -> None:
    """Evaluations would fail, the last one after all the training."""
    images = {
        f"rank_examples={recipe.rank_examples} training images": recipe.rank_examples,
        f"{len(data.train)} training images": len(data.train),
    }
    if transfer is not None:
        images[f"{len(transfer.train)} training images of transfer_labels"] = len(transfer.train)
    for other in others:
        images[f"{len(other.train)} training images of {other.name}"] = len(other.train)
        _check_shape(recipe, data, other)
    for words, number in images.items():
        if number < NEIGHBORS:
            raise InputError(
                f"{words} are too few: evaluations look for nearest neighbours among them, and "
                f"need {NEIGHBORS}"
            )


def _check_shape(recipe: Recipe, data: ImageData, other: ImageData) -> None:
    if other.shape == data.shape:
        return
    mine, its = ("x".join(map(str, part.shape)) for part in (data, other))
    if other.shape[0] != data.shape[0] or MODELS[recipe.model].one_size:
        raise InputError(
            f"transfer_data: images of {other.name} are {its}, those trained on {mine}, and "
            f"{recipe.model} trained on these cannot look at those: use other data or another model"
        )


def _check_compiler(device: str) -> None:
    """Whether `torch.compile` finds what it makes kernels with, before a run has a directory.

    Raises:
        InputError: it does not.
    """
    if device == "cuda":
        found, needs = importlib.util.find_spec("triton") is not None, "Triton (pip install triton)"
    else:
        compilers = [os.environ.get("CXX") or "g++", "g++", "clang++"]
        found, needs = any(map(shutil.which, compilers)), "a C++ compiler (g++)"
    if not found:
        raise InputError(f"compile=true on {device} needs {needs}: install it, or leave it out")


def device_of(name: str) -> str:
    """``cpu`` or ``cuda``, from a recipe's word for it.

    Raises:
        InputError: there is no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device cuda is not there: use device=cpu or device=auto")
    return ("cuda" if available else "cpu") if name == "auto" else name
