"""Networks from files: weights with a constructor, NumPy checkpoints, and run directories."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowland.core.errors import InputError
from lowland.data import Examples, Preprocessing, load, of_data
from lowland.data.arrays import read_npz
from lowland.data.examples import LARGEST
from lowland.inspection.constructors import construct
from lowland.inspection.subject import (
    How,
    Subject,
    default_blocks,
    stands_for_all,
)
from lowland.inspection.weights import fill, read_weights, sha256
from lowland.models import create, from_arrays


def open_weights(name: str, path: Path, how: How) -> Subject:
    """The network that `how` names, with the weights of a file.

    Raises:
        InputError: nobody says what network it is, or the weights do not fit it.
    """
    weights, notes = read_weights(path)
    if how.model is not None and how.model.startswith("timm:"):
        from lowland.inspection.timm_models import open_timm

        subject = open_timm(name, how.model, pretrained=False)
        fill(subject.module, weights, path)
        facts = {**subject.facts, "sha256": {path.name: sha256(path)}}
        return dataclasses.replace(subject, facts=facts, notes=(*notes, *subject.notes))
    module, facts = _network(weights, path, how)
    fill(module, weights, path)
    return Subject(
        name=name,
        kind="file of weights",
        module=module.eval(),
        blocks=default_blocks(module),
        tokens=stands_for_all(module),
        facts={"sha256": {path.name: sha256(path)}, **facts},
        notes=notes,
    )


def _network(weights: Mapping[str, Tensor], path: Path, how: How) -> tuple[nn.Module, Any]:
    if how.constructor is not None and how.model is not None:
        raise InputError(
            f"--constructor {how.constructor} and --model {how.model}: leave one of the two out"
        )
    if how.constructor is not None and how.width is not None:
        raise InputError(
            f"--width {how.width} is of --model: give it to the constructor by --argument KEY=VALUE"
        )
    if how.constructor is not None:
        facts = {"constructor": how.constructor, "arguments": {**how.arguments}}
        return construct(how.constructor, how.arguments), facts
    if how.model is None:
        raise InputError(
            f"{path} holds weights alone: say what network they are of, by --constructor "
            "package.module:function or --model NAME (lowland's own, or timm:NAME)"
        )
    heads = [value for name, value in weights.items() if name.endswith("head.weight")]
    if not heads:
        raise InputError(f"{path} has no head.weight, so it is of no network of lowland")
    if how.shape is None and how.size is None:
        raise InputError(f"--model {how.model} is built to fit its images: give --size or --data")
    stems = [v for v in weights.values() if v.ndim == 4]
    shape = how.shape() if how.shape is not None else None
    channels = stems[0].shape[1] if stems else (shape or (3, 0, 0))[0]
    height, width = how.size if how.size is not None else (shape or (0, 0, 0))[1:]
    inputs, classes = (channels, height, width), len(heads[-1])
    module = create(how.model, shape=inputs, classes=classes, width=how.width)
    return module, {"model": how.model, "shape": inputs, "classes": classes, "width": how.width}


def open_arrays(name: str, path: Path, how: How) -> Subject:
    """A ViT or Mixer from an ``.npz`` file of the ``vision_transformer`` repository.

    Images are resized to the network's size without a crop and scaled to [-1, 1], as that
    repository evaluates.
    """
    arrays, digest = read_npz(path)
    try:
        module, facts = from_arrays(arrays, size=how.size and how.size[0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    size, channels = facts["size"], facts["channels"]
    return Subject(
        name=name,
        kind=f"{facts['architecture']} checkpoint in JAX layout",
        module=module,
        blocks="block*",
        tokens=stands_for_all(module),
        preprocessing=Preprocessing(
            mean=(0.5,) * channels, std=(0.5,) * channels, size=(size, size), squash=True
        ),
        facts={"sha256": {path.name: digest}, **facts},
    )


def open_run(name: str, folder: Path) -> Subject:
    """The network at the end of a run, with its own data and its own normalisation.

    Raises:
        InputError: the run has not finished or is damaged.
    """
    from lowland.train.directory import read_record, read_weights
    from lowland.train.recipe import Recipe

    record = read_record(folder)
    if "recipe" not in record:
        raise InputError(f"{folder} is an experiment: it has no network to inspect")
    if record["status"] != "finished":
        raise InputError(f"{folder} has not finished: run it to its end first")
    recipe, data = Recipe.from_mapping(record["recipe"]), record["data"]
    channels, height, width = data["shape"]
    module = create(
        recipe.model, shape=(channels, height, width), classes=data["classes"], width=recipe.width
    )
    weights = read_weights(folder)
    module.to(next(v.dtype for v in weights.values() if v.is_floating_point()))
    fill(module, weights, folder / "weights.safetensors")

    def opened(split: str | None) -> Examples:
        found = load(recipe.data, labels=recipe.labels, limit=recipe.limit)
        if found.fingerprint != data["fingerprint"]:
            raise InputError(f"data {recipe.data} is no longer what {folder} was trained on")
        return of_data(found, split)

    return Subject(
        name=name,
        kind=f"{recipe.model}, {recipe.method}, ρ = {recipe.rho:g}, seed {recipe.seed}",
        module=module.eval(),
        blocks="block*",
        tokens=stands_for_all(module),
        preprocessing=Preprocessing(
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            size=(height, width),
            unit=LARGEST.get(recipe.data, 255.0),
        ),
        data=opened,
        facts={
            "run": record["run"],
            "recipe": record["recipe"],
            "sha256": {"weights.safetensors": sha256(folder / "weights.safetensors")},
        },
    )
