"""What is read off a trained network: ranks of weights, sparsity of activations, collapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from lowland.measure import active_units, capture, weight_ranks
from lowland.studies.causes import columns
from lowland.train import read_history
from lowland.train.directory import MEASURED
from lowland.train.evaluate import Inputs, first

if TYPE_CHECKING:
    from lowland.train import Row
    from lowland.train.reading import Trained


def read(trained: Trained, *, active: str, last: str) -> Row:
    """Columns as in `lowland.studies.causes.columns`.

    Args:
        trained: the trained network.
        active: the block whose activations are counted.
        last: the block whose collapse was measured during training.
    """
    before = trained.untrained()
    row: Row = {
        columns.WEIGHT_RANK: weight_ranks(trained.module).value,
        columns.START_WEIGHT_RANK: weight_ranks(before).value,
        columns.POSITIVE: _positive(trained, trained.module, active),
        columns.START_POSITIVE: _positive(trained, before, active),
    }
    name = f"collapse/{last}"
    found = read_history(trained.folder / MEASURED)
    values = [each.get(name) for each in found]
    for place, time in enumerate(columns.TIMES):
        at = {0: 0, 1: len(values) // 4, 2: len(values) // 2}.get(place, len(values) - 1)
        row[columns.collapse_column(time)] = values[at]
    return row


def _positive(trained: Trained, module: nn.Module, block: str) -> float:
    """Share of pairs of image and unit above 5% of the largest activation."""
    split = first(trained.data.train, trained.recipe.rank_examples)
    inputs = Inputs(trained.data, split, next(module.parameters()).dtype)
    return active_units(capture(module, inputs, block)[block]).mean_fraction
