"""What is read off a network that a recipe trained on annotated data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowland.core.selection import output_layer
from lowland.data import decorrelated
from lowland.data.dominoes import MADE
from lowland.measure import capture
from lowland.measure.evaluation import Batches
from lowland.studies.balance import columns
from lowland.studies.balance.evaluation import probe_columns, sharpness_of, worst_groups
from lowland.studies.balance.examples import EASY, HARD, feature_names
from lowland.studies.balance.probing import Probed
from lowland.train.evaluate import Inputs, first

if TYPE_CHECKING:
    from lowland.data import Split
    from lowland.train import Row
    from lowland.train.reading import Trained

SHARPNESS_EXAMPLES = 2048


def read(trained: Trained) -> Row:
    """Probing errors of both features, worst-group errors and λ_max at the end of training.

    All errors are means over groups, or the worst of them: in data that were found groups are not
    equally often. The oracle looks at dominoes made anew of the halves of the validation images;
    in data that were found at the worst group of the validation images, and at no probe, since
    probes are fitted to those images.
    """
    data = trained.data
    made = data.source.get("made") == MADE
    splits = {
        "fitted": decorrelated(data),
        "test": data.test,
        "oracle": decorrelated(dataclasses.replace(data, train=data.validation))
        if made
        else data.validation,
    }
    seen = {name: _look(trained, split) for name, split in splits.items()}
    parts = {name: probed for name, (probed, _) in seen.items()}
    oracle = parts["oracle"] if made else None
    row = probe_columns(parts["fitted"], parts["test"], oracle, end=True, dfr=True, equally=True)
    for name, column in (("test", columns.WORST), ("oracle", columns.ORACLE_WORST)):
        probed, wrong = seen[name]
        row[column] = float(worst_groups(wrong[None], probed.groups))
    known = Inputs(data, first(data.train, SHARPNESS_EXAMPLES), _dtype(trained.module), 256)
    row[columns.SHARPNESS] = sharpness_of(trained.module, known)
    return row


def _look(trained: Trained, split: Split) -> tuple[Probed, Tensor]:
    """Penultimate features with what the images show, and which of them are misclassified."""
    module, data = trained.module, trained.data
    inputs = Inputs(data, split, _dtype(module))
    features = _penultimate(module, inputs)
    with torch.no_grad():
        guessed = torch.cat([module(x).argmax(-1) for x, _ in inputs])
    notes = {
        feature: split.annotations[name].cpu() for feature, name in feature_names(data).items()
    }
    groups = notes[HARD] * (int(notes[EASY].max()) + 1) + notes[EASY]
    return Probed(features, notes, groups), (guessed != split.labels).cpu()


def _penultimate(module: nn.Module, inputs: Batches) -> Tensor:
    """What the output layer is given."""
    head = output_layer(module, None)
    name = next(name for name, child in module.named_modules() if child is head)
    return capture(module, inputs, name, where="input")[name].float()


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
